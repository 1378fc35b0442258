"""SIGTERM, SIGUSR1 and Ctrl-C: a checkpoint at the end of the step, the right exit code, an identical ending (F7)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_harness import assert_same, at, finish, needs_fork, run_child, train, workflow

from rmx.errors import Interrupted
from rmx.run.signals import StopSignals

pytestmark = needs_fork

SPARSE = {"save_steps": 4, "eval_steps": 3}
BY_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"}


def stop_and_resume(
    folder: Path,
    models: Path,
    where: str,
    step: int,
    *,
    number: int = signal.SIGTERM,
    times: int = 1,
    settings: dict[str, Any] = SPARSE,
) -> int:
    """Send a run signals there, see that it stopped as it should, and finish it; the step of its last checkpoint."""

    def stopped() -> None:
        at(where, step, lambda: [os.kill(os.getpid(), number) for _ in range(times)])
        train(workflow(folder / "run", models, **settings))

    child = run_child(stopped, folder / "log")
    assert child.code == (130 if number == signal.SIGINT else 143), child.text[-2000:]
    assert "Traceback" not in child.text and "the same command in this folder continues" in child.text
    assert not (folder / "run" / "model").exists() and not (folder / "run" / "train_results.json").exists()
    saved = max(int(p.name.rsplit("-", 1)[1]) for p in (folder / "run" / "checkpoints").glob("checkpoint-*"))
    finish(lambda: workflow(folder / "run", models, **settings), folder / "log")
    return saved


QUICK = [
    ("backward", 6, signal.SIGTERM, 6, SPARSE),  # in a step: saved at its end
    ("evaluating", 6, signal.SIGUSR1, 6, SPARSE),  # the evaluation is broken off, and made again after the resume
    ("saving", 8, signal.SIGINT, 8, SPARSE),
    ("evaluating", 5, signal.SIGTERM, 5, BY_EPOCH),  # the end of an epoch is still to come when it is resumed
]


@pytest.mark.parametrize(("where", "step", "number", "saved", "settings"), QUICK)
def test_stopped_by_a_signal(
    where: str,
    step: int,
    number: int,
    saved: int,
    settings: dict[str, Any],
    models: Path,
    reference: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Saved at the end of the step it came in; three in a row do what one does."""
    step_saved = stop_and_resume(tmp_path, models, where, step, number=number, times=3, settings=settings)
    assert step_saved == saved
    assert_same(tmp_path / "run", reference(**settings))


@pytest.mark.slow
def test_signals_everywhere(
    models: Path, reference: Callable[..., Any], figure: Callable[..., None], tmp_path: Path
) -> None:
    """Twelve places with both signals, also at an epoch's and at the training's end."""
    places = [
        ("begin", 1), ("backward", 1), ("end", 1), ("loading", 2), ("evaluating", 3), ("begin", 5), ("end", 5),
        ("saving", 4), ("loading", 6), ("evaluating", 9), ("backward", 10), ("end", 10),
    ]  # fmt: skip
    count = 0
    for settings in (SPARSE, BY_EPOCH):
        for where, step in places:
            if settings is BY_EPOCH and where in ("saving", "evaluating"):
                where, step = where, 5
            for number in (signal.SIGTERM, signal.SIGUSR1) if settings is SPARSE else (signal.SIGINT,):
                folder = tmp_path / f"{where}{step}{number}{count}"
                stop_and_resume(folder, models, where, step, number=number, times=2, settings=settings)
                assert_same(folder / "run", reference(**settings))
                count += 1
    figure("F7 signals", f"{count} stops at {len(places)} places, SIGTERM, SIGUSR1, SIGINT", f"{count} identical")


def test_before_training_it_ends_at_once(models: Path, tmp_path: Path) -> None:
    """While data and model are read there is nothing to save: the exit code, and no checkpoint."""

    def stopped() -> None:
        from rmx.data import SyntheticData

        original = SyntheticData.read

        def read(self: Any, *args: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return original(self, *args)

        SyntheticData.read = read  # type: ignore[method-assign]
        train(workflow(tmp_path / "run", models))

    child = run_child(stopped, tmp_path / "log")
    assert child.code == 143 and "stopped by signal 15" in child.text and "Traceback" not in child.text
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_data_workers_outlive_the_signal(models: Path, reference: Callable[..., Any], tmp_path: Path) -> None:
    """Slurm and a terminal signal the whole group: the workers must not die of it before the checkpoint is made."""
    settings = {**SPARSE, "dataloader_num_workers": 2}

    def stopped() -> None:
        os.setpgrp()
        at("backward", 2, lambda: os.killpg(os.getpgrp(), signal.SIGTERM))
        train(workflow(tmp_path / "run", models, **settings))

    child = run_child(stopped, tmp_path / "log")
    assert child.code == 143, child.text[-3000:]
    finish(lambda: workflow(tmp_path / "run", models, **settings), tmp_path / "log")
    assert_same(tmp_path / "run", reference(**settings))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_command_line(number: int, code: int, figure: Callable[..., None], tmp_path: Path) -> None:
    """The program itself: stopped while it trains, and continued by the same command."""
    command = [sys.executable, "-m", "rmx", f"output_dir={tmp_path}/run", "trainer.max_steps=30", "trackers=[]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        metrics = tmp_path / "run" / "metrics.jsonl"
        while running.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.05)
        running.send_signal(number)
        assert running.wait(120) == code, (tmp_path / "log").read_text()
    assert list((tmp_path / "run" / "checkpoints").glob("checkpoint-*")) and not (tmp_path / "run" / "model").exists()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 30
    figure("F7 command line", signal.Signals(number).name, f"exit {code}, continued to the end")


def test_handlers_are_put_back() -> None:
    """Outside the block signals act as they did before it, nested or not."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    signals = StopSignals()
    with signals, signals:
        assert signal.getsignal(signal.SIGTERM) == signals._handle
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("first", [signal.SIGUSR1, signal.SIGUSR2])
def test_deferred_and_prompt(first: signal.Signals) -> None:
    """In `deferred` a signal leaves a note; in `prompt` within it, it interrupts; and the second is not heard."""
    signals = StopSignals()
    with signals, signals.deferred():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == first
        with pytest.raises(Interrupted), signals.prompt():
            pytest.fail("a signal had come before")
    assert Interrupted(15).exit_code == 143 and Interrupted(2).exit_code == 130
