"""launch=slurm: rmx submits its ranks as a Slurm job, through submitit, and waits for them.

The command stays in the foreground and says what becomes of the job. When `trainer.stop_after` ends it (exit code 75),
it is submitted again and continues in the same folder, until training is done.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rmx.errors import ConfigError, Interrupted, RmxError, TimeUp, first_line
from rmx.launch.began import BEGAN_VARIABLE
from rmx.launch.rank_command import RankCommand, RankEnd, RanksEnded, raise_end_of
from rmx.values import Count, Whole, refuse_wrong_fields

__all__ = ["SlurmRanks"]

_ASK_EVERY_SECONDS = 5.0
_RESULT_WITHIN_SECONDS = 30.0  # after a job's end, until a shared file system shows what it has written
_WAITING = frozenset({
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING", "PREEMPTED",
    "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESIZING", "RESV_DEL_HOLD", "UNKNOWN",
})  # fmt: skip


class _Task:
    """What submitit runs in each task of the job."""

    def __init__(self, command: RankCommand, cluster: str) -> None:
        self.command, self.cluster = command, cluster

    def __call__(self) -> RankEnd:
        import submitit

        # Slurm warns the whole process group of the time limit. The rank saves a checkpoint and ends; submitit's own
        # handler would abandon it. The rank inherits "ignored" until it has its handlers.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        place = submitit.helpers.TorchDistributedEnvironment()
        variables = {
            "RANK": place.rank,
            "WORLD_SIZE": place.world_size,
            "LOCAL_RANK": place.local_rank,
            "LOCAL_WORLD_SIZE": place.local_world_size,
            "MASTER_ADDR": "127.0.0.1" if self.cluster == "local" else place.master_addr,
            "MASTER_PORT": place.master_port,
            BEGAN_VARIABLE: time.time(),
        }
        return self.command({name: str(value) for name, value in variables.items()})


@dataclass(frozen=True)
class SlurmRanks:
    """Ranks as the tasks of one Slurm job; `parallel.processes` says how many in all, auto one for each GPU.

    Args:
        nodes: machines; the processes are divided evenly among them.
        gpus_per_node: GPUs of each machine; 0 asks for none.
        cpus_per_task: CPU cores of each process.
        mem_gb: memory of each machine; null leaves it to Slurm.
        timeout_min: the job's time limit; let trainer.stop_after end some minutes before.
        partition: of Slurm; null takes the default one.
        setup: lines of shell before the job, such as `module load cuda`.
        additional: further options of sbatch by name, such as {account: mine, requeue: true}; true for an option that
            takes no value.
        cluster: local runs the same tasks on this machine, to try them out.

    >>> SlurmRanks(nodes=2, gpus_per_node=8).processes("auto")
    16
    """

    nodes: Count = 1
    gpus_per_node: Whole = 0
    cpus_per_task: Count = 1
    mem_gb: Count | None = None
    timeout_min: Count = 240
    partition: str | None = None
    setup: list[str] = field(default_factory=list)
    additional: dict[str, str | int | Literal[True]] = field(default_factory=dict)
    cluster: Literal["slurm", "local"] = "slurm"

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "launch")
        if self.cluster == "local" and self.nodes > 1:
            raise ConfigError(f"launch.nodes: {self.nodes}, but launch.cluster=local is this machine alone; give 1")

    def processes(self, asked: int | str | None) -> int:
        """Return how many ranks `parallel.processes` means: auto is one for each GPU, null one on each node.

        Raises:
            ConfigError: they cannot be divided evenly among the nodes.
        """
        if asked == "auto":
            return self.nodes * max(1, self.gpus_per_node)
        processes = self.nodes if asked is None else int(asked)
        if processes % self.nodes:
            raise ConfigError(
                f"parallel.processes: {processes} cannot be divided evenly among launch.nodes={self.nodes}; give a "
                f"multiple of {self.nodes}, or auto for one per GPU"
            )
        return processes

    def starts(self, processes: int) -> bool:
        """Whether ranks are started elsewhere: always."""
        return True

    def start(self, words: Sequence[str], processes: int, folder: Path) -> None:
        """Submit `python -m rmx WORDS` as so many tasks, and again when its time is up; wait for the end.

        Raises:
            RanksEnded: a rank has ended without success, or Slurm has ended the job.
            Interrupted: Ctrl-C; the job is cancelled, which it takes as SIGTERM: it saves a checkpoint.
        """
        executor = self._executor(processes)
        task = _Task(RankCommand(words, os.getcwd()), self.cluster)
        while True:
            job = self._submitted(executor, task)
            sys.stderr.write(f"rmx: submitted job {job.job_id}; its output: {job.paths.stdout}\n")
            try:
                raise_end_of(self._ends(job))
                sys.stderr.write(f"rmx: job {job.job_id} has ended, with success\n")
                return
            except RanksEnded as error:
                if error.exit_code != TimeUp.exit_code:
                    raise
                sys.stderr.write(f"rmx: {error}\nrmx: submitting it again\n")
            except KeyboardInterrupt:
                job.cancel()
                raise Interrupted(2) from None

    def _executor(self, processes: int) -> Any:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError("launch=slurm needs submitit: pip install 'rmx[slurm]'") from error
        executor = submitit.AutoExecutor(folder=Path(".submitit").absolute() / "%j", cluster=self.cluster)
        executor.update_parameters(
            name="rmx",
            nodes=self.nodes,
            tasks_per_node=processes // self.nodes,
            gpus_per_node=self.gpus_per_node,
            cpus_per_task=self.cpus_per_task,
            timeout_min=self.timeout_min,
            **({} if self.mem_gb is None else {"mem_gb": self.mem_gb}),
            **self._slurm_only(),
        )
        return executor

    def _slurm_only(self) -> dict[str, Any]:
        """What only Slurm is told; its tasks are not killed because one of them has ended first."""
        values: dict[str, Any] = {"slurm_srun_args": ["--kill-on-bad-exit=0"]}
        if self.partition is not None:
            values["slurm_partition"] = self.partition
        if self.setup:
            values["slurm_setup"] = self.setup
        if self.additional:
            values["slurm_additional_parameters"] = dict(self.additional)
        return values

    def _submitted(self, executor: Any, task: _Task) -> Any:
        import submitit

        try:
            return executor.submit(task)
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
            raise RmxError(f"launch=slurm: the job could not be submitted: {first_line(error)}") from error

    def _ends(self, job: Any) -> list[RankEnd]:
        """Wait for the job.

        Raises:
            RanksEnded: Slurm ended it, or a task could not be run.
        """
        import submitit

        state = "" if self.cluster == "local" else _state_at_end(str(job.job_id))
        missing = [] if self.cluster == "local" else _without_result(job)
        if missing:
            raise RanksEnded(
                f"job {job.job_id} ended in state {state}, and {_tasks(missing)} left no result: {job.paths.stderr} "
                "says what happened. The same command in this folder continues from the last checkpoint",
                1,
                by_accident=True,
            )
        try:
            return list(job.results())
        except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError) as error:
            raise RanksEnded(
                f"job {job.job_id} ended in a task of its own: {first_line(error)}; {job.paths.stderr} says what "
                "happened. The same command in this folder continues from the last checkpoint",
                1,
                by_accident=True,
            ) from error


def _state_at_end(job_id: str) -> str:
    """Wait until the job has ended, and return Slurm's word for how: COMPLETED, FAILED, TIMEOUT, CANCELLED, ...

    squeue is asked and not sacct, which fails on clusters without accounting: submitit would take no answer for a job
    that still runs, and wait for ever. A controller that does not answer is asked again.
    """
    while (state := _state(job_id)) in _WAITING:
        time.sleep(_ASK_EVERY_SECONDS)
    return state


def _state(job_id: str) -> str:
    """The job's state; `no longer known` some minutes after its end, UNKNOWN while Slurm cannot be asked."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0 and "Invalid job id" not in answer.stderr:
        return "UNKNOWN"
    words = answer.stdout.split()
    return words[0] if words else "no longer known"


def _without_result(job: Any) -> list[int]:
    """The tasks of an ended job that have left no result."""
    end = time.monotonic() + _RESULT_WITHIN_SECONDS
    while True:
        missing = [task for task in range(job.num_tasks) if not job.task(task).paths.result_pickle.exists()]
        if not missing or time.monotonic() > end:
            return missing
        time.sleep(1)


def _tasks(numbers: list[int]) -> str:
    """Name some tasks.

    >>> _tasks([1]), _tasks([0, 1, 2, 3])
    ('task 1', '4 tasks')
    """
    return f"task {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} tasks"
