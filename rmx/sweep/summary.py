"""What a sweep leaves beside its trials: sweep.json and leaderboard.csv, rewritten after every trial, and `best`."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rmx.files import write_json, write_text
from rmx.redact import redact_command
from rmx.results.sweep import FORMAT, SweepRow
from rmx.sweep.leaderboard import Facts, build_rows, read_facts
from rmx.sweep.strategy import SweepSettings
from rmx.sweep.trials import SweepFolder, Trial

if TYPE_CHECKING:
    from rmx.sweep.study import TrialStore

__all__ = ["SweepFiles", "csv_text", "point_to_best"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # OWASP, "CSV injection"


class SweepFiles:
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

    def facts_of(self, trial: Trial) -> Facts:
        """Read a trial's run folder; remembered from then on."""
        self.facts[trial.number] = read_facts(self.folder.trial(trial.name), self.evaluation)
        return self.facts[trial.number]

    def write(self, active: Mapping[int, Trial], stopped_because: str, *, final: bool = False) -> list[SweepRow]:
        """Write sweep.json and leaderboard.csv as things stand; the final time with paired tests and importances."""
        trials = []
        for trial in self.store.trials():
            if trial.status == "running" and trial.number not in active:
                trial = replace(trial, status="killed")
            if trial.status == "killed" or (
                trial.status not in ("running", "waiting") and trial.number not in self.facts
            ):
                self.facts_of(trial)
            trials.append(trial)
        words = {trial.number: redact_command(self.overrides(trial)) for trial in trials}
        rows = build_rows(
            self.folder, trials, self.facts, self.directed, words, evaluation=self.evaluation, paired=final
        )
        content = self._content(rows) | {
            "importance": self.store.importance() if final else None,
            "stopped_because": stopped_because,
            "trials": [asdict(row) for row in sorted(rows, key=lambda row: row.number)],
        }
        write_json(self.folder.json, content)
        write_text(self.folder.csv, csv_text(rows, self.settings.objectives))
        return rows

    def _content(self, rows: Sequence[SweepRow]) -> dict[str, Any]:
        counts: dict[str, int] = {}
        for row in rows:
            counts[row.status] = counts.get(row.status, 0) + 1
        return {
            "format": FORMAT,
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


def csv_text(rows: Sequence[SweepRow], objectives: Sequence[str]) -> str:
    """Return leaderboard.csv: all parameters, full-precision numbers, and no cell that a spreadsheet would execute."""
    names = list(dict.fromkeys(name for row in rows for name in row.params))
    extra = [metric for metric in objectives if metric not in ("eval/accuracy", "eval/loss")]
    head = ["rank", "trial", *names, "accuracy", "accuracy_low", "accuracy_high", "loss", *extra, "pairs_per_second"]
    head += ["seconds", "step", "status", "difference_to_winner", "p_value", "within_noise", "reason", "folder"]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([_cell(name) for name in head])
    for row in rows:
        versus = row.vs_winner
        cells: list[Any] = [row.rank, row.name, *(row.params.get(name) for name in names)]
        cells += [row.accuracy, row.accuracy_low, row.accuracy_high, row.loss]
        cells += [row.values.get(metric) for metric in extra] + [row.pairs_per_second, round(row.seconds, 1), row.step]
        cells += [row.status, versus and versus.difference, versus and versus.p_value, versus and versus.within_noise]
        cells += [row.reason, row.folder]
        writer.writerow([_cell(cell) for cell in cells])
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet takes for a formula; numbers stay numbers."""
    if value is None:
        return ""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


def point_to_best(folder: SweepFolder, winner: SweepRow | None) -> None:
    """Make `best` a link to the winner's folder; a text file with its name where links are not possible."""
    if winner is None:
        return
    temporary = folder.path / ".best"
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(winner.folder, target_is_directory=True)
        temporary.replace(folder.best)
    except OSError:
        write_text(folder.path / "best.txt", winner.folder + "\n")
