"""sweep.json read into facts: the format is described in `rmx.sweep`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmx.errors import DataError

__all__ = ["Axis", "Sweep", "SweepTrial", "read_sweep"]

FORMAT = 1
STATUSES = ("finished", "pruned", "killed", "failed", "running", "waiting")


@dataclass(frozen=True)
class SweepTrial:
    """One trial; None and NaN-free: what a run did not reach is None."""

    number: int
    name: str
    rank: int | None
    status: str
    params: dict[str, Any]
    values: dict[str, float]
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    loss: float | None
    pairs_per_second: float | None
    seconds: float
    step: int | None
    steps: list[tuple[float, float]]
    pareto: bool
    versus: dict[str, Any] | None
    folder: str
    log: str
    exit_code: int | None
    reason: str

    def objective(self, metric: str) -> float | None:
        """The final value of a metric; for a trial that was stopped the last watched one."""
        value = self.values.get(metric)
        if value is None and metric == "eval/accuracy":
            value = self.accuracy
        if value is None and metric == "eval/loss":
            value = self.loss
        return value


@dataclass(frozen=True)
class Axis:
    """One parameter of the search."""

    name: str
    kind: str  # "choice", "int" or "float"
    log: bool
    values: tuple[str, ...] = ()  # of a choice, as they were listed


@dataclass(frozen=True)
class Sweep:
    """A whole sweep."""

    folder: Path
    facts: dict[str, Any]  # the plain entries: name, command, sampler, pruner, ...
    objectives: list[tuple[str, bool]]  # metric, whether more is better
    axes: list[Axis]
    importance: dict[str, float] | None
    trials: list[SweepTrial]  # ranked first, by rank; then the others

    @property
    def varying(self) -> list[Axis]:
        """The parameters of which more than one value was tried; all when none varies."""
        found = [axis for axis in self.axes if len({str(t.params.get(axis.name)) for t in self.trials}) > 1]
        return found or self.axes

    @property
    def winner(self) -> SweepTrial | None:
        """The trial of rank 1."""
        return next((trial for trial in self.trials if trial.rank == 1), None)


def read_sweep(folder: Path | str) -> Sweep:
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
        trials = [_trial(entry) for entry in content["trials"]]
        objectives = [(str(entry["metric"]), entry["direction"] == "maximize") for entry in content["objectives"]]
        axes = [
            Axis(str(e["name"]), str(e["kind"]), bool(e.get("log")), tuple(map(str, e.get("values") or ())))
            for e in content["parameters"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: an entry is missing or malformed ({error!r}); run the sweep again") from error
    if not objectives:
        raise DataError(f"{path}: objectives is empty; a sweep has at least one")
    trials.sort(key=lambda t: (t.rank is None, t.rank or 0, STATUSES.index(t.status), t.number))
    importance = content.get("importance")
    plain = {key: value for key, value in content.items() if key not in ("trials", "parameters", "objectives")}
    return Sweep(Path(folder), plain, objectives, axes, importance or None, trials)


def _trial(entry: Mapping[str, Any]) -> SweepTrial:
    status = str(entry["status"])
    if status not in STATUSES:
        raise ValueError(f"status {status!r}")
    steps = [(float(step), float(value)) for step, value in (entry.get("steps") or {}).items() if _finite(value)]
    return SweepTrial(
        number=int(entry["number"]),
        name=str(entry["name"]),
        rank=entry["rank"],
        status=status,
        params=dict(entry["params"]),
        values={key: float(value) for key, value in (entry.get("values") or {}).items() if _finite(value)},
        accuracy=_optional(entry.get("accuracy")),
        accuracy_low=_optional(entry.get("accuracy_low")),
        accuracy_high=_optional(entry.get("accuracy_high")),
        loss=_optional(entry.get("loss")),
        pairs_per_second=_optional(entry.get("pairs_per_second")),
        seconds=float(entry.get("seconds") or 0.0),
        step=entry.get("step"),
        steps=sorted(steps),
        pareto=bool(entry.get("pareto")),
        versus=entry.get("vs_winner"),
        folder=str(entry.get("folder", "")),
        log=str(entry.get("log", "")),
        exit_code=entry.get("exit_code"),
        reason=str(entry.get("reason") or ""),
    )


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _optional(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
