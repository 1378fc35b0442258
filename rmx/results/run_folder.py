"""What a run folder holds: its numbers by step, its scored pairs, and its JSON files, read once for all."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmx.errors import DataError
from rmx.results.metrics import Curve, curve, json_lines
from rmx.results.predictions import PREDICTIONS, Predictions, read_predictions

__all__ = ["RunRecord", "read_metrics", "read_object", "read_run"]

# Any of these makes a folder that of a run, also when it has no numbers yet (phases=[audit], killed at once).
MARKS = ("run.yaml", "environment.json", "audit.json")


@dataclass(frozen=True)
class RunRecord:
    """All that is drawn or reported of one run folder."""

    folder: Path
    rows: list[dict[str, Any]]  # metrics.jsonl
    predictions: dict[str, Predictions]  # by evaluation set; "eval" is generated_predictions.jsonl
    notes: list[str] = field(default_factory=list)

    def curve(self, key: str) -> Curve:
        """The values of one metric by step."""
        return curve(self.rows, key)


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
        found = read_predictions(path, notes)
        predictions[found.name] = found
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
    return RunRecord(folder, list(json_lines(path, notes)) if path.is_file() else [], {}, notes)


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when the file is missing or is none (a page must not fail on a torn file)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
