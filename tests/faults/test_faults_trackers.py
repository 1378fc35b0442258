"""wandb without a key, refused, silent, or dying in the middle (F8): training ends, soon, and the run keeps its id."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_harness import Child, assert_same, at, die, needs_fork, run_child, train, workflow

from rmx.errors import Interrupted, OutputError
from rmx.trackers import Recorder

pytestmark = needs_fork
slow = pytest.mark.slow  # wandb starts a service process: seconds, each time

KEY = "0123456789abcdef0123456789abcdef01234567"
SMALL = {"num_train_epochs": 1, "save_steps": 5}


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A port that accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield int(server.getsockname()[1])


def tracked(folder: Path, models: Path, environment: dict[str, str], before: Callable[[], None] = lambda: None) -> Any:
    """A function for a child: train with wandb under an environment."""

    def work() -> None:
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            del os.environ[name]
        os.environ |= {"HOME": str(folder), "NETRC": str(folder / "netrc"), **environment}
        flow = workflow(folder / "run", models, **SMALL)
        flow.trackers = ["wandb"]
        before()
        train(flow)

    return work


def seconds(work: Callable[[], None], log: Path) -> tuple[Child, float]:
    started = time.monotonic()
    return run_child(work, log), time.monotonic() - started


@slow
def test_network_faults(
    models: Path, silent_server: int, reference: Callable[..., Any], figure: Callable[..., None], tmp_path: Path
) -> None:
    """Added wall time against no tracker at all: < 20 s in every case."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    cases = {
        "no key": {},
        "refused": {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"http://127.0.0.1:{closed}"},
        "black hole": {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"http://127.0.0.1:{silent_server}"},
        "malformed key": {"WANDB_API_KEY": "not-a-key"},
    }
    wanted = reference(**SMALL)
    _, alone = seconds(lambda: train(workflow(tmp_path / "alone" / "run", models, **SMALL)), tmp_path / "log")
    for name, environment in cases.items():
        folder = tmp_path / name.replace(" ", "-")
        child, took = seconds(tracked(folder, models, environment), folder / "log")
        assert child.code == 0, (name, child.text[-3000:])
        assert_same(folder / "run", wanted)
        assert list((folder / "run" / "wandb").glob("offline-run-*")), name
        assert took - alone < 20, (name, took, alone)
        figure("F8 wandb", name, f"trained, +{took - alone:.1f} s")


@slow
def test_same_run_after_a_resume(models: Path, tmp_path: Path) -> None:
    """The id is on the disk before wandb knows it."""
    work = tracked(tmp_path, models, {"WANDB_MODE": "offline"}, lambda: at("begin", 4, die))
    assert run_child(work, tmp_path / "log").code == -9
    made = json.loads((tmp_path / "run" / "wandb_run.json").read_text())["id"]
    assert run_child(tracked(tmp_path, models, {"WANDB_MODE": "offline"}), tmp_path / "log").code == 0
    runs = {path.name.rsplit("-", 1)[1] for path in (tmp_path / "run" / "wandb").glob("offline-run-*")}
    assert runs == {made}


class Dying:
    """A tracker that fails from the second call on."""

    name = "dying"

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    def log(self, step: int, epoch: float | None, values: Any) -> None:
        self.calls += 1
        if self.calls > 1:
            raise self.error

    def summary(self, values: Any, plots: Any) -> None: ...

    def close(self, exit_code: int) -> None: ...


def test_a_tracker_that_dies_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """One warning; but a signal or a full disk under metrics.jsonl is no tracker's failure."""
    dying = Dying(ConnectionError("gone"))
    recorder = Recorder([dying])
    for step in range(4):
        recorder.log(step, None, "train", {"loss": 0.5})
    assert dying.calls == 2 and recorder.trackers == []
    for error in (Interrupted(15), OutputError("full")):
        with pytest.raises(type(error)):
            recorder = Recorder([Dying(error)])
            recorder.log(1, None, "train", {"loss": 0.5})
            recorder.log(2, None, "train", {"loss": 0.5})
