"""Read back what a run left: `metrics.jsonl` and `generated_predictions*.jsonl`, as arrays.

A run may have been killed while it wrote, resumed, or had rows without a score: lines that are not JSON and values
that are missing are counted in `notes`, never turned into zeros.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmx.errors import DataError

__all__ = ["Curve", "Predictions", "RunRecord", "eval_sets", "read_metrics", "read_run"]

PREDICTIONS = "generated_predictions"
# Any of these makes a folder that of a run, also when it has no numbers yet (phases=[audit], killed at once).
MARKS = ("run.yaml", "environment.json", "audit.json")


@dataclass(frozen=True)
class Curve:
    """One metric over the steps of a run; missing values are NaN."""

    key: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def drawable(self) -> bool:
        """Whether there is anything to draw."""
        return bool(np.isfinite(self.values).any())


@dataclass(frozen=True)
class Predictions:
    """The scored pairs of one evaluation set, in file order; all columns have the same length."""

    name: str
    ids: list[str]  # unique: of K > 2 responses with the pair, as "id [winner>loser]"
    source: list[str]
    chosen: NDArray[np.float64]
    rejected: NDArray[np.float64]
    chosen_tokens: NDArray[np.float64]  # NaN where the file does not say
    rejected_tokens: NDArray[np.float64]
    tie: NDArray[np.bool_]  # the annotators saw no winner (`labelled_tie`; the rows' `tie` is only equal rewards)
    truncated: int  # rows of which a part was cut away
    unscored: int  # rows left out because a score is missing or not finite
    truth_chosen: NDArray[np.float64] | None = None
    truth_rejected: NDArray[np.float64] | None = None

    @property
    def margin(self) -> NDArray[np.float64]:
        """Chosen minus rejected reward of the pairs that have a winner."""
        return (self.chosen - self.rejected)[~self.tie]

    @property
    def has_tokens(self) -> bool:
        """Whether every row knows its token counts."""
        return bool(len(self.ids) and np.isfinite(self.chosen_tokens + self.rejected_tokens).all())


@dataclass(frozen=True)
class RunRecord:
    """All that is drawn or reported of one run folder."""

    folder: Path
    rows: list[dict[str, Any]]  # metrics.jsonl
    predictions: dict[str, Predictions]  # by evaluation set; "eval" is generated_predictions.jsonl
    notes: list[str] = field(default_factory=list)

    def curve(self, key: str) -> Curve:
        """The values of one metric by step; where a step was logged twice (a resumed run), the later one holds."""
        points: dict[float, float] = {}
        for row in self.rows:
            if key in row:
                step = _number(row.get("step"))
                if math.isfinite(step):
                    points[step] = _number(row[key])
        steps = sorted(points)
        return Curve(key, np.array(steps, dtype=np.float64), np.array([points[step] for step in steps]))


def read_run(folder: Path | str) -> RunRecord:
    """Read a run folder.

    Raises:
        DataError: the folder does not exist, or is not that of a run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the output folder of a run")
    notes: list[str] = []
    rows = read_metrics(folder, notes).rows
    predictions = {}
    for path in sorted(folder.glob(f"{PREDICTIONS}*.jsonl")):
        name = path.stem[len(PREDICTIONS) :].lstrip("_") or "eval"
        predictions[name] = _predictions(name, _lines(path, notes), notes)
    if not rows and not predictions and not any((folder / mark).is_file() for mark in MARKS):
        raise DataError(
            f"{folder}: not the output folder of a run: it has neither metrics.jsonl nor {PREDICTIONS}.jsonl "
            f"nor any of {', '.join(MARKS)}"
        )
    return RunRecord(folder, rows, predictions, notes)


def read_metrics(folder: Path, notes: list[str] | None = None) -> RunRecord:
    """Read only the metrics of a run folder; a run that logged nothing yet has no rows."""
    notes = [] if notes is None else notes
    path = folder / "metrics.jsonl"
    return RunRecord(folder, list(_lines(path, notes)) if path.is_file() else [], {}, notes)


def eval_sets(record: RunRecord) -> list[str]:
    """Names of the evaluation sets in the metrics: "eval" for keys `eval/...`, else NAME of `eval_NAME/...`."""
    prefixes = {key.partition("/")[0] for row in record.rows for key in row if "/" in key}
    names = {prefix.removeprefix("eval_") for prefix in prefixes if prefix == "eval" or prefix.startswith("eval_")}
    return sorted(names, key=lambda name: (name != "eval", name))


def _lines(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file; what is none is counted in a note (a killed run leaves a torn last line)."""
    bad = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if isinstance(row, dict):
                yield row
            elif line.strip():
                bad.append(number)
    if bad:
        notes.append(f"{path.name}: unreadable lines left out: {len(bad)}, the first is line {bad[0]}")


def _predictions(name: str, rows: Iterator[dict[str, Any]], notes: list[str]) -> Predictions:
    kept, unscored = [], 0
    for row in rows:
        if math.isfinite(_number(row.get("chosen"))) and math.isfinite(_number(row.get("rejected"))):
            kept.append(row)
        else:
            unscored += 1
    if unscored:
        notes.append(f"{name}: rows without a finite score left out: {unscored}")
    truth_chosen, truth_rejected = _floats(kept, "truth_chosen"), _floats(kept, "truth_rejected")
    known = bool(kept) and bool(np.isfinite(truth_chosen + truth_rejected).all())
    return Predictions(
        name=name,
        ids=[_identity(row, number) for number, row in enumerate(kept)],
        source=[str(row.get("source", "")) for row in kept],
        chosen=_floats(kept, "chosen"),
        rejected=_floats(kept, "rejected"),
        chosen_tokens=_floats(kept, "chosen_tokens"),
        rejected_tokens=_floats(kept, "rejected_tokens"),
        tie=np.array([row.get("labelled_tie") is True for row in kept], dtype=bool),
        truncated=sum(row.get("truncated") is True for row in kept),
        unscored=unscored,
        truth_chosen=truth_chosen if known else None,
        truth_rejected=truth_rejected if known else None,
    )


def _identity(row: dict[str, Any], number: int) -> str:
    name, pair = str(row.get("id", number)), row.get("pair")
    return f"{name} [{pair[0]}>{pair[1]}]" if isinstance(pair, list) and len(pair) == 2 else name


def _floats(rows: list[dict[str, Any]], key: str) -> NDArray[np.float64]:
    return np.array([_number(row.get(key)) for row in rows], dtype=np.float64)


def _number(value: object) -> float:
    """A JSON number as float; null, text and the like as NaN."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return math.nan
