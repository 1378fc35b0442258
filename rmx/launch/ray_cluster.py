"""launch=ray: rmx starts its ranks as the workers of Ray Train's TorchTrainer, and waits for them.

Ray gives each worker its GPU and CPU cores, and starts all of them again when one was killed or its machine is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rmx.errors import ConfigError, Interrupted, RmxError, counted, first_line
from rmx.launch.began import BEGAN_VARIABLE
from rmx.launch.rank_command import RanksEnded
from rmx.values import AtLeastZero, Count, Whole, refuse_wrong_fields

if TYPE_CHECKING:
    from rmx.launch.ray_worker import RankEnded, RankTask

__all__ = ["RayRanks"]

_FOLDER = ".ray"  # in the run folder: where Ray Train marks its storage
_LOG = "ray.log"  # in there: what Ray itself prints here, such as pages of state when a machine is lost
_LOGS = "/tmp/ray/session_latest/logs/train on this machine"  # of Ray Train's controller
_LISTEN_SECONDS = 1.0
_SECONDS_FOR_LAST_NEWS = 0.2
_SECONDS_TO_SHUT_DOWN = 30.0  # of the workers, after their ranks have ended
_SAY_WAITING_AFTER_SECONDS = 30.0


@dataclass(frozen=True)
class RayRanks:
    """Ranks as workers of Ray Train; `parallel.processes` says how many, auto one for each GPU of the cluster.

    Args:
        address: of the cluster that this machine belongs to: auto, or host:port of its head; null starts one on this
            machine for the run.
        cpus_per_process: CPU cores of each process.
        gpus_per_process: 1, or 0 to train on CPUs.
        min_processes: fewer processes that the run may start or go on with when the cluster has no room for all; null
            always waits for all.
        max_restarts: how often the ranks start again after one was killed or its machine is gone; they go on from the
            last checkpoint.
        resize_every_seconds: with min_processes, how often to look for room for more processes.
        wait_minutes: how long to wait for the cluster to have room, at the start and after a loss.
        grace_seconds: time for a checkpoint when the run is stopped.

    >>> RayRanks(gpus_per_process=0).processes(4)
    4
    """

    address: str | None = None
    cpus_per_process: Count = 1
    gpus_per_process: Literal[0, 1] = 1
    min_processes: Count | None = None
    max_restarts: Whole = 3
    resize_every_seconds: AtLeastZero = 60.0
    wait_minutes: AtLeastZero = 30.0
    grace_seconds: AtLeastZero = 60.0

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "launch")
        if self.address is not None and self.address.startswith("ray://"):
            raise ConfigError(
                f"launch.address: {self.address}: the command that waits for the job has to run on the cluster, and "
                "Ray Client runs it elsewhere; send it there: ray job submit --address http://<head>:8265 -- rmx "
                "launch=ray launch.address=auto ..."
            )

    def processes(self, asked: int | str | None) -> int:
        """Return how many ranks `parallel.processes` means.

        Raises:
            ConfigError: auto, and there is no GPU to count.
        """
        if asked != "auto":
            return 1 if asked is None else int(asked)
        if not self.gpus_per_process:
            raise ConfigError("parallel.processes=auto: counts GPUs, and launch.gpus_per_process is 0; give a number")
        gpus = int(self._connected().cluster_resources().get("GPU", 0))
        if not gpus:
            raise ConfigError(
                "parallel.processes=auto: the Ray cluster has no GPU; give a number and launch.gpus_per_process=0"
            )
        return gpus

    def starts(self, processes: int) -> bool:
        """Whether ranks are started elsewhere: always."""
        return True

    def start(self, words: Sequence[str], processes: int, folder: Path) -> None:
        """Run `python -m rmx WORDS` in so many workers and wait for their end.

        Raises:
            ConfigError: the cluster has no room for them in `wait_minutes`.
            RanksEnded: a rank has ended without success.
            Interrupted: a signal came before a rank was at work.
        """
        began = time.time()
        ray = self._connected()
        try:
            self._refuse_too_many(ray, processes)
            own = folder.absolute() / _FOLDER
            own.mkdir(exist_ok=True)
            with (own / _LOG).open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
                _Job(self, ray, words, processes, own, began).run()
        except ray.exceptions.RayError as error:
            raise RmxError(
                f"launch=ray: Ray was lost here ({type(error).__name__}): {first_line(error)}; the same command in "
                "this folder continues from the last checkpoint"
            ) from error
        finally:
            ray.shutdown()

    @property
    def room(self) -> dict[str, int]:
        """What each worker asks of Ray."""
        return {"CPU": self.cpus_per_process} | ({"GPU": self.gpus_per_process} if self.gpus_per_process else {})

    def _connected(self) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            import ray.train
        except ImportError as error:
            raise ConfigError(f"launch=ray needs Ray Train ({first_line(error)}): pip install 'rmx[ray]'") from error
        if not ray.is_initialized():
            logging.getLogger("ray").setLevel(logging.ERROR)  # how it starts is Ray's matter
            options: dict[str, Any] = {} if self.address else {"include_dashboard": False}
            try:
                ray.init(address=self.address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"launch.address: {self.address}: Ray cannot be reached: {first_line(error)}"
                ) from error
        return ray

    def _refuse_too_many(self, ray: Any, processes: int) -> None:
        """Refuse at once what never fits: a cluster of this machine alone does not grow."""
        if self.min_processes is not None and self.min_processes > processes:
            raise ConfigError(
                f"launch.min_processes: {self.min_processes} is more than parallel.processes={processes}, which are "
                "all that start; give at most as many"
            )
        least, has = self.min_processes or processes, self.has(ray)
        if self.address is None and any(has[name] < least * each for name, each in self.room.items()):
            raise ConfigError(self.no_room(ray, least))

    def has(self, ray: Any) -> dict[str, float]:
        """What the cluster has of that in all."""
        resources = ray.cluster_resources()
        return {name: resources.get(name, 0) for name in self.room}

    def no_room(self, ray: Any, processes: int) -> str:
        """Say that so many processes do not fit."""
        return (
            f"launch=ray: {_processes(processes)} of {self.room} each find no room; the cluster has {self.has(ray)} in "
            "all; give fewer parallel.processes, other launch.gpus_per_process or launch.cpus_per_process"
            + (f", or a larger launch.wait_minutes (now {self.wait_minutes:g})" if self.address else "")
        )


@dataclass
class _Job:
    """One job of Ray Train, seen from the command that waits for it."""

    settings: RayRanks
    ray: Any
    words: Sequence[str]
    processes: int
    folder: Path  # Ray's, in the run folder
    began: float  # seconds since 1970
    ranks: int = 0  # at work now
    starts: int = 0
    lost: str = ""  # why the ranks were lost last
    end: RankEnded | None = None  # how a rank ended for a reason of its own
    idle_since: float = field(default_factory=time.monotonic)
    signals: list[int] = field(default_factory=list)
    error: BaseException | None = None  # of Ray Train
    has_said_waiting: bool = False
    stdout: TextIO = sys.__stdout__ or sys.stdout  # Ray prints to sys.stdout, and that is its log by now

    def run(self) -> None:
        """Run it to its end."""
        from rmx.launch.ray_worker import Desk

        here = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self.ray.get_runtime_context().get_node_id(), soft=False
        )
        self.desk = self.ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote()
        trainer = self._trainer()

        def fit() -> None:
            try:
                trainer.fit()
            except Exception as error:  # noqa: BLE001  raised again by the thread that waits
                self.error = error

        thread = threading.Thread(target=fit, daemon=True)  # Ray Train would abort at Ctrl-C in the main thread
        with self._signals():
            thread.start()
            self._listen(thread)
        self._hear(_SECONDS_FOR_LAST_NEWS)
        self._raise_end()

    def _trainer(self) -> Any:
        import ray.train
        from ray.train.torch import TorchTrainer

        from rmx.launch.ray_worker import Losses, NoGroup, run_rank

        train: Any = ray.train  # its annotations are those of Ray Train's first version
        settings, least = self.settings, self.settings.min_processes
        return TorchTrainer(
            run_rank,
            train_loop_config={"task": self._task()},
            torch_config=NoGroup(backend="gloo", grace_seconds=settings.grace_seconds),
            scaling_config=train.ScalingConfig(
                num_workers=self.processes if least is None else (least, self.processes),
                use_gpu=bool(settings.gpus_per_process),
                resources_per_worker=settings.room,
                elastic_resize_monitor_interval_s=settings.resize_every_seconds,
            ),
            run_config=train.RunConfig(
                name=self.folder.name,
                storage_path=str(self.folder.parent),
                failure_config=train.FailureConfig(max_failures=settings.max_restarts),
                callbacks=[Losses(self.desk)],
            ),
        )

    def _task(self) -> RankTask:
        from rmx.launch.ray_worker import RankTask

        return RankTask(
            words=[*self.words, "parallel.processes=null"] if self.settings.min_processes else list(self.words),
            folder=os.getcwd(),
            shared=str(self.folder),
            variables={BEGAN_VARIABLE: str(self.began)},
            on_cpu=not self.settings.gpus_per_process,
            grace_seconds=self.settings.grace_seconds,
            desk=self.desk,
        )

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Take note of signals in this block; the ranks get them from `_listen`."""

        def note(number: int, frame: FrameType | None) -> None:
            self.signals.append(number)

        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _listen(self, thread: threading.Thread) -> None:
        """Print what the ranks say until Ray Train has ended; hand a signal on; give up waiting for room."""
        give_up_at = float("inf")
        while thread.is_alive():
            self._hear(_LISTEN_SECONDS)
            if self.signals and give_up_at == float("inf"):
                if not self.ranks:
                    raise Interrupted(self.signals[0])
                sys.stderr.write("rmx: stopping the ranks after their checkpoint\n")
                self.ray.get(self.desk.stop.remote())
                give_up_at = time.monotonic() + self.settings.grace_seconds + _SECONDS_TO_SHUT_DOWN
            if len(self.signals) > 1 or time.monotonic() > give_up_at:
                raise Interrupted(self.signals[0])
            if not self.ranks:
                self._refuse_endless_wait()

    def _refuse_endless_wait(self) -> None:
        waited, least = time.monotonic() - self.idle_since, self.settings.min_processes or self.processes
        if waited > max(60 * self.settings.wait_minutes, _SAY_WAITING_AFTER_SECONDS):
            message = f"{self.settings.no_room(self.ray, least)}. If it has room, {_LOGS} says why they do not start"
            raise RanksEnded(f"{self.lost}; {message}", 1, by_accident=True) if self.lost else ConfigError(message)
        if waited > _SAY_WAITING_AFTER_SECONDS and not self.has_said_waiting:
            has, room = self.settings.has(self.ray), self.settings.room
            sys.stderr.write(f"rmx: waiting for Ray to start {_processes(least)} of {room} each; it has {has} in all\n")
            self.has_said_waiting = True

    def _hear(self, seconds: float) -> None:
        """Take in the news, waiting so long for the first."""
        from rmx.launch.ray_worker import Began, Lost, RankEnded, RankSaid

        for news in self.ray.get(self.desk.told.remote(seconds)):
            if isinstance(news, RankSaid):
                self._print(news)
            elif isinstance(news, Began):
                self._at_work(news.ranks)
            elif isinstance(news, Lost):
                self.ranks, self.lost, self.idle_since = 0, news.message, time.monotonic()
                sys.stderr.write(f"rmx: {news.message}\n")
            elif isinstance(news, RankEnded):
                self.end = self.end or news

    def _print(self, said: Any) -> None:
        stream = sys.stderr if said.is_error else self.stdout
        stream.write(f"[rank {said.rank}] {said.text}" if said.rank else said.text)
        stream.flush()

    def _at_work(self, ranks: int) -> None:
        """The ranks have been started: what is known of an earlier start is over."""
        again = " again" if self.starts else ""
        sys.stderr.write(f"rmx: Ray has started {_processes(ranks)}{again}\n")
        self.ranks, self.end, self.has_said_waiting = ranks, None, False
        self.starts += 1

    def _raise_end(self) -> None:
        """Return where all went well."""
        from ray.train import WorkerGroupError

        if isinstance(self.error, WorkerGroupError):
            raise RanksEnded(
                f"{self.lost or first_line(self.error)} (after launch.max_restarts={self.settings.max_restarts}; what "
                f"Ray says of it: {self.folder / _LOG})",
                1,
                by_accident=True,
            ) from self.error
        if self.error is not None:
            raise RmxError(
                f"launch=ray: Ray Train has failed: {first_line(self.error)}; {_LOGS} says more"
            ) from self.error
        if self.end is None:
            return
        code = self.end.exit_code
        if self.signals and code == Interrupted(signal.SIGTERM).exit_code:  # which the ranks get for any of them
            code = Interrupted(self.signals[0]).exit_code
        raise RanksEnded(self.end.message, code)


def _processes(number: int) -> str:
    return counted(number, "process", "processes")
