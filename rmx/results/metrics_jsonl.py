"""metrics.jsonl: the one source of a run's numbers; appended as they come, and cut back when a run is resumed."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmx.files import write_text, writing

__all__ = ["JsonlTracker"]


class JsonlTracker:
    """Appends one JSON object per log to a file; NaN and infinity become null, so that every line is valid JSON."""

    name = "jsonl"

    def __init__(self, path: Path) -> None:
        self.path = path

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
        """Cut off what was logged after `position`; at any time the file is whole, with or without it."""
        if not self.path.exists():
            return
        write_text(self.path, self.path.read_bytes()[:position].decode("utf-8", errors="replace"))

    def close(self, exit_code: int) -> None:
        """Do nothing: every line is on its way to the disk already."""
