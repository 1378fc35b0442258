"""Callbacks: called at the documented moments, heard when they ask for something, named when they fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training_bench import make_trainer
from transformers import EarlyStoppingCallback, TrainerCallback

from rmx.errors import CallbackError, ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

EVENTS = (
    "on_init_end", "on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_step_begin",
    "on_pre_optimizer_step", "on_optimizer_step", "on_substep_end", "on_step_end", "on_evaluate", "on_save", "on_log",
)  # fmt: skip


class Diary(TrainerCallback):
    """Writes down every event with its step and what it was given."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.given: dict[str, set[str]] = {}

    def hear(self, event: str, state: Any, given: dict[str, Any]) -> None:
        self.events.append((event.removeprefix("on_"), state.global_step))
        self.given[event] = {name for name, value in given.items() if value is not None}

    def names(self) -> list[str]:
        return [event for event, _ in self.events]


def listener(event: str) -> Any:
    def hear(self: Diary, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.hear(event, state, given)

    return hear


for _event in EVENTS:
    setattr(Diary, _event, listener(_event))


class Asks(TrainerCallback):
    """Sets one flag of the control at the end of one step."""

    def __init__(self, flag: str, step: int, value: bool = True) -> None:
        self.flag, self.step, self.value = flag, step, value

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
        if state.global_step == self.step:
            setattr(control, self.flag, self.value)
        return control


def steps(folder: Path, phase: str) -> list[int]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["phase"] == phase]


def run(folder: Path, *callbacks: TrainerCallback, **arguments: Any) -> Any:
    """24 comparisons to train on, 8 to evaluate with: 3 steps an epoch."""
    named = {f"mine{place}": callback for place, callback in enumerate(callbacks)}
    loop = make_trainer(folder, size=32, evaluate=True, callbacks=named, **{"logging_strategy": "no", **arguments})
    loop.train()
    return loop


def test_events_come_in_the_documented_order(tmp_path: Path) -> None:
    """Two steps of an epoch of three; with a log, an evaluation and a save at the last step."""
    diary = Diary()
    run(
        tmp_path, diary, max_steps=2, logging_strategy="steps", logging_steps=2, eval_strategy="steps", eval_steps=2,
        save_strategy="steps", save_steps=2,
    )  # fmt: skip
    step = ["step_begin", "pre_optimizer_step", "optimizer_step", "step_end"]
    assert [name for name in diary.names() if name != "substep_end"] == [
        "init_end", "train_begin", "epoch_begin", *step, *step, "log", "log", "evaluate", "save", "epoch_end", "log",
        "train_end",
    ]  # fmt: skip
    ends = [at for name, at in diary.events if name == "step_end"]
    begins = [at for name, at in diary.events if name == "step_begin"]
    assert (begins, ends) == ([0, 1], [1, 2])
    base = {"model", "processing_class", "train_dataloader"}
    assert base <= diary.given["on_init_end"]
    assert base | {"optimizer", "lr_scheduler"} <= diary.given["on_step_end"]
    assert "metrics" in diary.given["on_evaluate"] and "logs" in diary.given["on_log"]


def test_micro_batches_but_the_last_end_a_substep(tmp_path: Path) -> None:
    """A budget of one token: 8 comparisons are 8 micro-batches."""
    diary = Diary()
    run(tmp_path, diary, max_steps=1, max_tokens_per_micro_batch=1)
    assert diary.names().count("substep_end") == 7


def test_what_the_control_asks_for_is_done(tmp_path: Path) -> None:
    """Nothing is due but the last line of the log; each flag brings its own at step 2."""
    run(tmp_path / "log", Asks("should_log", 2), max_steps=4)
    assert steps(tmp_path / "log", "train") == [2, 4]
    run(tmp_path / "evaluate", Asks("should_evaluate", 2), max_steps=4)
    assert steps(tmp_path / "evaluate", "eval") == [2]
    run(tmp_path / "save", Asks("should_save", 2), max_steps=4)
    assert [path.name for path in (tmp_path / "save" / "checkpoints").iterdir()] == ["checkpoint-2"]
    assert run(tmp_path / "stop", Asks("should_training_stop", 2), max_steps=4).state.global_step == 2


def test_what_is_due_can_be_put_off(tmp_path: Path) -> None:
    run(tmp_path, Asks("should_evaluate", 2, False), max_steps=3, eval_strategy="steps", eval_steps=1)
    assert steps(tmp_path, "eval") == [1, 3]


def test_an_epoch_that_is_stopped_is_followed_by_the_next(tmp_path: Path) -> None:
    """Stopped after the first of its three steps; the second epoch starts at its own first step."""
    diary = Diary()
    loop = run(tmp_path, diary, Asks("should_epoch_stop", 1), max_steps=-1, num_train_epochs=2)
    assert [at for name, at in diary.events if name == "epoch_begin"] == [0, 1]
    assert loop.state.global_step == 4


def test_early_stopping_ends_the_run(tmp_path: Path) -> None:
    """At rate 0 nothing improves after the first evaluation: two in vain, and the run ends at step 3."""
    loop = run(
        tmp_path, EarlyStoppingCallback(2), max_steps=9, learning_rate=0.0, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1, metric_for_best_model="eval_loss",
    )  # fmt: skip
    assert loop.state.global_step == 3


@pytest.mark.parametrize("event", [event for event in EVENTS if event != "on_init_end"])
def test_a_callback_that_raises_is_named_with_its_event(event: str, tmp_path: Path) -> None:
    class Broken(TrainerCallback):
        pass

    def fail(self: Any, args: Any, state: Any, control: Any, **given: Any) -> None:
        raise KeyError("no such thing")

    setattr(Broken, event, fail)
    with pytest.raises(
        CallbackError, match=rf"callbacks.mine0: Broken.{event} raised KeyError: 'no such thing' \(step"
    ):
        run(
            tmp_path, Broken(), max_steps=1, max_tokens_per_micro_batch=300, eval_strategy="steps", eval_steps=1,
            save_strategy="steps", save_steps=1,
        )  # fmt: skip


def test_what_is_no_callback_or_lacks_what_it_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"callbacks.mine: dict is not a transformers.TrainerCallback"):
        make_trainer(tmp_path / "a", callbacks={"mine": {}})
    with pytest.raises(ConfigError, match=r"callbacks.mine0: early stopping needs evaluations"):
        run(tmp_path / "b", EarlyStoppingCallback(1), eval_strategy="no")
    with pytest.raises(ConfigError, match=r"a callback asked for an evaluation, and there is no evaluation set"):
        make_trainer(tmp_path / "c", callbacks={"mine": Asks("should_evaluate", 1)}).train()
