"""report.html of a benchmark: a line per section with its interval, the best-of-n curve; and what a card says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmx.data.read.kinds import hub_ids
from rmx.report.render import write_page

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

__all__ = ["eval_results", "write_bench_report"]


def write_bench_report(path: Path, about: Mapping[str, Any], result: Any, names: Mapping[str, str]) -> Path:
    """Write the page.

    Args:
        path: of the page.
        about: model, suite, data (a list), judge (an address or None).
        result: what `rmx.scoring.benchmark.judge_suite` gave: lines, curve, correctness and counts.
        names: what the metrics of `correctness` are called.

    Raises:
        OutputError: the page cannot be written.
    """
    facts = {"title": f"{about['suite']}: {about['model']}", **about, "lines": result.lines, "curve": result.curve}
    facts |= {"correctness": result.correctness, "names": names, "counts": result.counts}
    return write_page(path, "bench.html", facts)


def eval_results(suite: str, data: Sequence[str], result: Any, names: Mapping[str, str]) -> list[EvalResult]:
    """What a model card says of the result: a metric per line, and where they are there those of many responses.

    The dataset is named by its id on the hub; of local files, whose place means nothing to others, by the suite.

    >>> from types import SimpleNamespace
    >>> line = SimpleNamespace(section="overall", score=0.75)
    >>> result = SimpleNamespace(lines=[line], correctness=[], counts={"rows": 4})
    >>> (one,) = eval_results("pairs", ["/data/mine.jsonl"], result, {})
    >>> one.metric_name, one.metric_value, one.dataset_type, one.dataset_args
    ('overall', 0.75, 'pairs', {'rows': 4})
    """
    from huggingface_hub import EvalResult

    metrics = [("accuracy", line.section, line.score) for line in result.lines]
    metrics += [(one.metric, f"{one.section}: {names[one.metric]}", one.score) for one in result.correctness]
    return [
        EvalResult(
            task_type="text-classification",
            task_name="reward modelling",
            dataset_type=next(iter(hub_ids(data)), suite),
            dataset_name=suite,
            dataset_args={"rows": result.counts["rows"]},
            metric_type=kind,
            metric_name=name,
            metric_value=round(float(score), 6),
        )
        for kind, name, score in metrics
    ]
