"""Where a run stands, beside its weights and its optimizer: what a checkpoint holds so that the rest ends as if the
run had never been stopped.

    trainer_state.json   what transformers knows of a run: steps, epoch, log history, best metric, states of callbacks
    rmx_state.json       the sums of every rank, how long metrics.jsonl was, what was still to be done at this step

Randomness needs no state: every step seeds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from transformers import TrainerState

from rmx.checkpoints.keep import STATE, read_state
from rmx.training.sums import Totals, share_of_totals

__all__ = ["Pending", "Position"]

_TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True)
class Pending:
    """What was still to be done at a step when its checkpoint was made."""

    evaluate: bool = False  # a signal broke the evaluation off
    save: bool = False  # ... after which a checkpoint was due
    epoch_end: bool = False  # the step is the last of its epoch


@dataclass
class Position:
    """Where a run stands.

    Args:
        state: what callbacks see.
        totals: this rank's sums.
        max_tokens: token positions per micro-batch, as the run started and as they are now.
        epoch: the epoch that the next step belongs to.
        step: how many steps of it are done.
        logged_step: the step that was logged last.
        last: gradient norm and learning rate of the last step.
        stopped_early: training had ended before its last step.
        stored_callbacks: states of callbacks by the name of their class, from the checkpoint.
        pending: what was still to be done at the checkpoint's step.
    """

    state: TrainerState
    totals: Totals
    max_tokens: tuple[int, int]
    epoch: int = 0
    step: int = 0
    logged_step: int = 0
    last: dict[str, float | None] = field(default_factory=lambda: {"grad_norm": None, "learning_rate": None})
    stopped_early: bool = False
    stored_callbacks: dict[str, Any] = field(default_factory=dict)
    pending: Pending = Pending()
    started: float = field(default_factory=perf_counter)  # when this run would have started without a break
    window_started: float = field(default_factory=perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, in all processes that continued each other."""
        return perf_counter() - self.started

    @property
    def best_step(self) -> int | None:
        """The step of the best checkpoint."""
        path = self.state.best_model_checkpoint
        return None if path is None else int(path.rsplit("-", 1)[1])

    def write(
        self,
        folder: Path,
        *,
        pending: Pending,
        scheduled: bool,
        totals: Sequence[Sequence[float]],
        metrics_bytes: int,
        callbacks: Mapping[str, Any],
    ) -> None:
        """Write both files into a checkpoint that is being made.

        Args:
            folder: the checkpoint's folder.
            pending: what is still to be done at this step.
            scheduled: false for one made for a signal.
            totals: the sums of every rank.
            metrics_bytes: how long metrics.jsonl is.
            callbacks: the states of callbacks and of the control.
        """
        self.state.stateful_callbacks = dict(callbacks)  # type: ignore[assignment]  # as transformers reads them back
        best, path = self.best_step, self.state.best_model_checkpoint
        self.state.best_model_checkpoint = None  # a path that holds on this machine only; best_step says it
        try:
            self.state.save_to_json(str(folder / _TRAINER_STATE))
        finally:
            self.state.best_model_checkpoint = path
        own = {
            "scheduled": scheduled,
            "pending": vars(pending),
            "best_step": best,
            "metrics_bytes": metrics_bytes,
            "next": [self.epoch, self.step],
            "last_logged_step": self.logged_step,
            "last_logged": self.last,
            "totals": [list(sums) for sums in totals],
            "max_tokens": list(self.max_tokens),
            "seconds": self.seconds,
            "window_seconds": perf_counter() - self.window_started,
        }
        (folder / STATE).write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, checkpoint: Path, *, rank: int, ranks: int, max_tokens: int, steps_per_epoch: int) -> Position:
        """Return where the run stood when a checkpoint was made, by this version or by 0.1.0."""
        own = read_state(checkpoint)
        state = TrainerState.load_from_json(str(checkpoint / _TRAINER_STATE))
        if (best := own["best_step"]) is not None:
            state.best_model_checkpoint = str(checkpoint.parent / f"checkpoint-{best}")
        asked, used = own["max_tokens"]
        callbacks: Any = state.stateful_callbacks
        (control,) = callbacks["TrainerControl"]
        now = perf_counter()
        rates = [row for row in state.log_history if row.get("pairs_per_second")]
        # Version 0.1.0 did not store its seconds; its log says them, without those of evaluation.
        step = state.global_step
        ended = step % steps_per_epoch == 0 and own["pending"]["epoch_end"]  # of an epoch whose end is to come
        epoch, step = divmod(step - ended, steps_per_epoch)
        epoch, step = own.get("next", [epoch, step + ended])
        seconds = own.get("seconds", sum(row["pairs"] / row["pairs_per_second"] for row in rates))
        return cls(
            state=state,
            totals=Totals(share_of_totals(own["totals"], rank, ranks)),
            epoch=epoch,
            step=step,
            # Lowered since then, when memory ran out: sums keep their order.
            max_tokens=(max_tokens, used if asked == max_tokens else max_tokens),
            logged_step=own["last_logged_step"],
            last=own["last_logged"],
            stopped_early=control["args"]["should_training_stop"] and state.global_step < state.max_steps,
            stored_callbacks=callbacks,
            pending=Pending(**own["pending"]),
            started=now - seconds,
            window_started=now - own.get("window_seconds", 0.0),
        )
