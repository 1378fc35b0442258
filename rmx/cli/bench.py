"""`rmx bench model=... suite=... data=...`: a reward model, or a judge, on a public benchmark."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import yaml
from annotated_types import MinLen

from rmx.cli.words import from_words, verb_help
from rmx.data.suites import OWN_ROWS, Suite, read_suite
from rmx.errors import ConfigError, ModelError, OutputError
from rmx.files import write_json, write_text
from rmx.models import add_results, card_of, is_ours
from rmx.scoring.benchmark import CORRECTNESS, BenchResult, judge_suite, score_suite
from rmx.scoring.judges import NotEmpty
from rmx.values import refuse_wrong_fields

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

__all__ = ["main"]

_MEANING = "Put a reward model, or a judge behind an endpoint, on a public benchmark: a table with intervals."


@dataclass(frozen=True, kw_only=True)
class BenchJob:
    """What `rmx bench` is asked for.

    Args:
        model: a run, its model/ folder, or a hub id; with judge, the name that the endpoint knows.
        suite: rewardbench, rewardbench2, rm_bench, judgebench, ppe, pairs, or best_of_n.
        data: the benchmark's rows: files, a folder, or a dataset of the hub; [a,b] for several. For rewardbench,
            anthropic_helpful-*.parquet, anthropic_hhh-*, shp-* and summarize-* of allenai/preference-test-sets beside
            its own rows are the prior sets, with half a section's weight.
        columns: rmx's column name → the file's, for suite=pairs and best_of_n: {chosen: better, rejected: worse}.
        output: folder for results.json, report.html and model-index.yaml; by default bench-SUITE-MODEL.
        judge: base URL of an OpenAI-style endpoint; its key is read from OPENAI_API_KEY.
        card: write the results into README.md beside the model, as model-index; by default where rmx wrote the folder.
        device: such as cuda:0; by default cuda where there is one.
    """

    model: NotEmpty
    suite: Suite
    data: NotEmpty | Annotated[list[str], MinLen(1)]
    columns: dict[str, str] = field(default_factory=dict)
    output: NotEmpty | None = None
    judge: NotEmpty | None = None
    card: bool | None = None
    device: NotEmpty | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without reading anything."""
        refuse_wrong_fields(self)
        if self.columns and self.suite not in OWN_ROWS:
            raise ConfigError(
                f"columns: the rows of {self.suite} have published columns, which name themselves; a mapping is for "
                f"suite={' and suite='.join(OWN_ROWS)}"
            )
        if self.card and self.card_file is None:
            why = "with judge= there is no model folder" if self.judge else f"there is no README.md in {self.model}"
            raise ConfigError(f"card: {why}; leave card out and take {self.folder / 'model-index.yaml'}")

    @property
    def files(self) -> list[str]:
        """Where the rows are."""
        return [self.data] if isinstance(self.data, str) else list(self.data)

    @cached_property
    def card_file(self) -> Path | None:
        """The model card that gets the results; a folder that rmx did not write is changed only with card=true."""
        found = card_of(self.model) if self.judge is None and self.card is not False else None
        return found if found is not None and (self.card or is_ours(found)) else None

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path(self.output or f"bench-{self.suite}-{self.name}")

    @property
    def name(self) -> str:
        """The model's name without its place."""
        return self.model.rstrip("/").removesuffix("/model").rpartition("/")[2]


def main(argv: Sequence[str]) -> int:
    """Run a benchmark: the table on standard output, the files in `output`.

    Raises:
        ConfigError: a key is unknown, missing or wrong.
        RmxError: the data, the model or the output cannot be used.
    """
    if {"--help", "-h"} & set(argv):
        sys.stdout.write(verb_help(BenchJob, "bench", _MEANING))
        return 0
    job = from_words(BenchJob, argv, "bench")
    if job.folder.exists() and not job.folder.is_dir():
        raise OutputError(f"output: {job.folder} is a file; give a new folder")
    if job.folder.exists() and any(job.folder.iterdir()):
        raise OutputError(f"output: {job.folder} is not empty; give a new folder")
    notes: list[str] = []
    rows = read_suite(job.suite, job.files, notes, job.columns)
    counts: dict[str, int] = {}
    if job.judge is not None:
        from rmx.scoring.endpoint import EndpointJudge

        judge = EndpointJudge(job.judge, job.model, os.environ.get("OPENAI_API_KEY"))
        rewards, counts = judge.rewards(rows)
    else:
        from rmx.scoring.scorer import load

        rewards = score_suite(load(job.model, device=job.device or _device()), rows)
    result = judge_suite(job.suite, rows, rewards)
    if not result.lines:
        raise ConfigError(f"data: none of the {len(rows)} rows of {', '.join(job.files)} has a winner")
    result.counts.update(counts)
    for note in notes:
        sys.stderr.write(f"rmx: {note}\n")
    results = _write(job, result)
    sys.stdout.write(table(result))
    sys.stdout.write(f"\n{job.folder / 'report.html'}\n")
    if job.card_file is not None:
        _into_card(job, job.card_file, results)
    return 0


def table(result: BenchResult) -> str:
    """The result as text.

    >>> from rmx.scoring.benchmark import SectionScore
    >>> print(table(BenchResult("pairs", [SectionScore("overall", 4, 0.75, 0.3006, 0.9544, "overall")])), end="")
    pairs                          rows    score   95 % interval
    overall                           4   75.0 %   30.1 % to 95.4 %
    """
    lines = [f"{result.suite:28} {'rows':>6} {'score':>8}   95 % interval"]
    for line in result.lines:
        numbers = f"{100 * line.score:6.1f} %   {100 * line.low:.1f} % to {100 * line.high:.1f} %"
        lines.append(f"{('  ' if line.kind == 'subset' else '') + line.section:28.28} {line.rows:6,} {numbers}")
    for n, mean, low, high in result.curve:
        lines.append(f"{f'best of {n}':28} {'':6} {mean:8.4f}   {_interval(low, high)}")
    if result.correctness:
        lines.append(f"\n{'many responses to a prompt':36} {'prompts':>7} {'score':>8}   95 % interval")
    for one in result.correctness:
        name = f"{one.section}: {CORRECTNESS[one.metric]}"
        lines.append(f"{name:36.36} {one.prompts:7,} {one.score:8.4f}   {_interval(one.low, one.high)}")
    lines += [
        f"{name.replace('_', ' ')}: {count:,}" for name, count in result.counts.items() if name != "rows" and count
    ]
    return "\n".join(lines) + "\n"


def _interval(low: float, high: float) -> str:
    return "none: one prompt" if math.isnan(low) else f"{low:.4f} to {high:.4f}"


def _write(job: BenchJob, result: BenchResult) -> list[EvalResult]:
    from huggingface_hub.repocard_data import eval_results_to_model_index

    from rmx.report.bench_page import eval_results, write_bench_report

    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"output: {job.folder} cannot be written: {error.strerror or error}") from None
    about = {"model": job.model, "suite": job.suite, "data": job.files, "judge": job.judge}
    write_json(job.folder / "results.json", about | result.as_json())
    results = eval_results(job.suite, job.files, result, CORRECTNESS)
    index = {"model-index": eval_results_to_model_index(job.name, results)}
    write_text(job.folder / "model-index.yaml", yaml.safe_dump(index, sort_keys=False, allow_unicode=True))
    write_bench_report(job.folder / "report.html", about, result, CORRECTNESS)
    return results


def _into_card(job: BenchJob, card: Path, results: Sequence[EvalResult]) -> None:
    """Write into the card; a card that was not asked for and cannot be written costs no result."""
    try:
        add_results(card, results)
    except (ModelError, OutputError) as error:
        if job.card:
            raise
        sys.stderr.write(f"rmx: card: {error}; the results are in {job.folder / 'model-index.yaml'}\n")
    else:
        sys.stdout.write(f"{card}: results in its model-index\n")


def _device() -> str | None:
    import torch

    return "cuda" if torch.cuda.is_available() else None
