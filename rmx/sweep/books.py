"""How a sweep ended, and the books it keeps: sweep.json and leaderboard.csv, rewritten after every trial."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmx.redact import redact_command
from rmx.sweep.choices import SweepSettings
from rmx.sweep.leaderboard import Facts, Row, build_rows, read_facts
from rmx.sweep.output import write_files
from rmx.sweep.trials import SweepFolder, Trial

if TYPE_CHECKING:
    from rmx.sweep.study import TrialStore

__all__ = ["EXIT_FAILURES", "EXIT_NONE_FINISHED", "EXIT_STOPPED", "Books", "SweepResult"]

EXIT_NONE_FINISHED = 1  # not one trial has a result
EXIT_FAILURES = 3  # there is a winner, and some trials failed or were killed
EXIT_STOPPED = 4  # fail_fast or max_failures ended the sweep early


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended; `signal` is set when one stopped it."""

    path: Path
    rows: list[Row]
    exit_code: int
    stopped_because: str = ""
    signal: int | None = None

    @property
    def winner(self) -> Row | None:
        """The trial of rank 1."""
        return next((row for row in self.rows if row.rank == 1), None)


class Books:
    """Keeps what the trials' run folders say, and writes the sweep's files from it and the trial store.

    Args:
        folder: the sweep folder.
        store: the trials.
        settings: names the objectives.
        overrides: what a trial is run with.
        about: further entries of sweep.json.
    """

    def __init__(
        self,
        folder: SweepFolder,
        store: TrialStore,
        settings: SweepSettings,
        overrides: Callable[[Trial], list[str]],
        about: Mapping[str, Any],
    ) -> None:
        self.folder, self.store, self.settings = folder, store, settings
        self.overrides, self.about = overrides, about
        self.directed = settings.directed()
        first = settings.objectives[0].split("/")[0]
        self.evaluation = first if first.startswith("eval") else "eval"
        self.facts: dict[int, Facts] = {}

    def look(self, trial: Trial) -> Facts:
        """Read a trial's run folder; remembered from then on."""
        self.facts[trial.number] = read_facts(self.folder.trial(trial.name), self.evaluation)
        return self.facts[trial.number]

    def write(self, active: Mapping[int, Trial], stopped_because: str, *, final: bool = False) -> list[Row]:
        """Write sweep.json and leaderboard.csv as things stand; the final time with paired tests and importances."""
        trials = []
        for trial in self.store.trials():
            if trial.status == "running" and trial.number not in active:
                trial = dataclasses.replace(trial, status="killed")
            if trial.status == "killed" or (
                trial.status not in ("running", "waiting") and trial.number not in self.facts
            ):
                self.look(trial)
            trials.append(trial)
        words = {trial.number: redact_command(self.overrides(trial)) for trial in trials}
        rows = build_rows(self.folder, trials, self.facts, self.directed, words, paired=final)
        content = self._content(rows) | {
            "importance": self.store.importance() if final else None,
            "stopped_because": stopped_because,
            "trials": [row.as_dict() for row in sorted(rows, key=lambda row: row.number)],
        }
        write_files(self.folder, content, rows, self.settings.objectives)
        return rows

    def _content(self, rows: Sequence[Row]) -> dict[str, Any]:
        counts: dict[str, int] = {}
        for row in rows:
            counts[row.status] = counts.get(row.status, 0) + 1
        return {
            "format": 1,
            "name": self.folder.path.name,
            **self.about,
            "updated": time.time(),
            "sampler": "grid" if self.store.is_grid else self.settings.sampler.replace("auto", "tpe"),
            "pruner": self.settings.pruner,
            "pruner_metric": self.settings.watched_metric,
            "evaluation": self.evaluation,
            "objectives": [{"metric": metric, "direction": way} for metric, way in self.directed.items()],
            "parameters": [dimension.describe() for dimension in self.store.space.dimensions],
            "fixed": redact_command(self.store.fixed),
            "counts": counts,
            "winner": next((row.number for row in rows if row.rank == 1), None),
        }


def exit_code(rows: Sequence[Row], stopped_because: str, signal_number: int | None) -> int:
    """Return the code a sweep's process ends with."""
    if signal_number is not None:
        return 128 + signal_number
    if stopped_because:
        return EXIT_STOPPED
    if not any(row.status == "finished" for row in rows):
        return EXIT_NONE_FINISHED
    return EXIT_FAILURES if any(row.status in ("failed", "killed") for row in rows) else 0
