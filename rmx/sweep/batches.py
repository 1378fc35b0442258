"""Jobs on a cluster: batches through a Hydra launcher, guarded on the node as they would be here."""

from __future__ import annotations

import contextlib
import logging
import queue
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from rmx.errors import RmxError
from rmx.sweep.jobs import Ended, Job, guard_command, outcome
from rmx.sweep.trials import Attempt, SweepFolder

__all__ = ["BatchJobs", "run_guarded"]

log = logging.getLogger(__name__)


def run_guarded(folder: SweepFolder, name: str, argv: Sequence[str], grace_seconds: float) -> int:
    """Run one job under a guard, here and now; what a cluster's node does.

    The sweep asks it to stop with a file, because there is no pipe from the sweeper to the node.

    Returns:
        The job's exit code; 143 when it was to stop before it started.
    """
    stop = folder.jobs / f"{name}.stop"
    if stop.exists():
        return 143
    command = guard_command(folder, name, argv, grace_seconds)
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as guard:
        asked = False
        while True:
            try:
                return guard.wait(timeout=2.0)
            except subprocess.TimeoutExpired:
                if not asked and stop.exists() and guard.stdin is not None:
                    asked = True
                    with contextlib.suppress(BrokenPipeError):
                        guard.stdin.write(b"!")
                        guard.stdin.flush()


class BatchJobs:
    """Runs jobs in batches through a cluster launcher; every node guards its job as this machine would.

    `launch` blocks until a batch is over, so it runs in a thread while the sweep goes on reading metrics.
    """

    def __init__(
        self,
        folder: SweepFolder,
        launch: Callable[[list[Job], int], None],
        *,
        n_jobs: int,
    ) -> None:
        self.folder, self.launch, self.n_jobs = folder, launch, max(1, n_jobs)
        self.waiting: list[Job] = []
        self.batch: list[Job] = []
        self.requests: queue.Queue[tuple[list[Job], int]] = queue.Queue()
        self.thread: threading.Thread | None = None
        self.done = threading.Event()
        self.asked: set[int] = set()
        self.abandoned = False
        self.launched = 0
        self.before: dict[int, list[Attempt]] = {}
        self.error: Exception | None = None

    def free_slots(self) -> int:
        """Return the size of a batch less what is queued; nothing while a batch is under way."""
        return 0 if self.batch else self.n_jobs - len(self.waiting)

    def running(self) -> int:
        """Return how many jobs are under way."""
        return len(self.batch)

    def start(self, job: Job) -> None:
        """Queue a job for the next batch."""
        self.waiting.append(job)

    def flush(self) -> None:
        """Hand the queue to the launcher as a batch."""
        if self.batch or not self.waiting:
            return
        self.batch, self.waiting = self.waiting, []
        self.before = {job.number: self.folder.attempts(job.name) for job in self.batch}
        for job in self.batch:
            self._stop_file(job).unlink(missing_ok=True)
        first, self.launched = self.launched, self.launched + len(self.batch)
        self.done.clear()
        self.asked = set()
        if self.thread is None:
            self.thread = threading.Thread(target=self._serve, name="launcher", daemon=True)
            self.thread.start()
        self.requests.put((self.batch, first))

    def _serve(self) -> None:
        """Launch batch after batch in one thread: what a launcher starts (Ray's servers) may die with its thread."""
        while True:
            batch, first = self.requests.get()
            try:
                self.launch(batch, first)
            except Exception as error:  # noqa: BLE001 - launchers raise anything; the records tell what really ran
                self.error = error
            finally:
                self.done.set()

    def _stop_file(self, job: Job) -> Path:
        return self.folder.jobs / f"{job.name}.stop"

    def collect(self) -> list[Ended]:
        """Return the whole batch once it is over.

        Raises:
            RmxError: the launcher failed before any job ran.
        """
        if not self.batch or not (self.done.is_set() or self.abandoned):
            return []
        over = [outcome(self.folder, job, self.before[job.number]) for job in self.batch]
        self.batch = []
        if self.error is not None:
            error, self.error = self.error, None
            if all(end.exit_code is None for end in over):
                raise RmxError(f"the launcher could not run the batch: {type(error).__name__}: {error}") from error
            log.warning("The launcher reported %s: %s", type(error).__name__, error)
        return over

    def stop(self, number: int) -> None:
        """Ask a job to stop by the file that its node's guard looks for; asked twice, do not wait for the node.

        A job that its cluster has not started yet finds the file when it does, and ends.
        """
        for job in self.batch:
            if job.number == number:
                self.abandoned = self.abandoned or number in self.asked
                self.asked.add(number)
                self._stop_file(job).touch()
