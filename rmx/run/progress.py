"""The bridge from a training run to its screen."""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rmx.run.screen import Screen

__all__ = ["ShowProgress"]

log = logging.getLogger(__name__)


class ShowProgress(TrainerCallback):
    """Moves the bar at every step, and writes a line for every evaluation."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the bar at the step that the run resumes from."""
        if state.is_world_process_zero:
            self.screen.start_bar("train", state.max_steps, state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar."""
        self.screen.advance(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the latest training numbers behind the bar."""
        if logs and "pairs_per_second" in logs:
            self.screen.advance(
                state.global_step,
                f"loss {logs['loss']:.4f}  accuracy {logs['accuracy']:.3f}  {logs['pairs_per_second']:.0f} pairs/s",
            )

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Write one line per evaluation."""
        if metrics and state.is_world_process_zero:
            log.info(
                "step %d/%d: eval loss %.4f, accuracy %.3f (%.3f to %.3f), margin %+.3f",
                state.global_step,
                state.max_steps,
                metrics["eval_loss"],
                metrics["eval_accuracy"],
                metrics["eval_accuracy_low"],
                metrics["eval_accuracy_high"],
                metrics["eval_margin"],
            )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remove the bar."""
        self.screen.stop_bar()
