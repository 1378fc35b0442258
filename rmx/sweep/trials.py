"""What the sweep knows of one trial, and the names of files in a sweep folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rmx.errors import OutputError
from rmx.files import FolderLock
from rmx.sweep.space import Params

__all__ = ["Attempt", "SweepFolder", "Trial", "locked"]


@dataclass(frozen=True)
class Trial:
    """One point of the space and how it went; `number` names its folder and never changes."""

    number: int
    params: Params
    status: str  # one of rmx.results.sweep.STATUSES
    values: dict[str, float] = field(default_factory=dict)  # objectives, of finished trials
    steps: dict[int, float] = field(default_factory=dict)  # what pruning saw: optimizer step -> watched metric
    reason: str = ""  # why it failed or was pruned
    folder_number: int | None = None  # of the trial whose folder it continues (a retry)

    @property
    def name(self) -> str:
        """Name of the trial's folder."""
        return f"trial-{self.number if self.folder_number is None else self.folder_number:03d}"


@dataclass(frozen=True)
class Attempt:
    """One process of a trial, as its guard recorded it; `ended` is None while it runs or when the guard died."""

    started: float  # unix seconds
    ended: float | None = None
    exit_code: int | None = None  # 128 + signal for a process that a signal ended
    signal: int | None = None
    max_rss_bytes: int | None = None
    asked: bool = False  # to stop: by the sweep, or because the sweep died

    @property
    def seconds(self) -> float:
        """Wall time; 0 when the end is not known."""
        return 0.0 if self.ended is None else self.ended - self.started


class SweepFolder:
    """Paths in a sweep folder. The trials' own folders belong to the jobs; the sweep's files are beside them.

    >>> SweepFolder(Path("outputs/sweeps/lr")).log("trial-003").as_posix()
    'outputs/sweeps/lr/jobs/trial-003.log'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / "study.journal"
        self.json = path / "sweep.json"
        self.csv = path / "leaderboard.csv"
        self.best = path / "best"
        self.jobs = path / "jobs"

    def trial(self, name: str) -> Path:
        """Return the job's output_dir."""
        return self.path / name

    def log(self, name: str) -> Path:
        """Return the file with stdout and stderr of the trial's processes."""
        return self.jobs / f"{name}.log"

    def record(self, name: str) -> Path:
        """Return the file in which the guard records start, end and exit code of each process."""
        return self.jobs / f"{name}.json"

    def prune(self, name: str) -> Path:
        """Return the file that asks the job to stop itself early."""
        return self.path / name / "PRUNE"

    def attempts(self, name: str) -> list[Attempt]:
        """Return the recorded processes of a trial, oldest first."""
        try:
            text = self.record(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        known = Attempt.__dataclass_fields__
        return [Attempt(**{key: row[key] for key in row if key in known}) for row in json.loads(text)]


@contextlib.contextmanager
def locked(folder: SweepFolder) -> Iterator[None]:
    """Hold the sweep folder; the system frees it with the process, however that ends.

    Raises:
        OutputError: another sweep is running in it, or it cannot be written.
    """
    try:
        folder.jobs.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder.path, "hydra.sweep.dir")
    except OSError as error:
        raise OutputError(f"hydra.sweep.dir: {folder.path} cannot be written ({error.strerror})") from error
    try:
        yield
    finally:
        lock.release()
