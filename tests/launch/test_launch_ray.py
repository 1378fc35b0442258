"""launch=ray on real Ray clusters of this machine: losses, lost ranks and machines, mistakes, signals, what is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch.distributed as dist
from test_launch_clusters import ROOT, losses, rmx
from workflows import make_workflow

from rmx.errors import ConfigError
from rmx.launch.board import Board, Failure
from rmx.launch.ray_cluster import RayRanks
from rmx.parallel import Replicated, Sharded
from rmx.reference.kept_files import file_of

ray_worker = pytest.importorskip("rmx.launch.ray_worker")

STEPS = 60
WORDS = [
    "data.size=46", "trackers=[]", f"trainer.max_steps={STEPS}", "trainer.comparisons_per_step=8", "phases=[train]",
    "trainer.precision=fp32", "trainer.use_cpu=true", "trainer.optim=sgd", "trainer.learning_rate=0.01",
    "trainer.logging_steps=1", "trainer.save_steps=5", "trainer.eval_strategy=no",
    "trainer.load_best_model_at_end=false",
]  # fmt: skip
ON_RAY = ["launch=ray", "launch.gpus_per_process=0", "parallel.processes=2"]


# --- What becomes of a rank's end -------------------------------------------------------------------------------------


def a_board(*failures: Failure, ranks: int = 2) -> Board:
    """Notes that the worker of one rank reads."""
    board = Board(dist.HashStore(), None, ranks)
    for failure in failures:
        board.failed(failure)
    return board


def exit_of(code: int) -> Any:
    return SimpleNamespace(exitcode=code, timestamp=time.time())


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_worker, "_SECONDS_TO_HEAR", 0.0)


def test_a_mistake_ends_the_job_whoever_found_it() -> None:
    """Rank 1 found it, rank 0 lost its connection because of it: both workers say the same, and none raises."""
    mistake = Failure(1, "ConfigError", "data: no such file", 2, "b", time.time())
    follows = Failure(0, "RankError", "lost its connection", 1, "a", time.time())
    board = a_board(mistake, follows)
    for rank, code in ((0, 1), (1, 2)):
        end = ray_worker._judged(board, rank, exit_of(code), asked=False)
        assert (end.message, end.exit_code) == ("rank 1 on b: data: no such file", 2)


def test_the_end_of_the_time_is_no_accident() -> None:
    board = a_board(*(Failure(rank, "TimeUp", "its time is up", 75, "a", time.time()) for rank in (0, 1)))
    assert ray_worker._judged(board, 0, exit_of(75), asked=False) == ray_worker.RankEnded("its time is up", 75)


@pytest.mark.usefixtures("at_once")
def test_a_killed_rank_and_one_that_lost_it_raise() -> None:
    board = a_board(Failure(0, "RankError", "rank 0 lost its connection", 1, "a", time.time()))
    with pytest.raises(ray_worker.RankLost, match=r"^rank 1, which has not started, was killed by SIGKILL"):
        ray_worker._judged(board, 1, exit_of(-9), asked=False)
    with pytest.raises(ray_worker.RankLost, match=r"^rank 0 lost its connection$"):
        ray_worker._judged(board, 0, exit_of(1), asked=False)


def test_a_rank_that_is_alone_is_not_called_one_that_has_not_started() -> None:
    with pytest.raises(ray_worker.RankLost, match=r"^the process on \S+, was killed by SIGKILL"):
        ray_worker._judged(a_board(ranks=1), 0, exit_of(-9), asked=False)


def test_a_signal_of_the_user_is_no_accident() -> None:
    """Rank 0 was importing and died of it: Python ends with -15."""
    end = ray_worker._judged(a_board(), 0, exit_of(-15), asked=True)
    assert end.exit_code == 143 and end.message.startswith("stopped by signal 15")


def test_a_folder_that_a_machine_lacks_is_named(tmp_path: Path) -> None:
    task = SimpleNamespace(folder=str(tmp_path), shared=str(tmp_path / "run"))
    assert re.search(r"the run folder is not on \S+: .*/run; all machines", ray_worker._missing_folder(task))
    (tmp_path / "run").mkdir()
    assert ray_worker._missing_folder(task) == ""


# --- Settings ---------------------------------------------------------------------------------------------------------


def test_what_each_worker_asks_of_ray() -> None:
    assert RayRanks(cpus_per_process=4).room == {"CPU": 4, "GPU": 1}
    assert RayRanks(gpus_per_process=0).room == {"CPU": 1}
    with pytest.raises(ConfigError, match=r"launch.gpus_per_process"):
        RayRanks(gpus_per_process=2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"launch.address: ray://a:10001: .* ray job submit"):
        RayRanks(address="ray://a:10001")


def test_a_run_that_may_shrink_has_steps_of_one_size(tmp_path: Path) -> None:
    launch = RayRanks(min_processes=1)
    with pytest.raises(ConfigError, match=r"launch.min_processes=1: .* give trainer.comparisons_per_step"):
        make_workflow(tmp_path, launch=launch).refuse_fixed_ranks(2)
    flow = make_workflow(tmp_path, launch=launch, trainer_comparisons_per_step=8)
    flow.refuse_fixed_ranks(2)
    object.__setattr__(flow, "parallel", Replicated())
    with pytest.raises(ConfigError, match=r"launch.min_processes=1: the run may go on with 1: parallel=ddp"):
        flow.refuse_fixed_ranks(2)
    object.__setattr__(flow, "parallel", Sharded(shard="auto", replicate=2))
    with pytest.raises(ConfigError, match=r"the run may go on with 1: parallel"):
        flow.refuse_fixed_ranks(2)
    object.__setattr__(flow, "launch", RayRanks(min_processes=2))
    object.__setattr__(flow, "parallel", Sharded(shard="auto"))
    flow.refuse_fixed_ranks(4)
    object.__setattr__(flow, "parallel", Sharded(shard="auto", replicate="auto"))  # hsdp on machines of 2 and 1
    with pytest.raises(ConfigError, match=r"the run may go on with 3: parallel: .* are 2 processes, and there are 3"):
        flow.refuse_fixed_ranks(4)


# --- Real clusters ----------------------------------------------------------------------------------------------------


def ranks_of(folder: Path) -> dict[int, psutil.Process]:
    """The processes that train into this folder, by rank; not the command that waits for them."""
    found = {}
    for process in psutil.process_iter():
        try:
            variables = process.environ() if f"output_dir={folder}" in process.cmdline() else {}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if "RMX_IS_RANK" in variables:
            found[int(variables.get("RANK", "0"))] = process
    return found


def of_ray() -> set[int]:
    """Ray's own processes."""
    return {p.pid for p in psutil.process_iter(["name"]) if p.info["name"] in ("raylet", "gcs_server")}


class Job:
    """The command, at work."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder, self.before = folder, of_ray()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self.output = folder.with_suffix(".txt")
        common = [word for word in WORDS if "data=jsonl" not in words or not word.startswith("data.")]
        command = [sys.executable, "-m", "rmx", *common, *ON_RAY, f"output_dir={folder}", *words]
        with self.output.open("w") as stream:
            self.process = subprocess.Popen(command, cwd=folder.parent, env=environment, stdout=stream, stderr=stream)

    @property
    def text(self) -> str:
        return self.output.read_text()

    def said(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith("rmx: ")]

    def wait_for_checkpoint(self, step: int, seconds: float = 900) -> None:
        until = time.monotonic() + seconds
        while not (self.folder / "checkpoints" / f"checkpoint-{step}").is_dir():
            assert self.process.poll() is None and time.monotonic() < until, self.text[-4000:]
            time.sleep(0.05)

    def end(self, seconds: float = 900) -> int:
        code = self.process.wait(seconds)
        assert "Traceback" not in self.text, self.text[-6000:]
        assert not ranks_of(self.folder)
        return code

    def continued_from(self) -> list[int]:
        return [int(step) for step in re.findall(r"Continuing from .*checkpoint-(\d+)", self.log)]

    @property
    def log(self) -> str:
        return (self.folder / "run.log").read_text()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Start a job; whatever is left of it ends with the test."""
    started: list[Job] = []

    def start(*words: str) -> Job:
        started.append(Job(tmp_path / "run", *words))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of the same run in one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    done = rmx(folder.parent, *WORDS, f"output_dir={folder}")
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(folder)


@pytest.mark.slow
def test_a_killed_rank_starts_again_and_ends_as_if_nothing_had_been(
    job: Callable[..., Job], undisturbed: list[float]
) -> None:
    run = job()
    run.wait_for_checkpoint(10)
    victim = ranks_of(run.folder)[1]
    assert victim.environ()["CUDA_VISIBLE_DEVICES"] == ""  # launch.gpus_per_process=0
    victim.kill()
    assert run.end() == 0, run.text[-4000:]
    assert f"process {victim.pid}), last seen" in run.text and "was killed by SIGKILL" in run.text
    assert run.text.count("rmx: Ray has started 2 processes") == 2
    (step,) = run.continued_from()
    assert 10 <= step < STEPS
    assert len(undisturbed) == STEPS
    assert losses(run.folder) == pytest.approx(undisturbed, abs=1e-5)
    assert of_ray() <= run.before  # nothing is left running
    left = [path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()]
    assert ".ray/ray.log" in left and [name for name in left if file_of(name) is None] == []


@pytest.mark.slow
def test_kills_beyond_the_limit_are_one_message(job: Callable[..., Job]) -> None:
    run = job("launch.max_restarts=0")
    run.wait_for_checkpoint(5)
    ranks_of(run.folder)[0].kill()
    assert run.end() == 1
    assert "was killed by SIGKILL" in run.said()[-1] and "launch.max_restarts=0" in run.said()[-1]
    assert run.text.count("rmx: Ray has started") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_continues(
    number: signal.Signals, code: int, job: Callable[..., Job], undisturbed: list[float]
) -> None:
    run = job()
    run.wait_for_checkpoint(5)
    run.process.send_signal(number)
    assert run.end() == code, run.text[-4000:]
    assert run.said()[-1].startswith("rmx: stopped by signal 15; saved ")
    assert of_ray() <= run.before
    again = job()
    assert again.end() == 0
    assert again.continued_from() and losses(again.folder) == pytest.approx(undisturbed, abs=1e-5)


@pytest.mark.slow
def test_a_lost_command_leaves_nothing_running(job: Callable[..., Job]) -> None:
    run = job()
    run.wait_for_checkpoint(5)
    assert ranks_of(run.folder) and of_ray() - run.before
    run.process.kill()
    until = time.monotonic() + 60
    while (ranks_of(run.folder) or of_ray() - run.before) and time.monotonic() < until:
        time.sleep(0.5)
    assert not ranks_of(run.folder) and not of_ray() - run.before


@pytest.fixture
def two_machines() -> Iterator[Any]:
    """A cluster of two raylets with a CPU each; the command meets the first."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.second = cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_a_lost_machine_leaves_a_run_of_one_process(
    job: Callable[..., Job], two_machines: Any, undisturbed: list[float]
) -> None:
    """Two processes, then one, of which there is the room that is left: the same losses, from the checkpoint on."""
    words = [f"launch.address={two_machines.address}", "launch.min_processes=1"]
    run = job(*words, "launch.wait_minutes=5", "trainer.save_steps=1")
    run.wait_for_checkpoint(5)
    assert len(ranks_of(run.folder)) == 2
    two_machines.remove_node(two_machines.second, allow_graceful=False)
    until = time.monotonic() + 200
    while "Continuing from" not in run.log and time.monotonic() < until:
        time.sleep(0.05)
    assert len(ranks_of(run.folder)) == 1
    assert run.end() == 0, run.text[-4000:]
    assert re.search(r"rmx: rank \d was lost with its machine or its Ray worker", run.text)
    assert "rmx: Ray has started 1 process again" in run.text
    assert "ranks was 2 and is 1" in run.log
    assert losses(run.folder) == pytest.approx(undisturbed, abs=1e-5)
    assert "(raylet)" not in run.text and "(raylet)" in (run.folder / ".ray" / "ray.log").read_text()


@pytest.mark.slow
def test_a_new_machine_joins_and_no_step_is_lost(job: Callable[..., Job], two_machines: Any) -> None:
    """It starts on one machine of two; the ranks save before Ray starts them again, so that no step is made twice."""
    two_machines.remove_node(two_machines.second)
    words = [f"launch.address={two_machines.address}", "launch.min_processes=1", "launch.resize_every_seconds=5"]
    run = job(*words, "launch.wait_minutes=5", "trainer.max_steps=5000", "trainer.save_total_limit=2")
    run.wait_for_checkpoint(5)
    assert len(ranks_of(run.folder)) == 1
    two_machines.add_node(num_cpus=1)
    until = time.monotonic() + 400
    while "ranks was 1 and is 2" not in run.log and time.monotonic() < until:
        time.sleep(0.1)
    run.process.terminate()
    assert run.end() == 143, run.text[-4000:]
    (step,) = run.continued_from()
    steps = [int(number) for number in re.findall(r"^step (\d+)/5000: loss", run.text, re.MULTILINE)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= step


@pytest.mark.slow
def test_each_process_gets_a_gpu_of_ray_and_sees_those_of_its_machine(job: Callable[..., Job]) -> None:
    """Ray believes in two GPUs here; the ranks train on the CPU, with the variables that they would have there."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2, "include_dashboard": False})
    try:
        words = [f"launch.address={cluster.address}", "launch.gpus_per_process=1", "parallel.processes=auto"]
        run = job(*words, "launch.wait_minutes=5")
        run.wait_for_checkpoint(5)
        variables = {rank: process.environ() for rank, process in ranks_of(run.folder).items()}
        assert {rank: of["LOCAL_RANK"] for rank, of in variables.items()} == {0: "0", 1: "1"}
        assert {of["CUDA_VISIBLE_DEVICES"] for of in variables.values()} == {"0,1"}
        assert run.end() == 0, run.text[-4000:]
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_a_mistake_is_said_once_and_nothing_is_tried_again(job: Callable[..., Job]) -> None:
    """The file is missed by the ranks, not by the command."""
    run = job("data=jsonl", "data.path=nowhere.jsonl")
    assert run.end() == 2, run.text[-4000:]
    assert run.text.count("nowhere.jsonl") == 1, run.text
    assert run.text.count("rmx: Ray has started") == 1


@pytest.mark.slow
def test_more_processes_than_this_machine_has_room_for(tmp_path: Path) -> None:
    done = rmx(tmp_path, *WORDS, "launch=ray", "launch.gpus_per_process=0", "parallel.processes=999")
    assert done.returncode == 2
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("rmx: ")]
    assert "launch=ray: 999 processes of {'CPU': 1} each find no room; the cluster has {'CPU': " in said
