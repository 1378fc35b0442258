"""The sweep itself: asks for points, runs them as jobs, prunes, restarts what was killed, and keeps count."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmx.errors import ConfigError
from rmx.files import write_text
from rmx.redact import redact_command
from rmx.results.metrics import MetricsTail, float_or_nan
from rmx.results.sweep import SweepRow
from rmx.sweep.jobs import Ended, Job, JobRunner
from rmx.sweep.on_screen import last_line, parameter_text
from rmx.sweep.space import SearchSpace
from rmx.sweep.strategy import SweepSettings
from rmx.sweep.summary import SweepFiles, point_to_best
from rmx.sweep.trials import SweepFolder, Trial, locked

if TYPE_CHECKING:
    from rmx.sweep.study import TrialStore

__all__ = ["EXIT_FAILURES", "EXIT_NONE_FINISHED", "EXIT_STOPPED", "Sweep", "SweepResult"]

log = logging.getLogger(__name__)

STOPPED_EXIT = 75  # of a job that stopped itself: pruned where the sweep asked for it, else out of its time
POLL_SECONDS = 0.2


EXIT_NONE_FINISHED = 1  # not one trial has a result
EXIT_FAILURES = 3  # there is a winner, and some trials failed or were killed
EXIT_STOPPED = 4  # fail_fast or max_failures ended the sweep early


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended; `signal` is set when one stopped it."""

    path: Path
    rows: list[SweepRow]
    exit_code: int
    stopped_because: str = ""
    signal: int | None = None

    @property
    def winner(self) -> SweepRow | None:
        """The trial of rank 1."""
        return next((row for row in self.rows if row.rank == 1), None)


class Sweep:
    """One sweep in one folder; running it again in the same folder continues it.

    Args:
        path: the sweep folder.
        space: what varies.
        fixed: overrides of every job.
        settings: how to search.
        jobs: where jobs run.
        overrides: what a job gets beside `fixed` and its point, given its output_dir.
        about: entries of sweep.json that only the caller knows (command, version).

    Raises:
        ConfigError: the folder holds another sweep, or settings and space do not fit.
        OutputError: another sweep is running in the folder, or it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        space: SearchSpace,
        fixed: Sequence[str],
        settings: SweepSettings,
        jobs: JobRunner,
        *,
        overrides: Callable[[Path], list[str]],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.space, self.settings, self.jobs = SweepFolder(path), space, settings, jobs
        self.fixed, self.extra, self.about = list(fixed), overrides, dict(about or {})
        self.directed = settings.directed()
        self.active: dict[int, Trial] = {}
        self.pending: list[Trial] = []  # to be continued before anything new
        self.tails: dict[int, MetricsTail] = {}
        self.prune_until: dict[int, float] = {}
        self.timed_out: set[int] = set()
        self.restarts: dict[int, int] = {}
        self.failures = 0
        self.stopping = ""  # why, once it is to stop
        self.signal_count = 0
        self.signal: int | None = None
        if settings.sampler not in ("auto", "grid") and settings.n_trials is None:
            raise ConfigError(
                f"hydra.sweeper.n_trials: sampler {settings.sampler} needs a number of trials, for example "
                "hydra.sweeper.n_trials=20"
            )

    def run(self) -> SweepResult:
        """Run until every trial is done, or as long as signals and failures allow."""
        with locked(self.folder), self._signals():
            from rmx.sweep.study import TrialStore

            self.store: TrialStore = TrialStore(self.folder, self.space, self.settings, self.fixed)
            self.files = SweepFiles(self.folder, self.store, self.settings, self.overrides, self.about)
            self._adopt()
            try:
                self._loop()
            finally:
                self._stop_all()
                rows = self.files.write(self.active, self.stopping, final=True)
        point_to_best(self.folder, next((row for row in rows if row.rank == 1), None))
        code = exit_code(rows, self.stopping, self.signal)
        return SweepResult(self.folder.path, rows, code, self.stopping, self.signal)

    # --- What an earlier start left -----------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Settle trials whose jobs ended after their sweeper did, and queue those that have to go on."""
        if self.settings.retry_failed:
            again = self.store.retry_failed()
            log.info("%d failed trials run again", again)
        known = self.store.trials()
        for trial in known:
            if trial.status != "running":
                continue
            adopted = self.store.adopt(trial.number)
            self.active[trial.number] = adopted
            attempts = self.folder.attempts(adopted.name)
            last = attempts[-1] if attempts else None
            ended = Ended(trial.number, None, None, stopped=False)
            if last is not None and last.ended is not None:
                ended = Ended(trial.number, last.exit_code, last.signal, last.asked)
            self._settle(ended, restart=True)
        done = sum(trial.status in ("finished", "pruned", "failed") for trial in self.store.trials())
        if any(trial.status != "waiting" for trial in known):
            log.info("Continuing %s: %d trials done, %d to go on", self.folder.path, done, len(self.pending))

    # --- The loop -----------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while True:
            for ended in self.jobs.collect():
                self._watch(ended.number)
                self._settle(ended)
                self.files.write(self.active, self.stopping)
            for trial_number in list(self.active):
                self._watch(trial_number)
                self._enforce(trial_number)
            if self.stopping:
                return
            self._fill()
            if not self.active:
                return
            time.sleep(POLL_SECONDS)

    def _fill(self) -> None:
        while self.jobs.free_slots() > 0:
            trial = self.pending.pop(0) if self.pending else self.store.ask()
            if trial is None:
                break
            self._start(trial)
        self.jobs.flush()

    def _start(self, trial: Trial) -> None:
        self.active[trial.number] = trial
        path = self.folder.trial(trial.name)
        self.folder.prune(trial.name).unlink(missing_ok=True)  # of a job that was pruned but never got to know it
        self.tails[trial.number] = MetricsTail(path / "metrics.jsonl")
        point = redact_command(f"{name.lstrip('+')}={parameter_text(value)}" for name, value in trial.params.items())
        log.info("%s: %s", trial.name, " ".join(point) or "(nothing varies)")
        self.jobs.start(Job(trial.number, trial.name, (*self.overrides(trial), *self.extra(path))))

    def overrides(self, trial: Trial) -> list[str]:
        """Return the words that make a trial what it is: enough to run it again."""
        return [*self.fixed, *self.space.overrides(trial.params)]

    # --- While jobs run -----------------------------------------------------------------------------------------------

    def _watch(self, trial_number: int) -> None:
        """Report new evaluations of a job; ask it to stop when the pruner wants so."""
        tail = self.tails.get(trial_number)
        if tail is None or len(self.directed) > 1:  # optuna takes intermediate values for one objective only
            return
        metric = self.settings.watched_metric
        for row in tail.rows():
            if metric not in row or not isinstance(row.get("step"), int):
                continue
            value = float_or_nan(row[metric])
            if self.store.report(trial_number, row["step"], value) and trial_number not in self.prune_until:
                name = self.active[trial_number].name
                write_text(self.folder.prune(name), f"step {row['step']}: {metric} {value:.4f}\n")
                self.prune_until[trial_number] = time.monotonic() + self.settings.pruner_grace_seconds
                log.info("%s: pruned at step %d (%s %.4f)", name, row["step"], metric, value)

    def _enforce(self, trial_number: int) -> None:
        """Terminate a job that does not stop though pruned, or that ran out of time."""
        limit = self.settings.job_timeout_minutes
        name = self.active[trial_number].name
        if time.monotonic() > self.prune_until.get(trial_number, math.inf):
            log.warning("%s did not stop by itself after pruning; terminating it", name)
            self.prune_until[trial_number] = math.inf
            self.jobs.stop(trial_number)
        elif limit is not None and trial_number not in self.timed_out:
            attempts = self.folder.attempts(name)
            if attempts and attempts[-1].ended is None and time.time() - attempts[-1].started > 60 * limit:
                self.timed_out.add(trial_number)
                self.jobs.stop(trial_number)

    # --- When a job has ended -----------------------------------------------------------------------------------------

    def _settle(self, ended: Ended, *, restart: bool = False) -> None:
        """Store how a job ended; what was killed goes on later, or now with a restart to spare."""
        trial = self.active.pop(ended.number)
        self.tails.pop(ended.number, None)
        prune = self.folder.prune(trial.name)
        log_file = self.folder.log(trial.name)
        if ended.number in self.timed_out and ended.exit_code != 0:
            self._fail(trial, f"ran longer than {self.settings.job_timeout_minutes} minutes")
        elif ended.exit_code == 0:
            self._finish(trial)
        elif prune.exists() and (ended.exit_code == STOPPED_EXIT or ended.killed or ended.stopped):
            reason = prune.read_text(encoding="utf-8").strip()
            self.store.tell(trial.number, "pruned", reason=f"pruned: {reason}")
            self.files.facts_of(trial)
        elif ended.exit_code == STOPPED_EXIT:  # each start makes a step at least, so this comes to an end
            if not self.stopping:
                log.info("%s: its trainer.stop_after is up; it goes on from its checkpoint", trial.name)
                self.pending.append(trial)
        elif ended.killed or ended.stopped:
            used = self.restarts.get(trial.number, 0)
            if restart:
                self.pending.append(trial)
            elif not self.stopping and used < self.settings.max_restarts:
                self.restarts[trial.number] = used + 1
                log.warning("%s was killed (%s); it goes on from its last checkpoint", trial.name, _spell(ended))
                self.pending.append(trial)
            elif not self.stopping:
                log.error("%s was killed again (%s); log: %s", trial.name, _spell(ended), log_file)
                self._count_failure()
        else:
            self._fail(trial, f"exit {ended.exit_code}: {last_line(log_file)}")

    def _finish(self, trial: Trial) -> None:
        facts = self.files.facts_of(trial)
        missing = [metric for metric in self.directed if metric not in facts.metrics]
        broken = [metric for metric in self.directed if not math.isfinite(facts.metrics.get(metric, 0.0))]
        if missing:
            has = ", ".join(sorted(key for key in facts.metrics if "/" in key)[:12]) or "nothing"
            self._fail(trial, f"its metrics.jsonl has no {missing[0]}; it has {has}")
        elif broken:
            self._fail(trial, f"{broken[0]} is not a finite number")
        else:
            values = {metric: facts.metrics[metric] for metric in self.directed}
            self.store.tell(trial.number, "finished", values)
            spelled = ", ".join(f"{metric} {value:.4f}" for metric, value in values.items())
            log.info("%s: finished, %s", trial.name, spelled)

    def _fail(self, trial: Trial, reason: str) -> None:
        log.error("%s failed: %s (log: %s)", trial.name, reason, self.folder.log(trial.name))
        self.store.tell(trial.number, "failed", reason=reason)
        self.files.facts_of(trial)
        self._count_failure()

    def _count_failure(self) -> None:
        self.failures += 1
        limit = 1 if self.settings.fail_fast else self.settings.max_failures
        if limit is not None and self.failures >= limit and not self.stopping:
            key = "fail_fast" if self.settings.fail_fast else f"max_failures={limit}"
            self.stopping = f"{self.failures} failed (hydra.sweeper.{key})"

    # --- The end ------------------------------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        """Ask the jobs that are left to save and stop, and wait for them; a further signal kills them."""
        if not self.jobs.running():
            return
        self.stopping = self.stopping or "an error"
        log.info("Stopping %d jobs (up to %g s for a checkpoint)", self.jobs.running(), self.settings.grace_seconds)
        seen = self.signal_count
        for trial_number in list(self.active):
            self.jobs.stop(trial_number)
        while self.jobs.running():
            for ended in self.jobs.collect():
                self._settle(ended)
            if self.signal_count > seen:
                seen = self.signal_count
                for trial_number in list(self.active):
                    self.jobs.stop(trial_number)
            time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into a stop; only the main thread may do so."""

        def stop(signal_number: int, _: object) -> None:
            self.signal_count += 1
            self.signal = signal_number
            self.stopping = self.stopping or signal.Signals(signal_number).name

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signal_number, handler in before.items():
                signal.signal(signal_number, handler)


def _spell(ended: Ended) -> str:
    return f"signal {ended.signal}" if ended.signal else f"exit {ended.exit_code}"


def exit_code(rows: Sequence[SweepRow], stopped_because: str, signal_number: int | None) -> int:
    """Return the code a sweep's process ends with."""
    if signal_number is not None:
        return 128 + signal_number
    if stopped_because:
        return EXIT_STOPPED
    if not any(row.status == "finished" for row in rows):
        return EXIT_NONE_FINISHED
    return EXIT_FAILURES if any(row.status in ("failed", "killed") for row in rows) else 0
