"""Two nodes of a Slurm that the tests make on this machine: launch=slurm and deploy/slurm.sbatch, and a node's end.

gloo goes from one node to the other, by the addresses that their host names have; GLOO_SOCKET_IFNAME is not set.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import slow_steps
import slurm_cluster
from slurm_cluster import Slurm

REASON = slurm_cluster.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or "")]

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "data.size=46", "trackers=[]", "trainer.comparisons_per_step=8", "trainer.precision=fp32", "trainer.use_cpu=true",
    "trainer.optim=sgd", "trainer.learning_rate=0.01", "trainer.logging_steps=1",
]  # fmt: skip
SHORT = [*SETTINGS, "trainer.eval_steps=3", "trainer.save_steps=3", "trainer.max_steps=6"]
# Each step takes half a second at least, so that the run is still going on when something befalls it
SLOW = [
    *slow_steps.WORDS, *SETTINGS, "parallel=fsdp", "trainer.eval_strategy=no", "trainer.load_best_model_at_end=false",
    "phases=[train]",
]  # fmt: skip
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
WAIT_SECONDS = 1200.0


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    """Two nodes of two CPUs."""
    with slurm_cluster.cluster(2, cpus=2) as made:
        yield made


def environment(slurm: Slurm) -> dict[str, str]:
    found = {**os.environ, **slurm.variables(), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    found["PYTHONPATH"] = f"{ROOT}:{Path(__file__).parent}"
    found["PATH"] = f"{Path(sys.executable).parent}:{found['PATH']}"  # the batch script calls `python`
    found.pop("GLOO_SOCKET_IFNAME", None)
    return found


class Submitted:
    """A run of two nodes, submitted by one of two ways: the batch script, or `rmx launch=slurm`, which waits."""

    def __init__(self, slurm: Slurm, folder: Path, way: str, words: list[str], tasks: int = 1) -> None:
        self.slurm, self.folder, self.command = slurm, folder, None
        if way == "sbatch":
            size = ["--nodes=2", f"--ntasks-per-node={tasks}", "--gpus-per-node=0", "--cpus-per-task=1"]
            script = str(ROOT / "deploy" / "slurm.sbatch")
            line = ["sbatch", "--parsable", *size, "--time=00:30:00", script, *words]
            answer = slurm.control.run(*line, folder=folder, env=environment(slurm))
            self.job, self.run = answer.stdout.strip(), folder / "outputs" / f"slurm-{answer.stdout.strip()}"
            self.log = folder / f"rmx-{self.job}.out"
        else:
            launch = ["launch=slurm", "launch.nodes=2", f"parallel.processes={2 * tasks}", "launch.timeout_min=30"]
            self.job, self.run, self.log = "1", folder / "run", folder / ".submitit" / "1" / "1_0_log.err"
            self.errors = folder / "errors.txt"
            line = [sys.executable, "-m", "rmx", *words, *launch, f"output_dir={self.run}"]
            with self.errors.open("w") as file:
                self.command = slurm.control.start(*line, folder=folder, env=environment(slurm), stderr=file)

    def ended(self) -> tuple[str, int]:
        """Wait for the end; Slurm's word for it, and the exit code of the batch script or of the command."""
        if self.command is not None:
            return "", self.command.wait(WAIT_SECONDS)
        state = self.slurm.until(self.job, ENDS, WAIT_SECONDS)
        return state, int(self.slurm.detail(self.job, "ExitCode").partition(":")[0])

    @property
    def said(self) -> str:
        """What a person reads who looks for what has happened."""
        texts = [path.read_text() for path in (self.log, self.folder / "errors.txt") if path.exists()]
        return "\n".join(texts)

    def until_checkpoint(self, step: int) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while not (self.run / "checkpoints" / f"checkpoint-{step}").is_dir():
            assert time.monotonic() < end and self.slurm.state(self.job) not in ENDS, self.said[-3000:]
            time.sleep(0.2)

    def steps(self) -> list[int]:
        return [row["step"] for row in self.rows()]

    def losses(self) -> list[float]:
        return [row["train/loss"] for row in self.rows()]

    def rows(self) -> list[dict[str, float]]:
        return train_rows(self.run)


def train_rows(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["phase"] == "train"]


Submit = Callable[..., Submitted]


@pytest.fixture
def submit(slurm: Slurm, tmp_path: Path) -> Submit:
    return lambda way, words, tasks=1: Submitted(slurm, tmp_path, way, words, tasks)


@dataclass
class OneProcess:
    """The same run in one process."""

    losses: list[float]
    seconds: float  # from its start to its end, which tells how busy this machine is


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> OneProcess:
    folder = tmp_path_factory.mktemp("one") / "run"
    command = [sys.executable, "-m", "rmx", f"output_dir={folder}", *SHORT]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return OneProcess([row["train/loss"] for row in train_rows(folder)], time.monotonic() - began)


@pytest.mark.parametrize(
    ("way", "strategy", "tasks", "sizes"),
    [("launch", "ddp", 1, "2 processes with the whole model each"),
     ("sbatch", "fsdp", 1, "replicate=1 x shard=2 x tensor=1"),
     ("sbatch", "hsdp", 2, "replicate=2 x shard=2 x tensor=1")],
)  # fmt: skip
def test_two_nodes_train_as_one_process(
    way: str, strategy: str, tasks: int, sizes: str, submit: Submit, one_process: OneProcess
) -> None:
    """With hsdp the two tasks of a node divide the weights, by SLURM_LOCALID; that they did is in the log."""
    job = submit(way, [*SHORT, f"parallel={strategy}"], tasks)
    state, code = job.ended()
    assert code == 0, job.said[-3000:]
    assert state in ("COMPLETED", "")
    assert job.losses() == pytest.approx(one_process.losses, abs=1e-6)
    assert len(one_process.losses) == 6
    assert sizes in (job.run / "run.log").read_text()


@pytest.mark.parametrize("way", ["sbatch", "launch"])
def test_a_job_whose_time_is_up_goes_on_until_it_is_done(
    way: str, submit: Submit, slurm: Slurm, one_process: OneProcess
) -> None:
    """More steps of half a second than fit into the limit: it takes two starts at least. The first ends with 75."""
    limit, steps = slow_steps.limit_and_steps(one_process.seconds)
    words = [*SLOW, f"trainer.max_steps={steps}", "trainer.save_steps=100000", f"trainer.stop_after={limit}s"]
    job = submit(way, words)
    _, code = job.ended()
    assert code == 0, job.said[-3000:]
    assert job.steps() == list(range(1, steps + 1))
    if way == "sbatch":
        restarts = int(slurm.detail(job.job, "Restarts"))
        assert job.said.count("the same command continues") == job.said.count("Continuing from") == restarts >= 1
    else:
        jobs = re.findall(r"^rmx: submitted job (\d+)", job.said, re.MULTILINE)
        assert len(set(jobs)) == len(jobs) == 1 + job.said.count("submitting it again") >= 2


@pytest.mark.parametrize(
    ("way", "lost", "cable"), [("sbatch", "node2", False), ("launch", "node1", False), ("sbatch", "node2", True)]
)
def test_a_lost_node_puts_the_job_back_into_the_queue_and_it_goes_on(
    way: str, lost: str, cable: bool, submit: Submit, slurm: Slurm
) -> None:
    """All of a node's processes are killed; or its cable is pulled first, so that nobody hears of it.

    Slurm notices after SlurmdTimeout, takes the job from the other node too, and queues it again under its number. It
    starts when the node is back. On `node1` run the batch script, rank 0 and the notes of all ranks.
    """
    words = [*SLOW, "trainer.max_steps=30", "trainer.save_steps=10", "parallel.timeout_minutes=0.25"]
    job = submit(way, words)
    job.until_checkpoint(10)
    machine = slurm.network.machines[lost]
    if cable:
        slurm.network.pull(machine)
    machine.off()
    slurm.until(job.job, ["PENDING"], 120)
    assert slurm.detail(job.job, "Restarts") == "1"
    slurm.network.restart(machine)
    slurm.start_node(lost)
    _, code = job.ended()
    assert code == 0, job.said[-3000:]
    assert job.steps() == list(range(1, 31))
    survivor = job.said if way == "sbatch" else (job.log.parent / "1_1_log.err").read_text()
    other = 1 if lost == "node2" else 0
    (message,) = re.findall(r"^rmx: rank .*$", survivor, re.MULTILINE)
    assert message.startswith(f"rmx: rank {1 - other} on node{2 - other}, "), message
    assert f"while waiting for rank {other}" in message
    assert ("got no answer in time" if cable else "lost its connection") in message
    assert survivor.count("Exception raised from") <= 2  # torch's C++ stacks, above the message


@pytest.mark.parametrize("way", ["sbatch", "launch"])
def test_a_killed_rank_ends_the_job_with_one_message(way: str, submit: Submit, slurm: Slurm) -> None:
    """Nothing starts it again: a rank that is killed, for its memory perhaps, would be killed again."""
    job = submit(way, [*SLOW, "trainer.max_steps=100000", "trainer.save_steps=10"])
    job.until_checkpoint(10)
    # A rank that srun has started is the only such process there; submitit's task starts it as a child
    slurm.network.machines["node2"].run("pkill", "-KILL", "--full", "m[ ]rmx .*output_dir=")
    killed = time.monotonic()
    state, code = job.ended()
    assert time.monotonic() - killed < 60
    assert slurm.detail(job.job, "Restarts") == "0"
    assert (state, code) == (("FAILED", 137) if way == "sbatch" else ("", 1)), job.said[-3000:]
    assert len(set(re.findall(r"^rmx: rank .*$", job.said, re.MULTILINE))) == 1, job.said[-3000:]
    assert "rmx: rank 0 on node1, " in job.said and "while waiting for rank 1 (node2, " in job.said
