"""Reading metrics.jsonl while its job is still writing it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

__all__ = ["MetricsTail", "last_values"]


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


def number(value: object) -> float:
    """Return a metric as a float; null, which stands for NaN and infinity in metrics.jsonl, is NaN."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def last_values(path: Path) -> dict[str, float]:
    """Return the last value of every key of a metrics.jsonl, and `step`; empty without the file."""
    values: dict[str, float] = {}
    for row in MetricsTail(path).rows():
        values |= {key: number(value) for key, value in row.items() if key not in ("phase", "time")}
    return values
