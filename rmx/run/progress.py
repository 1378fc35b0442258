"""What a person sees of a run that goes on: a bar in a terminal, lines in a batch system's log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rmx.run.screen import Screen

__all__ = ["EvaluationProgress", "ShowProgress", "clock", "speed_in_words"]

log = logging.getLogger(__name__)

SIGN_OF_LIFE_SECONDS = 60.0  # between two lines of a long evaluation in a log


def clock(seconds: float) -> str:
    """Write a time as a clock does.

    >>> clock(59.6), clock(3725)
    ('1:00', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def speed_in_words(logs: Mapping[str, float]) -> str:
    """Write how fast training is.

    >>> speed_in_words({"pairs_per_second": 91.2, "tokens_per_second": 24_100.0, "unique_tokens_per_second": 15_900.0,
    ...     "tflops_per_device": 402.4, "padded_tflops_per_device": 1207.0, "mfu": 0.407, "padded_mfu": 1.22,
    ...     "peak_memory_gb": 61.23})
    '91 pairs/s, 24,100 tokens/s (15,900 unique), 402 TFLOP/s, MFU 41% (padded: 122%), peak 61.2 GB'
    >>> speed_in_words({"pairs_per_second": 5.0, "tokens_per_second": 600.0, "unique_tokens_per_second": 600.0,
    ...     "tflops_per_device": 0.0312, "padded_tflops_per_device": 0.09})
    '5 pairs/s, 600 tokens/s (600 unique), 0.0312 TFLOP/s (padded: 0.09), MFU unknown'
    """
    unique = f"{logs['unique_tokens_per_second']:,.0f} unique"
    words = [f"{logs['pairs_per_second']:.0f} pairs/s", f"{logs['tokens_per_second']:,.0f} tokens/s ({unique})"]
    flops = f"{logs['tflops_per_device']:.3g} TFLOP/s"
    if "mfu" in logs:
        words += [flops, f"MFU {logs['mfu']:.0%} (padded: {logs['padded_mfu']:.0%})"]
    else:
        words += [f"{flops} (padded: {logs['padded_tflops_per_device']:.3g})", "MFU unknown"]
    if "peak_memory_gb" in logs:
        words.append(f"peak {logs['peak_memory_gb']:.1f} GB")
    return ", ".join(words)


class EvaluationProgress:
    """Shows how far an evaluation is: called with (comparisons scored, all of them) after every micro-batch.

    In a terminal it is a bar, or stands behind the training's bar; in a log it is a line a minute.
    """

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.started = self.shown = 0.0
        self.own_bar = False

    def __call__(self, done: int, total: int) -> None:
        """Show it."""
        now, first = perf_counter(), not self.started
        if first:
            self.started = self.shown = now
            self.own_bar = self.screen.console.is_terminal and self.screen.progress is None
            if self.own_bar:
                self.screen.start_bar("evaluate", total)
        if self.own_bar:
            self.screen.advance(done)
        elif self.screen.progress is not None:
            self.screen.note(f"evaluating {done:,} of {total:,}")
        if not self.screen.console.is_terminal and now - self.shown >= SIGN_OF_LIFE_SECONDS:
            self.shown = now
            left = (now - self.started) / done * (total - done)
            log.info("evaluating: %s of %s comparisons, %s left", f"{done:,}", f"{total:,}", clock(left))
        if done >= total:
            self.started = 0.0
            if self.own_bar:
                self.screen.stop_bar()
            self.own_bar = False


class ShowProgress(TrainerCallback):
    """Moves the bar at every step, and writes a line for every logging step (in a log) and every evaluation."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.first_step, self.started = 0, 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the bar at the step that the run resumes from."""
        self.first_step, self.started = state.global_step, perf_counter()
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
        """Show the latest training numbers: behind the bar, or as a line where there is none."""
        if not logs or "pairs_per_second" not in logs or not state.is_world_process_zero:
            return
        shown = (("loss", ".4f"), ("accuracy", ".3f"), ("margin", "+.3f"))  # pairs that are all ties have no accuracy
        parts = [f"{name} {logs[name]:{shape}}" for name, shape in shown if name in logs]
        numbers = ", ".join([*parts, speed_in_words(logs)])
        self.screen.advance(state.global_step, numbers)
        steps = state.global_step - self.first_step
        left = (perf_counter() - self.started) / max(steps, 1) * (state.max_steps - state.global_step)
        in_terminal = self.screen.console.is_terminal
        log.log(
            logging.DEBUG if in_terminal else logging.INFO,  # run.log has the line either way
            "step %d/%d: %s, %s left",
            state.global_step,
            state.max_steps,
            numbers,
            clock(left),
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
        if not metrics or not state.is_world_process_zero:
            return
        line = f"eval loss {metrics['eval_loss']:.4f}"
        if "eval_accuracy" in metrics:  # a set of ties alone has none
            line += (
                f", accuracy {metrics['eval_accuracy']:.3f} ({metrics['eval_accuracy_low']:.3f} to "
                f"{metrics['eval_accuracy_high']:.3f}), margin {metrics['eval_margin']:+.3f}"
            )
        log.info("step %d/%d: %s", state.global_step, state.max_steps, line)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remove the bar."""
        self.screen.stop_bar()
