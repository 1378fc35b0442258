"""`rmx bench model=... suite=... data=...`: a reward model, or a judge, on a public benchmark."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from rmx.data.suites import SUITES, read_suite
from rmx.errors import ConfigError, OutputError, did_you_mean
from rmx.files import write_json, write_text
from rmx.scoring.benchmark import BenchResult, judge_suite, score_suite

__all__ = ["main"]

HELP = f"""rmx bench model=MODEL suite=SUITE data=DATA [output=FOLDER] [judge=URL]

  model    a run, its model/ folder, or a hub id; with judge=, the name that the endpoint knows
  suite    {", ".join(SUITES)}
  data     the benchmark's rows: files, a folder, or a dataset of the hub; [a,b] for several
  output   folder for results.json, report.html and model-index.yaml (default: bench-SUITE-MODEL)
  judge    base URL of an OpenAI-style endpoint; its key is read from OPENAI_API_KEY
  device   such as cuda:0 (default: cuda where there is one)
"""


@dataclass(frozen=True)
class BenchJob:
    """What `rmx bench` was asked for."""

    model: str
    suite: str
    data: list[str]
    output: Path
    judge: str | None
    device: str | None


def main(argv: Sequence[str]) -> int:
    """Run a benchmark: the table on standard output, the files in `output`.

    Raises:
        ConfigError: a key is unknown, missing or wrong.
        RmxError: the data, the model or the output cannot be used.
    """
    if {"--help", "-h"} & set(argv):
        sys.stdout.write(HELP)
        return 0
    job = _read_words(argv)
    if job.output.exists() and not job.output.is_dir():
        raise OutputError(f"output: {job.output} is a file; give a new folder")
    if job.output.exists() and any(job.output.iterdir()):
        raise OutputError(f"output: {job.output} is not empty; give a new folder")
    notes: list[str] = []
    rows = read_suite(job.suite, job.data, notes)
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
        raise ConfigError(f"data: none of the {len(rows)} rows of {', '.join(job.data)} has a winner")
    result.counts.update(counts)
    for note in notes:
        sys.stderr.write(f"rmx: {note}\n")
    _write(job, result)
    sys.stdout.write(table(result))
    sys.stdout.write(f"\n{job.output / 'report.html'}\n")
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
        lines.append(f"{f'best of {n}':28} {'':6} {mean:8.4f}   {low:.4f} to {high:.4f}")
    lines += [
        f"{name.replace('_', ' ')}: {count:,}" for name, count in result.counts.items() if name != "rows" and count
    ]
    return "\n".join(lines) + "\n"


def _write(job: BenchJob, result: BenchResult) -> None:
    from rmx.report.bench_page import model_index, write_bench_report

    try:
        job.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"output: {job.output} cannot be written: {error.strerror or error}") from None
    about = {"model": job.model, "suite": job.suite, "data": job.data, "judge": job.judge}
    write_json(job.output / "results.json", about | result.as_json())
    index = model_index(job.model, job.suite, job.data, result.lines)
    write_text(job.output / "model-index.yaml", yaml.safe_dump(index, sort_keys=False, allow_unicode=True))
    write_bench_report(job.output / "report.html", about, result)


def _read_words(words: Sequence[str]) -> BenchJob:
    known = [item.name for item in fields(BenchJob)]
    given: dict[str, Any] = {}
    mistakes = []
    for word in words:
        key, sign, text = word.partition("=")
        if key not in known or not sign:
            mistakes.append(f"{key}: there is no such key; {did_you_mean(key, known) or 'keys: ' + ', '.join(known)}")
        elif key in given:
            mistakes.append(f"{key}: is given twice")
        else:
            given[key] = text
    mistakes += [f"{key}: is needed; see rmx bench --help" for key in known[:3] if not given.get(key)]
    if given.get("suite") and given["suite"] not in SUITES:
        hint = did_you_mean(given["suite"], list(SUITES)) or f"allowed: {', '.join(SUITES)}"
        mistakes.append(f"suite: {given['suite']} is no suite; {hint}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    data = given["data"]
    name = given["model"].rstrip("/").removesuffix("/model").rpartition("/")[2]
    return BenchJob(
        model=given["model"],
        suite=given["suite"],
        data=[part.strip() for part in data[1:-1].split(",")]
        if data.startswith("[") and data.endswith("]")
        else [data],
        output=Path(given.get("output") or f"bench-{given['suite']}-{name}"),
        judge=given.get("judge"),
        device=given.get("device"),
    )


def _device() -> str | None:
    import torch

    return "cuda" if torch.cuda.is_available() else None
