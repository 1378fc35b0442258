"""trainer.stop_after: a checkpoint before the time is up, exit code 75, and an identical ending.

The limit is 30 minutes, and the clock jumps by an hour at the chosen instant: without the jump nothing would stop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_harness import assert_same, at, final, finish, needs_fork, run_child, train, workflow
from test_faults_ranks import both

from rmx.training.time_limit import TimeLimit

pytestmark = needs_fork

SPARSE = {"save_steps": 4, "eval_steps": 3}
BY_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"}


def an_hour_passes() -> None:
    """In a child: from now on it is an hour later."""
    elapsed = TimeLimit.elapsed.fget
    TimeLimit.elapsed = property(lambda self: elapsed(self) + 3600)  # type: ignore[assignment,misc]


# Where the hour passes → the step whose checkpoint is left, and whether its evaluation was made before the stop.
PLACES = [
    ("backward", 1, SPARSE, 1, None),  # one step is always made
    ("backward", 5, SPARSE, 5, None),  # the end of an epoch is still to come
    ("backward", 6, SPARSE, 6, False),  # an evaluation that would end too late is left to the next start
    ("evaluating", 6, SPARSE, 6, True),  # one that is made is kept
    ("backward", 8, SPARSE, 8, None),  # a checkpoint that is due anyway is the last
    ("backward", 5, BY_EPOCH, 5, False),
    ("backward", 10, SPARSE, 10, False),  # the last step: what follows it is left
]


@pytest.mark.parametrize(("where", "step", "settings", "saved", "evaluated"), PLACES, ids=str)
def test_stopped_by_the_clock(
    where: str,
    step: int,
    settings: dict[str, Any],
    saved: int,
    evaluated: bool | None,
    models: Path,
    reference: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """The reference has no limit and the continuation another one: the limit is no setting that results depend on."""

    def stopped() -> None:
        at(where, step, an_hour_passes)
        train(workflow(tmp_path / "run", models, stop_after="30m", **settings))

    child = run_child(stopped, tmp_path / "log")
    assert child.code == 75, child.text[-2000:]
    assert "TimeUp: trainer.stop_after=30m: stopped after 1h" in child.text and "Traceback" not in child.text
    assert f"at step {saved} of 10, and saved " in child.text and "late)" in child.text
    assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run" / "train_results.json").exists()
    steps = {int(path.name.rsplit("-", 1)[1]) for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")}
    assert max(steps) == saved
    if evaluated is not None:
        rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert any(row["step"] == saved and row["phase"] == "eval" for row in rows) == evaluated
    finish(lambda: workflow(tmp_path / "run", models, stop_after="2h", **settings), tmp_path / "log2")
    assert_same(tmp_path / "run", reference(**settings))


def test_a_limit_that_leaves_no_time_for_a_step_is_refused(models: Path, tmp_path: Path) -> None:
    """Exit code 2, not 75: started again and again, it would never get on."""

    def late() -> None:
        an_hour_passes()
        train(workflow(tmp_path / "run", models, stop_after="30m"))

    child = run_child(late, tmp_path / "log")
    assert child.code == 2
    assert "trainer.stop_after: 30m is over before the first step: the job began 1h" in child.text
    assert not (tmp_path / "run" / "checkpoints").exists()


def first_alone(rank: int) -> None:
    """An hour passes in step 5 for the first of two ranks."""
    if rank == 0:
        at("backward", 5, an_hour_passes)


def second_alone(rank: int) -> None:
    """It passes for the second one, whose clock nobody asks."""
    if rank == 1:
        at("backward", 5, an_hour_passes)


def test_of_two_ranks_the_clock_of_the_first_decides_for_both(models: Path, tmp_path: Path) -> None:
    whole = both(models, tmp_path / "whole", second_alone, stop_after="30m")
    assert [child.code for child in whole] == [0, 0], [child.text[-1500:] for child in whole]
    stopped = both(models, tmp_path, first_alone, stop_after="30m")
    assert [child.code for child in stopped] == [75, 75], [child.text[-1500:] for child in stopped]
    assert all("trainer.stop_after=30m: stopped after 1h" in child.text for child in stopped)
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-5").is_dir()
    done = both(models, tmp_path)
    assert [child.code for child in done] == [0, 0], [child.text[-1500:] for child in done]
    wanted, found = final(tmp_path / "whole" / "run"), final(tmp_path / "run")
    assert not [key for key in wanted if wanted[key] != found[key]]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_stops_in_time_by_the_real_clock(processes: int, tmp_path: Path) -> None:
    """60 seconds, most of which the start takes; twice, and the second start goes on where the first has stopped."""
    command = [
        sys.executable, "-m", "rmx", f"output_dir={tmp_path / 'run'}", "trackers=[]", "trainer.stop_after=60s",
        "trainer.max_steps=100000", "phases=[train]", f"parallel.processes={processes}", "trainer.use_cpu=true",
    ]  # fmt: skip
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    reached = [0]
    for _ in range(2):
        started = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 75, done.stdout[-1000:] + done.stderr[-3000:]
        assert time.monotonic() - started < 75  # 60, and the end of processes on a busy machine
        (said,) = [line for line in done.stderr.splitlines() if line.startswith("rmx: ")]
        assert said.startswith("rmx: trainer.stop_after=60s: stopped after ") and "late" not in said
        reached.append(int(said.partition("at step ")[2].split()[0]))
    assert 0 < reached[1] < reached[2]
    assert "Continuing from" in (tmp_path / "run" / "run.log").read_text()
