"""Killed at every file-system event of a run (F1), and at random again and again until it is done (F2)."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_harness import (
    InNthSave,
    assert_same,
    crash_at_event,
    finish,
    kill_when,
    metrics,
    needs_fork,
    run_child,
    staging,
    start,
    train,
    workflow,
)

pytestmark = needs_fork

# Two saves, each replacing one that is deleted: 10 steps, saves at 4, 8 and 10 (the end), one kept.
SAVES = {"save_steps": 4, "save_total_limit": 1, "eval_strategy": "no", "logging_steps": 5}


def events_of(models: Path, folder: Path) -> list[str]:
    """Every event of an undisturbed run, in order."""

    def counting() -> None:
        crash_at_event(0, folder / "run", count=folder / "events")
        train(workflow(folder / "run", models, **SAVES))

    child = run_child(counting, folder / "log")
    assert child.code == 0, child.text
    return (folder / "events").read_text().splitlines()


def crash_and_resume(number: int, models: Path, folder: Path) -> None:
    """Die at one event, see that it happened, finish."""

    def crashing() -> None:
        crash_at_event(number, folder / "run")
        train(workflow(folder / "run", models, **SAVES))

    assert run_child(crashing, folder / "log").code == -9
    finish(lambda: workflow(folder / "run", models, **SAVES), folder / "log")


def test_some_crash_points(models: Path, reference: Callable[..., Any], tmp_path: Path) -> None:
    """The rename of a stage, the one before it, and the deletion of an old checkpoint."""
    events = events_of(models, tmp_path / "counted")
    sealing = next(i for i, event in enumerate(events) if event.startswith("os.rename") and ".checkpoint-8." in event)
    deleting = next(i for i, event in enumerate(events) if event.startswith("os.rename") and "/checkpoint-" in event)
    assert events[deleting + 1].startswith("shutil.rmtree")
    for i in (sealing, sealing + 1, deleting + 1):
        crash_and_resume(i + 1, models, tmp_path / str(i))
        assert_same(tmp_path / str(i) / "run", reference(**SAVES))


@pytest.mark.slow
def test_every_crash_point(
    models: Path, reference: Callable[..., Any], figure: Callable[..., None], tmp_path: Path
) -> None:
    """No event of any kind under the run folder is a point of no return."""
    events = events_of(models, tmp_path / "counted")
    in_checkpoints = sum("/checkpoints" in event for event in events)
    assert in_checkpoints > 30
    for i in range(len(events)):
        crash_and_resume(i + 1, models, tmp_path / str(i))
        assert_same(tmp_path / str(i) / "run", reference(**SAVES))
    figure("F1 crash points", f"{len(events)} events, {in_checkpoints} in checkpoints/", f"{len(events)} identical")


def chain(models: Path, folder: Path, chance: random.Random, *, kills: int) -> tuple[int, int]:
    """Kill a run at random times, 60 % of them while it saves, then let it end; return kills, and those in a save."""
    done = inside = 0
    while done < kills:
        child = start(lambda: train(workflow(folder / "run", models, save_total_limit=2)), folder / "log")
        until = time.monotonic() + chance.uniform(0.05, 1.0)
        in_save = InNthSave(folder / "run", chance.randint(1, 3))
        if not kill_when(child, in_save if chance.random() < 0.6 else lambda until=until: time.monotonic() > until):
            break  # it got to its end
        done += 1
        inside += staging(folder / "run")
    finish(lambda: workflow(folder / "run", models, save_total_limit=2), folder / "log")
    return done, inside


def test_random_kills_in_short(models: Path, reference: Callable[..., Any], tmp_path: Path) -> None:
    """One run, up to three kills."""
    done, _ = chain(models, tmp_path, random.Random(int(os.environ.get("RMX_FAULT_SEED", "3"))), kills=3)
    assert done > 0
    assert_same(tmp_path / "run", reference(save_total_limit=2))
    steps = [row["step"] for row in metrics(tmp_path / "run") if row["phase"] == "train"]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_a_hundred_random_kills(
    models: Path, reference: Callable[..., Any], figure: Callable[..., None], tmp_path: Path
) -> None:
    """Runs are killed until a hundred kills are done; each run ends identical; at least 15 kills hit a save."""
    chance = random.Random(20)
    done = inside = runs = 0
    while done < 100:
        killed, in_save = chain(models, tmp_path / str(runs), chance, kills=min(10, 100 - done))
        assert_same(tmp_path / str(runs) / "run", reference(save_total_limit=2))
        done, inside, runs = done + killed, inside + in_save, runs + 1
    assert inside >= 15, "too few kills hit a save: the drill shows nothing"
    figure("F2 random kills", f"{done} SIGKILLs, {inside} inside a save, {runs} runs", f"{runs} identical")
