"""sweep.json: a sweep's trials and what they were asked for, as the sweep writes it and the report reads it back.

The file holds `format` (1), `name`, `command`, `version`, `updated` (unix seconds), `sampler`, `pruner`,
`pruner_metric`, `evaluation` (the set that `accuracy` is of), `objectives` [{metric, direction}], `parameters` [{name,
kind: choice|int|float, values | low, high, step, log}], `fixed` [overrides of all], `counts` {status: trials}, `winner`
(number or null), `importance` {parameter: share} or null, `stopped_because`, and `trials`, each with the fields of
`SweepRow`. Numbers that are not finite are null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rmx.errors import DataError
from rmx.results.metrics import float_or_nan

__all__ = ["FORMAT", "STATUSES", "Difference", "SweepParameter", "SweepRecord", "SweepRow", "read_sweep"]

FORMAT = 1
# waiting    chosen, not started            running   a process works on it
# finished   every objective is known       pruned    stopped early on purpose
# failed     ended with an error            killed    a signal or a stopped sweep ended it: the next start continues it
STATUSES = ("finished", "pruned", "killed", "failed", "running", "waiting")


@dataclass(frozen=True)
class Difference:
    """A trial's accuracy minus the winner's, with an interval that allows for the winner having been picked.

    `method` is "paired" where both runs left predictions of the same pairs (`rmx.metrics.compare_with_selected`, with
    its adjusted p-value), else "interval" (Newcombe's interval from the two Wilson intervals, no p-value).
    """

    method: str
    difference: float
    low: float
    high: float
    p_value: float | None
    within_noise: bool


@dataclass(frozen=True)
class SweepRow:
    """One trial: a line of the leaderboard and an entry of sweep.json's `trials`; None is what it did not reach."""

    number: int
    name: str
    rank: int | None  # 1 is the winner; None for trials without a result
    status: str
    params: dict[str, Any]
    values: dict[str, float]  # objectives, of finished trials
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    loss: float | None
    pairs_per_second: float | None
    seconds: float  # wall time of all its processes
    step: int | None
    steps: dict[int, float]  # optimizer step -> the metric that pruning watched
    pareto: bool  # no other trial is at least as good in every objective and better in one
    vs_winner: Difference | None
    folder: str  # relative to the sweep folder, as is `log`
    log: str
    exit_code: int | None
    processes: int  # above 1: it was continued after a kill
    max_rss_bytes: int | None
    reason: str
    overrides: list[str]

    def objective(self, metric: str) -> float | None:
        """The final value of a metric, where the row has it."""
        shown = {"eval/accuracy": self.accuracy, "eval/loss": self.loss}
        return self.values.get(metric, shown.get(metric))


@dataclass(frozen=True)
class SweepParameter:
    """One parameter of the search."""

    name: str
    kind: str  # "choice", "int" or "float"
    log: bool
    values: tuple[str, ...] = ()  # of a choice, as they were listed


@dataclass(frozen=True)
class SweepRecord:
    """A whole sweep."""

    folder: Path
    facts: dict[str, Any]  # the plain entries: name, command, sampler, pruner, ...
    objectives: list[tuple[str, bool]]  # metric, whether more is better
    parameters: list[SweepParameter]
    importance: dict[str, float] | None
    trials: list[SweepRow]  # ranked first, by rank; then the others

    @property
    def varying(self) -> list[SweepParameter]:
        """The parameters of which more than one value was tried; all when none varies."""
        tried = {p.name: {str(trial.params.get(p.name)) for trial in self.trials} for p in self.parameters}
        return [p for p in self.parameters if len(tried[p.name]) > 1] or self.parameters

    @property
    def winner(self) -> SweepRow | None:
        """The trial of rank 1."""
        return next((trial for trial in self.trials if trial.rank == 1), None)


def read_sweep(folder: Path | str) -> SweepRecord:
    """Read a sweep folder's sweep.json.

    Raises:
        DataError: there is none, it is not JSON, or it is not of the known format.
    """
    path = Path(folder) / "sweep.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the folder of a sweep") from error
    except ValueError as error:
        raise DataError(
            f"{path}: is not JSON ({error}); run the sweep's command again, it rewrites the file"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise DataError(f"{path}: format {found!r} is not known; this version of rmx reads format {FORMAT}")
    try:
        trials = [_row(entry) for entry in content["trials"]]
        objectives = [(str(entry["metric"]), entry["direction"] == "maximize") for entry in content["objectives"]]
        parameters = [
            SweepParameter(str(e["name"]), str(e["kind"]), bool(e.get("log")), tuple(map(str, e.get("values") or ())))
            for e in content["parameters"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: an entry is missing or malformed ({error!r}); run the sweep again") from error
    if not objectives:
        raise DataError(f"{path}: objectives is empty; a sweep has at least one")
    trials.sort(key=lambda t: (t.rank is None, t.rank or 0, STATUSES.index(t.status), t.number))
    plain = {key: value for key, value in content.items() if key not in ("trials", "parameters", "objectives")}
    return SweepRecord(Path(folder), plain, objectives, parameters, content.get("importance") or None, trials)


def _row(entry: Mapping[str, Any]) -> SweepRow:
    if entry["status"] not in STATUSES:
        raise ValueError(f"status {entry['status']!r}")
    versus = entry["vs_winner"]
    special = {
        "params": dict(entry["params"]),
        "values": _finite(entry["values"]),
        "steps": dict(sorted((int(step), value) for step, value in _finite(entry["steps"]).items())),
        "vs_winner": None if versus is None else Difference(**versus),
    }
    return SweepRow(**{item.name: entry[item.name] for item in fields(SweepRow)} | special)


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are numbers; a null stands for one that was not finite."""
    return {key: float(value) for key, value in values.items() if math.isfinite(float_or_nan(value))}
