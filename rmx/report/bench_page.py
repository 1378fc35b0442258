"""report.html of a benchmark: a line per section with its interval, the best-of-n curve, and the hub's model-index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmx.report.render import write_page

__all__ = ["model_index", "write_bench_report"]


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


def model_index(model: str, suite: str, data: Sequence[str], lines: Sequence[Any]) -> dict[str, Any]:
    """What a model card's front matter says of the result, in the hub's form: a metric per section.

    >>> from types import SimpleNamespace
    >>> line = SimpleNamespace(section="overall", score=0.75)
    >>> model_index("org/m", "pairs", ["org/d"], [line])["model-index"][0]["results"][0]["metrics"]
    [{'type': 'accuracy', 'name': 'overall', 'value': 0.75}]
    """
    metrics = [{"type": "accuracy", "name": line.section, "value": round(float(line.score), 6)} for line in lines]
    result = {
        "task": {"type": "text-classification", "name": "reward modelling"},
        "dataset": {"name": suite, "type": data[0]},
        "metrics": metrics,
    }
    return {"model-index": [{"name": model, "results": [result]}]}
