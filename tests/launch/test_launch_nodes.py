"""Two nodes: two torchrun agents that meet over loopback, as on two machines; the command is the one of the guide.

torchrun --nnodes=2 --node-rank=0 --master-addr=127.0.0.1 --master-port=29500 --nproc-per-node=1 -m rmx ...
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machines
import pytest
from test_launch_faults import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "trackers=[]", "trainer.comparisons_per_step=8", "trainer.precision=fp32", "trainer.use_cpu=true",
    "trainer.optim=sgd", "trainer.learning_rate=0.01", "trainer.logging_steps=1", "trainer.eval_steps=3",
    "trainer.save_steps=3",
)  # fmt: skip
SHORT = (*SETTINGS, "data.size=46", "trainer.max_steps=6")
ENDLESS = (*SETTINGS, "trainer.max_steps=100000", "trainer.eval_strategy=no", "trainer.load_best_model_at_end=false")
ENDLESS = (*(word for word in ENDLESS if not word.startswith("trainer.eval_steps")), "phases=[train]")


@dataclass
class Node:
    """One torchrun agent and what it has printed."""

    process: subprocess.Popen[Any]
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def kill(self, number: int) -> None:
        """Send a signal to the agent and its rank, which elastic launchers put into a session of its own."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        for pid in (self.process.pid, *map(int, children.stdout.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def said(self) -> list[str]:
        """The lines that are rmx's last word."""
        return [line for line in self.text.splitlines() if line.startswith("rmx: ")]


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[Callable[..., list[Node]]]:
    """Start two agents, each in a folder of its own with an output_dir that they share."""
    started: list[Node] = []

    def start(*words: str, processes: int = 1) -> list[Node]:
        port = free_port()
        for number in (0, 1):
            folder = tmp_path / f"node{number}"
            folder.mkdir(exist_ok=True)
            command = [
                sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={number}",
                "--master-addr=127.0.0.1", f"--master-port={port}", f"--nproc-per-node={processes}", "-m", "rmx",
                f"output_dir={tmp_path / 'run'}", *words,
            ]  # fmt: skip
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
            output = folder / "output.txt"
            with output.open("wb") as file:
                process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
            started.append(Node(process, output))
        return started

    yield start
    for node in started:
        if node.process.poll() is None:
            node.kill(signal.SIGKILL)
        node.process.wait()


def ended(nodes: list[Node], seconds: float) -> list[int]:
    """Wait for both; they have to end within that time."""
    until = time.monotonic() + seconds
    return [node.process.wait(max(0.1, until - time.monotonic())) for node in nodes]


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if row["phase"] == "train"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of the same run in one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    command = [sys.executable, "-m", "rmx", f"output_dir={folder}", *SHORT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(folder)


@pytest.mark.parametrize(
    ("strategy", "processes", "sizes"),
    [("ddp", 1, "2 processes with the whole model each"), ("fsdp", 1, "replicate=1 x shard=2 x tensor=1"),
     ("hsdp", 2, "replicate=2 x shard=2 x tensor=1")],
)  # fmt: skip
def test_two_nodes_train_as_one_process(
    strategy: str,
    processes: int,
    sizes: str,
    one_process: list[float],
    two_nodes: Callable[..., list[Node]],
    tmp_path: Path,
) -> None:
    """With hsdp, the two processes of a node divide the weights; that they did is in the log."""
    nodes = two_nodes(*SHORT, f"parallel={strategy}", processes=processes)
    assert ended(nodes, 300) == [0, 0], [node.text[-3000:] for node in nodes]
    assert losses(tmp_path / "run") == pytest.approx(one_process, abs=1e-6)
    assert len(one_process) == 6
    assert sizes in (tmp_path / "run" / "run.log").read_text()


@pytest.mark.skipif((REASON := machines.why_not()) is not None, reason=REASON or "")
def test_two_machines_train_as_one_process(one_process: list[float], tmp_path: Path) -> None:
    """Host names, addresses and processes of their own, a network between them; nothing says which interface."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("GLOO_SOCKET_IFNAME", None)
    with machines.joined(tmp_path, "node1", "node2") as network:
        nodes = []
        for number, machine in enumerate(network.machines.values()):
            output = tmp_path / f"{machine.name}.txt"
            command = [
                sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={number}",
                "--master-addr=node1", "--master-port=29500", "--nproc-per-node=1", "-m", "rmx",
                f"output_dir={tmp_path / 'run'}", *SHORT, "parallel=fsdp",
            ]  # fmt: skip
            with output.open("wb") as file:
                process = machine.start(*command, folder=tmp_path, env=environment, stdout=file, stderr=file)
            nodes.append(Node(process, output))
        assert ended(nodes, 300) == [0, 0], [node.text[-3000:] for node in nodes]
    assert losses(tmp_path / "run") == pytest.approx(one_process, abs=1e-6)
    assert "replicate=1 x shard=2 x tensor=1" in (tmp_path / "run" / "run.log").read_text()


def test_nodes_with_other_data_are_refused_in_one_message(two_nodes: Callable[..., list[Node]], tmp_path: Path) -> None:
    """The path is the same on both, the last rejected answer is not; torchrun itself always ends with 1."""
    for number in (0, 1):
        rows = [{"prompt": f"{i} and {i}?", "chosen": f"{2 * i}.", "rejected": f"{2 * i + 1}."} for i in range(40)]
        rows[-1]["rejected"] = f"{number}."
        folder = tmp_path / f"node{number}"
        folder.mkdir()
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    nodes = two_nodes(*SETTINGS, "trainer.max_steps=6", "parallel=fsdp", "data=jsonl", "data.path=rows.jsonl")
    assert ended(nodes, 120) == [1, 1]
    assert all("exitcode  : 2 " in node.text for node in nodes)
    (said,) = [line for node in nodes for line in node.said]
    assert said.startswith("rmx: data: rank 0 on ") and "have read other rows" in said
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("lost", "number"), [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP), (0, signal.SIGSTOP)]
)
def test_the_other_node_ends_and_says_what_it_waited_for(
    lost: int, number: int, two_nodes: Callable[..., list[Node]], tmp_path: Path
) -> None:
    """A node that dies is noticed by its connections; one that is silent when the 15 seconds are over."""
    nodes = two_nodes(*ENDLESS, "parallel=fsdp", "parallel.timeout_minutes=0.25")
    until = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "checkpoint-6").is_dir() and time.monotonic() < until:
        assert all(node.process.poll() is None for node in nodes), [node.text[-3000:] for node in nodes]
        time.sleep(0.1)
    nodes[lost].kill(number)
    left = nodes[1 - lost]
    assert left.process.wait(60) == 1
    (said,) = left.said
    assert said.startswith(f"rmx: rank {1 - lost} on "), said
    assert "at step " in said or "after step " in said or "saving the checkpoint" in said
    assert f"while waiting for rank {lost}" in said
    if lost == 0:  # with whose agent the notes of all ranks are gone
        assert "keeps the notes of all ranks at 127.0.0.1:" in said
    else:
        assert f"while waiting for rank {lost} (" in said and "last seen " in said
