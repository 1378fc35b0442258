"""Jobs as processes of their own: slots, environment, start, stop, and how they ended."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rmx.errors import ConfigError, counted
from rmx.sweep.trials import Attempt, SweepFolder

__all__ = ["Ended", "Job", "JobRunner", "LocalJobs", "gpu_groups", "guard_command", "job_program", "outcome"]

log = logging.getLogger(__name__)

PROGRAM_VARIABLE = "RMX_JOB_PROGRAM"  # a JSON list that replaces `python -m rmx`; never a configuration key,
#                                       because configuration files must not be able to name programs


@dataclass(frozen=True)
class Job:
    """What a slot runs: the trial's number and folder name, and the overrides that make it what it is."""

    number: int
    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """A job that is over; `exit_code` is None where nobody could record it (the guard or the node died)."""

    number: int
    exit_code: int | None
    signal: int | None
    stopped: bool  # by the sweep's own wish, or by its death

    @property
    def killed(self) -> bool:
        """Whether a signal ended it, or nobody knows what."""
        return self.exit_code is None or self.signal is not None or self.exit_code in (130, 137, 143)


class JobRunner(Protocol):
    """Somewhere that jobs run: this machine, or a cluster in batches."""

    def free_slots(self) -> int:
        """Return how many jobs may be started now."""

    def start(self, job: Job) -> None:
        """Start a job, or queue it until `flush`."""

    def flush(self) -> None:
        """Start what is queued."""

    def collect(self) -> list[Ended]:
        """Return jobs that ended since the last call."""

    def stop(self, number: int) -> None:
        """Ask a job to save and stop; it is killed after the grace period, or when asked twice."""

    def running(self) -> int:
        """Return how many jobs are under way."""


def job_program(processes: int = 1) -> list[str]:
    """Return the words that start a run: `python -m rmx`, which starts several processes itself.

    torchrun would end with code 1 whatever its processes end with; a sweep goes by the code.
    """
    replaced = os.environ.get(PROGRAM_VARIABLE)
    if replaced:
        return [str(word) for word in json.loads(replaced)]
    several = [f"parallel.processes={processes}"] if processes > 1 else []
    return [sys.executable, "-m", "rmx", *several]


def guard_command(folder: SweepFolder, name: str, argv: Sequence[str], grace_seconds: float) -> list[str]:
    """Return the argv of the guard that runs `argv` as a process of trial `name`."""
    folder.jobs.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": list(argv),
        "cwd": os.getcwd(),
        "log": str(folder.log(name)),
        "record": str(folder.record(name)),
        "lock": str(folder.jobs / f".{name}.lock"),
        "grace_seconds": grace_seconds,
    }
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), json.dumps(spec)]


def gpu_groups(per_job: int, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return a value of CUDA_VISIBLE_DEVICES per slot; empty without a GPU. Devices that do not fill a slot rest.

    Raises:
        ConfigError: there are GPUs, but not enough for one job.

    >>> gpu_groups(2, {"CUDA_VISIBLE_DEVICES": "0,3,5,6,7"})
    ['0,3', '5,6']
    """
    environ = os.environ if environ is None else environ
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [device.strip() for device in visible.split(",") if device.strip() not in ("", "-1", "NoDevFiles")]
    else:
        devices = [str(index) for index in range(_count_gpus())]
    if 0 < len(devices) < per_job:
        raise ConfigError(
            f"hydra.sweeper.gpus_per_job: {per_job}, but {counted(len(devices), 'GPU is', 'GPUs are')} visible here; "
            f"give {len(devices)} or less, or show more in CUDA_VISIBLE_DEVICES"
        )
    return [",".join(devices[at : at + per_job]) for at in range(0, len(devices) - per_job + 1, per_job)]


def _count_gpus() -> int:
    """Ask the driver's own tool: importing torch for this would take seconds and GPU memory."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def available_cpus() -> int:
    """Return the number of CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def outcome(folder: SweepFolder, job: Job, before: Sequence[Attempt]) -> Ended:
    """Read how a job ended from its guard's record; a guard that was itself killed has left no end."""
    attempts = folder.attempts(job.name)
    if not attempts or attempts == list(before):
        return Ended(job.number, None, None, stopped=False)
    return Ended(job.number, attempts[-1].exit_code, attempts[-1].signal, attempts[-1].asked)


class LocalJobs:
    """Runs up to `n_jobs` jobs on this machine, each in a slot with its GPUs and its share of the CPU threads."""

    def __init__(
        self,
        folder: SweepFolder,
        argv: Callable[[Job], list[str]],
        *,
        n_jobs: int,
        gpus_per_job: int = 1,
        grace_seconds: float = 60.0,
        group: str = "",
    ) -> None:
        self.folder, self.argv, self.grace_seconds, self.group = folder, argv, grace_seconds, group
        self.gpus = gpu_groups(gpus_per_job) if gpus_per_job else [""]  # "" hides all
        self.n_jobs = n_jobs or max(1, len(self.gpus))
        if gpus_per_job and 0 < len(self.gpus) < self.n_jobs:
            log.warning(
                "hydra.sweeper.n_jobs=%d, but the GPUs make %d group(s) of gpus_per_job=%d: several jobs share one and "
                "its memory; hydra.sweeper.n_jobs=0 starts one job per group",
                self.n_jobs, len(self.gpus), gpus_per_job,
            )  # fmt: skip
        self.slots: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
        self.before: dict[int, list[Attempt]] = {}

    def free_slots(self) -> int:
        """Return how many jobs may be started now."""
        return self.n_jobs - len(self.slots)

    def running(self) -> int:
        """Return how many jobs are under way."""
        return len(self.slots)

    def flush(self) -> None:
        """Do nothing: jobs start at once."""

    def start(self, job: Job) -> None:
        """Start a job in a free slot."""
        slot = next(index for index in range(self.n_jobs) if index not in self.slots)
        self.before[slot] = self.folder.attempts(job.name)
        process = subprocess.Popen(
            guard_command(self.folder, job.name, self.argv(job), self.grace_seconds),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment(slot),
            start_new_session=True,  # Ctrl-C reaches the sweeper alone, which then decides
        )
        self.slots[slot] = (job, process)

    def environment(self, slot: int) -> dict[str, str]:
        """Return the environment of a job in `slot`."""
        env = dict(os.environ)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        limits = [int(limit) for limit in map(env.get, names) if limit and limit.isdigit() and int(limit) > 0]
        threads = min([max(1, available_cpus() // self.n_jobs), *limits])  # one limit speaks for both
        env |= dict.fromkeys(names, str(threads))
        if self.gpus:
            env["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        if self.group:
            env.setdefault("RMX_GROUP", self.group)
        return env

    def collect(self) -> list[Ended]:
        """Return jobs that ended since the last call."""
        over = []
        for slot, (job, process) in list(self.slots.items()):
            if process.poll() is None:
                continue
            if process.stdin is not None:
                process.stdin.close()
            del self.slots[slot]
            over.append(outcome(self.folder, job, self.before[slot]))
        return over

    def stop(self, number: int) -> None:
        """Ask a job to save and stop; its guard kills it after the grace period, or when asked twice."""
        for job, process in self.slots.values():
            if job.number == number and process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(b"!")
                    process.stdin.flush()
