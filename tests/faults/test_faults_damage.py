"""A damaged newest checkpoint is noticed, set aside and replaced by the one before it (F4)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_harness import assert_same, at, die, finish, needs_fork, run_child, train, workflow

pytestmark = needs_fork

DAMAGES = ("delete", "empty", "half", "bit flip", "zeros")


def damage(path: Path, how: str) -> None:
    """Damage a file; what it held before is not there any more."""
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "delete":
        path.unlink()
        return
    flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :] if content else b"x"
    damaged = {"empty": b"", "half": content[:middle], "bit flip": flipped, "zeros": bytes(len(content))}[how]
    assert damaged != content
    path.write_bytes(damaged)


@pytest.fixture(scope="session")
def stopped(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed in step 8: checkpoints 5, 6 and 7."""
    folder = tmp_path_factory.mktemp("stopped")

    def work() -> None:
        at("begin", 8, die)
        train(workflow(folder / "run", models))

    assert run_child(work, folder / "log").code == -9
    return folder / "run"


def damaged_and_resumed(stopped: Path, models: Path, folder: Path, name: str, how: str) -> str:
    """Copy the stopped run, damage a file of its newest checkpoint and finish it; what it said."""
    shutil.copytree(stopped, folder / "run")
    damage(folder / "run" / "checkpoints" / "checkpoint-7" / name, how)
    child = finish(lambda: workflow(folder / "run", models), folder / "log")
    assert (folder / "run" / "checkpoints" / "damaged-1-checkpoint-7").is_dir()
    return child.text


FILES = (
    "model.safetensors", "optimizer.safetensors", "optimizer.json", "scheduler.safetensors", "scheduler.json",
    "trainer_state.json", "rmx_state.json", "config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "manifest.json",
)  # fmt: skip
QUICK = [("model.safetensors", "bit flip"), ("optimizer.safetensors", "delete"), ("manifest.json", "half")]


@pytest.mark.parametrize(("name", "how"), QUICK)
def test_damaged_file(
    name: str, how: str, stopped: Path, models: Path, reference: Callable[..., Any], tmp_path: Path
) -> None:
    """Continued from checkpoint-6, with one warning that names the file."""
    said = damaged_and_resumed(stopped, models, tmp_path, name, how)
    assert "checkpoint-7" in said and name in said and "continuing from checkpoint-6" in said
    assert_same(tmp_path / "run", reference())


@pytest.mark.slow
def test_every_damage(
    stopped: Path, models: Path, reference: Callable[..., Any], figure: Callable[..., None], tmp_path: Path
) -> None:
    """Every file in every way."""
    present = {path.name for path in (stopped / "checkpoints" / "checkpoint-7").iterdir()}
    assert present <= set(FILES)
    count = 0
    for name in sorted(present):
        for how in DAMAGES:
            damaged_and_resumed(stopped, models, tmp_path / f"{name} {how}", name, how)
            assert_same(tmp_path / f"{name} {how}" / "run", reference())
            count += 1
    assert count >= 55
    figure("F4 damage", f"{count} damages: {len(present)} files x {len(DAMAGES)} ways", f"{count} noticed, identical")


def test_nothing_left_to_use(stopped: Path, models: Path, tmp_path: Path) -> None:
    """All damaged: exit 2 with one line for each, and they stay where they are."""
    shutil.copytree(stopped, tmp_path / "run")
    for step in (5, 6, 7):
        damage(tmp_path / "run" / "checkpoints" / f"checkpoint-{step}" / "model.safetensors", "half")
    child = run_child(lambda: train(workflow(tmp_path / "run", models)), tmp_path / "log")
    assert child.code == 2
    assert all(f"checkpoint-{step}: model.safetensors has" in child.text for step in (5, 6, 7))
    assert "resume=never" in child.text and "Traceback" not in child.text
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-7").is_dir()


def test_the_best_one_is_needed_too(models: Path, reference: Callable[..., Any], tmp_path: Path) -> None:
    """A damaged best checkpoint: the run goes back to one before it and finds the best again."""
    settings = {
        "load_best_model_at_end": True, "metric_for_best_model": "eval_tie_rate",  # always 0: the first stays the best
        "eval_delay": 4, "save_steps": 3, "save_total_limit": None,
    }  # fmt: skip
    wanted = reference(**settings)
    assert wanted["state"]["best_global_step"] == 6

    def killed() -> None:
        at("begin", 10, die)
        train(workflow(tmp_path / "run", models, **settings))

    assert run_child(killed, tmp_path / "log").code == -9
    damage(tmp_path / "run" / "checkpoints" / "checkpoint-6" / "model.safetensors", "bit flip")
    child = finish(lambda: workflow(tmp_path / "run", models, **settings), tmp_path / "log")
    assert "the best checkpoint so far is needed" in child.text and "continuing from checkpoint-3" in child.text
    assert_same(tmp_path / "run", wanted)
