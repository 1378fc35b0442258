"""Killed at any place of any step and started again, a run ends as if nothing had been (F3), or says why not (F10)."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_harness import (
    assert_same,
    at,
    die,
    final,
    finish,
    metrics,
    needs_fork,
    run_child,
    train,
    workflow,
)

from rmx.data import Mixture, PreferenceData, SyntheticData

pytestmark = needs_fork


def rows_file() -> str:
    """24 rows in a file, the same each time it is written; whole, though several processes may write it."""
    path = Path(tempfile.gettempdir()) / "rmx-fault-rows.jsonl"
    rows = [{"prompt": f"Question {n}?", "chosen": f"Yes, {n} of them.", "rejected": f"No, {n}."} for n in range(24)]
    staged = path.with_suffix(f".{os.getpid()}")
    staged.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    staged.replace(path)
    return str(path)


# Name → settings. Every one is killed once at some place; the long drill kills each at every place.
MATRIX: dict[str, dict[str, Any]] = {
    "dropout": {},
    "lora": {"family": "llama", "lora": True},
    "workers": {"dataloader_num_workers": 2},
    "persistent workers": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
    "bf16": {"precision": "bf16"},
    "best model, two kept": {
        "load_best_model_at_end": True, "metric_for_best_model": "loss", "save_total_limit": 2, "save_steps": 3,
    },
    "best model of an adapter": {
        "family": "llama", "lora": True, "load_best_model_at_end": True, "metric_for_best_model": "loss",
        "save_total_limit": 1, "save_steps": 3,
    },
    "adafactor, sparse saves": {"optim": "adafactor", "save_steps": 4, "logging_steps": 3},
    "by epoch": {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"},
    "epoch's end, step saves": {"eval_strategy": "epoch", "logging_strategy": "epoch", "save_steps": 5},
    "cosine, max_steps within an epoch": {"max_steps": 8, "lr_scheduler_type": "cosine"},
    "saved in the background": {
        "async_save": True, "load_best_model_at_end": True, "metric_for_best_model": "loss", "save_total_limit": 1,
        "save_steps": 3,
    },
    "adapter saved in the background": {"family": "llama", "lora": True, "async_save": True},
    "mixture": {
        "data": Mixture(
            sources={"a": SyntheticData(size=16), "b": SyntheticData(size=8, seed=1)},
            weights={"a": 2.0, "b": 1.0}, order="interleave", stop="all_exhausted", validation_fraction=0.25,
        ),
    },
    "streaming past an epoch": {"data": PreferenceData(path=rows_file(), streaming=True, validation_fraction=0.25)},
}  # fmt: skip
PLACES = [
    ("begin", 5),
    ("backward", 7),
    ("end", 6),
    ("saving", 6),
    ("evaluating", 3),
    ("loading", 8),
    ("end", 8),
    ("writing", 6),
]
QUICK = [
    ("dropout", "backward", 7), ("lora", "saving", 6), ("persistent workers", "end", 6),
    ("best model, two kept", "begin", 8), ("saved in the background", "writing", 6),
    ("epoch's end, step saves", "end", 6),
]  # fmt: skip


def kill_and_resume(folder: Path, models: Path, settings: dict[str, Any], where: str, step: int) -> None:
    """Kill a run there, see that it was killed, and run it to its end."""

    def killed() -> None:
        at(where, step, die)
        train(workflow(folder / "run", models, **settings))

    child = run_child(killed, folder / "log")
    assert child.code == -9, child.text[-2000:]
    finish(lambda: workflow(folder / "run", models, **settings), folder / "log")


@pytest.mark.parametrize(("name", "where", "step"), QUICK)
def test_killed_and_resumed(
    name: str, where: str, step: int, models: Path, reference: Callable[..., Any], tmp_path: Path
) -> None:
    """Weights, optimizer, schedule, metrics.jsonl, log history, sums and the artefact are the same, bit by bit."""
    kill_and_resume(tmp_path, models, MATRIX[name], where, step)
    assert_same(tmp_path / "run", reference(**MATRIX[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", MATRIX)
def test_resume_matrix(
    name: str, models: Path, reference: Callable[..., Any], figure: Callable[..., None], tmp_path: Path
) -> None:
    """The same at every place of the list, for every setting."""
    killed = 0
    for where, step in PLACES:
        if where == "saving" and step % MATRIX[name].get("save_steps", 1):
            continue
        if MATRIX[name].get("save_strategy") == "epoch" and where == "saving":
            continue
        if where == "writing" and not MATRIX[name].get("async_save"):
            continue
        if where == "evaluating" and MATRIX[name].get("eval_strategy") == "epoch":
            continue
        kill_and_resume(tmp_path / f"{where}{step}", models, MATRIX[name], where, step)
        assert_same(tmp_path / f"{where}{step}" / "run", reference(**MATRIX[name]))
        killed += 1
    figure("F3 resume", f"{name}: {killed} kills", f"{killed} identical")


def test_saving_in_the_background_leaves_what_saving_at_once_leaves(reference: Callable[..., Any]) -> None:
    settings = MATRIX["saved in the background"]
    beside, at_once = reference(**settings), reference(**{**settings, "async_save": False})
    assert beside == at_once


def test_a_failure_in_the_background_ends_the_run(models: Path, tmp_path: Path) -> None:
    """The disk refuses while the checkpoint of step 3 is written: said at the next save; step 3 is not there."""

    def refused() -> None:
        def refuse() -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        at("writing", 3, refuse)
        train(workflow(tmp_path / "run", models, **MATRIX["saved in the background"]))

    child = run_child(refused, tmp_path / "log")
    assert child.code == 2 and "checkpoint-3" in child.text and "No space left" in child.text
    assert not (tmp_path / "run" / "checkpoints" / "checkpoint-3").exists()


def test_finished_run_repeated(models: Path, reference: Callable[..., Any], tmp_path: Path) -> None:
    """The same command in a finished run's folder trains no step, logs nothing twice and leaves the same."""
    settings = MATRIX["cosine, max_steps within an epoch"]
    for _ in range(2):
        finish(lambda: workflow(tmp_path / "run", models, **settings), tmp_path / "log")
    assert_same(tmp_path / "run", reference(**settings))


def test_early_stop_is_not_trained_past(models: Path, tmp_path: Path) -> None:
    """Stopped early at step 6, killed before the artefact was there: the continuation trains no further."""
    from transformers import EarlyStoppingCallback

    settings = {
        "load_best_model_at_end": True, "metric_for_best_model": "eval_tie_rate",  # always 0: the first stays the best
       
        "save_steps": 3, "learning_rate": 1e-2,
    }  # fmt: skip

    def flow(name: str) -> Any:
        stopping = {"stop": EarlyStoppingCallback(1, early_stopping_threshold=10.0)}
        return workflow(tmp_path / name, models, callbacks=stopping, **settings)

    finish(lambda: flow("whole"), tmp_path / "log")
    reference = final(tmp_path / "whole")
    assert reference["state"]["global_step"] < 10

    def killed() -> None:
        import rmx.training.phase

        rmx.training.phase.save = lambda *_: die()
        train(flow("run"))

    assert run_child(killed, tmp_path / "log").code == -9
    finish(lambda: flow("run"), tmp_path / "log")
    assert_same(tmp_path / "run", reference)


DRIFTS: dict[str, tuple[dict[str, Any], str]] = {
    "learning rate": ({"learning_rate": 0.03}, "trainer.learning_rate: 0.003 there, 0.03 here"),
    "seed": ({"seed": 8}, "seed: 7 there, 8 here"),
    "batch": ({"per_device_train_batch_size": 1}, "trainer.per_device_train_batch_size: 2 there, 1 here"),
    "optimizer": ({"optim": "sgd"}, "trainer.optim: '(not set)' there, 'sgd' here"),
    "rows": ({"data": SyntheticData(size=28, validation_fraction=0.25, max_tokens=512)}, "rows.train.comparisons: 18"),
    "limit": ({"max_steps": 9}, "trainer.max_steps"),
}


def test_drift_is_refused(models: Path, tmp_path: Path) -> None:
    """Each change is refused with the two values, and taken with resume_allow; cadence may change freely."""

    def stopped() -> None:
        at("begin", 6, die)
        train(workflow(tmp_path / "run", models))

    assert run_child(stopped, tmp_path / "log").code == -9
    for name, (change, message) in DRIFTS.items():
        log = tmp_path / f"log-{name}"
        child = run_child(lambda change=change: train(workflow(tmp_path / "run", models, **change)), log)
        assert child.code == 2 and message in child.text, (name, child.text[-2000:])
        assert "resume_allow=[" in child.text and "resume=never" in child.text
    allowed = ("trainer.learning_rate", "trainer.max_steps")
    changed = {"learning_rate": 0.03, "max_steps": 9, "logging_steps": 1, "resume_allow": allowed}
    finish(lambda: workflow(tmp_path / "run", models, **changed), tmp_path / "log")
    rates = [row["train/learning_rate"] for row in metrics(tmp_path / "run") if row["phase"] == "train"]
    assert max(rates[-3:]) > 0.003  # the new rate is in effect, on the old schedule's shape
    assert metrics(tmp_path / "run")[-1]["step"] == 9


def test_start_anew(models: Path, reference: Callable[..., Any], tmp_path: Path) -> None:
    """resume=never sets the old checkpoints aside and leaves what a first run leaves."""
    finish(lambda: workflow(tmp_path / "run", models, seed=8), tmp_path / "log")
    finish(lambda: workflow(tmp_path / "run", models, resume="never"), tmp_path / "log")
    assert_same(tmp_path / "run", reference())
    assert (tmp_path / "run" / "checkpoints-before-1").is_dir()


def test_resume_from_a_named_checkpoint(models: Path, reference: Callable[..., Any], tmp_path: Path) -> None:
    """From an older checkpoint the run ends the same; newer ones are set aside, and a wrong name is an error."""
    finish(lambda: workflow(tmp_path / "run", models), tmp_path / "log")
    finish(lambda: workflow(tmp_path / "run", models, resume="checkpoint-8"), tmp_path / "log")
    assert_same(tmp_path / "run", reference())
    assert len(list((tmp_path / "run" / "checkpoints").glob("superseded-*"))) == 2
    child = run_child(lambda: train(workflow(tmp_path / "run", models, resume="checkpoint-77")), tmp_path / "log2")
    assert child.code == 2 and "checkpoint-8, checkpoint-9, checkpoint-10" in child.text
