"""metrics.jsonl, the one source of a run's numbers: appended as they come, cut back on resume, read as it grows.

A run may have been killed while it wrote, or resumed: lines that are not JSON are counted in notes, and null (which
stands for NaN and infinity) is read as NaN, never as zero.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmx.files import write_text, writing

__all__ = ["Curve", "MetricsFile", "MetricsTail", "curve", "eval_sets", "float_or_nan", "json_lines", "last_values"]


class MetricsFile:
    """Appends one JSON object per log; NaN and infinity become null, so that every line is valid JSON."""

    name = "jsonl"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened = path.stat().st_size if path.exists() else 0  # bytes; what follows was logged by this object

    def log(self, step: int, epoch: float | None, values: Mapping[str, float]) -> None:
        """Append a line: step, epoch, unix time, phase and the values."""
        phase = next(iter(values)).split("/")[0] if values else "train"
        row: dict[str, Any] = {"step": step, "epoch": epoch, "time": round(time.time(), 3), "phase": phase}
        row |= {key: value if math.isfinite(value) else None for key, value in values.items()}
        # Closed each time: whole lines, whatever happens next.
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def summary(self, values: Mapping[str, Any], plots: Sequence[Path]) -> None:
        """Do nothing: the summary has files of its own."""

    def position(self) -> int:
        """Return the file's size in bytes, all of them on the disk."""
        with writing(self.path), self.path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def rewind(self, position: int) -> None:
        """Cut off what earlier processes logged after `position`; at any time the file is whole, with or without it.

        What this one has logged already (an evaluation before training) stays.
        """
        if not self.path.exists():
            return
        content, kept = self.path.read_bytes(), min(position, self._opened)
        write_text(self.path, (content[:kept] + content[self._opened :]).decode("utf-8", errors="replace"))
        self._opened = kept

    def close(self, exit_code: int) -> None:
        """Do nothing: every line is on its way to the disk already."""


class MetricsTail:
    """Gives the rows that were added since the last look; a line without its end waits for the next look.

    A file that was replaced or became shorter (a resume cuts it back) is read again from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.inode = 0

    def rows(self) -> list[dict[str, Any]]:
        """Return the new complete rows."""
        try:
            with self.path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self.inode or file.seek(0, 2) < self.offset:
                    self.offset, self.inode = 0, inode
                file.seek(self.offset)
                data = file.read()
        except OSError:  # not there yet, or a network file system's hiccup: the next look tells
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self.offset += len(complete)
        rows = []
        for line in complete.splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # torn by a kill in the middle of a write, then continued by the resumed job
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows


def last_values(path: Path) -> dict[str, float]:
    """Return the last value of every key of a metrics.jsonl, and `step`; empty without the file."""
    values: dict[str, float] = {}
    for row in MetricsTail(path).rows():
        values |= {key: float_or_nan(value) for key, value in row.items() if key not in ("phase", "time")}
    return values


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


def curve(rows: Sequence[Mapping[str, Any]], key: str) -> Curve:
    """The values of one metric by step; where a step was logged twice (a resumed run), the later one holds."""
    points: dict[float, float] = {}
    for row in rows:
        if key in row:
            step = float_or_nan(row.get("step"))
            if math.isfinite(step):
                points[step] = float_or_nan(row[key])
    steps = sorted(points)
    return Curve(key, np.array(steps, dtype=np.float64), np.array([points[step] for step in steps]))


def eval_sets(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the evaluation sets in the metrics: "eval" for keys `eval/...`, else NAME of `eval_NAME/...`."""
    prefixes = {key.partition("/")[0] for row in rows for key in row if "/" in key}
    names = {prefix.removeprefix("eval_") for prefix in prefixes if prefix == "eval" or prefix.startswith("eval_")}
    return sorted(names, key=lambda name: (name != "eval", name))


def json_lines(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
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


def float_or_nan(value: object) -> float:
    """A JSON number as float; null, text and the like as NaN.

    >>> float_or_nan(2), float_or_nan(None), float_or_nan(True)
    (2.0, nan, nan)
    """
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
