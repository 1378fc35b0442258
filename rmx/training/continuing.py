"""The part of the trainer that saves and continues: what a run that was stopped needs to end as if it had not been.

Beside weights, optimizer, schedule and transformers' state a checkpoint holds what this module knows of the step
it was made at: the sums of every rank, how long metrics.jsonl was, which numbers were logged last, and what was
still to be done at this step (an evaluation that a signal broke off, the end of the epoch). Randomness needs no
state: every step seeds it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy

from rmx.checkpoints.folder import STATE, CheckpointFolder, read_state
from rmx.checkpoints.sealing import verify
from rmx.checkpoints.tensors import restore_optimizer, save_state, state_bytes
from rmx.errors import Interrupted
from rmx.run.signals import StopSignals
from rmx.trackers import Recorder
from rmx.training.steps import StepDataset
from rmx.training.sums import SUMS, Totals, share_of_totals

__all__ = ["ContinuingTrainer"]

log = logging.getLogger(__name__)

_TRAINER_STATE = "trainer_state.json"
_NOTHING_PENDING = {"evaluate": False, "save": False, "epoch_end": False}


class ContinuingTrainer(Trainer):
    """A Trainer whose checkpoints are sealed and whose continuation is exact; `RewardTrainer` derives from it."""

    recorder: Recorder
    signals: StopSignals
    checkpoints: CheckpointFolder
    steps: StepDataset
    max_tokens: int
    # Set while training; transformers declares them as possibly None.
    model: Any
    optimizer: Any
    lr_scheduler: Any

    def start_continuing(
        self, checkpoints: CheckpointFolder | None, signals: StopSignals | None, *, budget: int
    ) -> None:
        """Set up; called by the constructor with the tokens per micro-batch that the run starts with."""
        self._first_budget = budget
        self.checkpoints = checkpoints or CheckpointFolder(Path(str(self.args.output_dir)))
        self.signals = signals or StopSignals()
        self.args.restore_callback_states_from_checkpoint = True  # early stopping counts on; the sums are there too
        self._restored: dict[str, Any] | None = None  # the state to continue from, until it has been put in place
        self._finished = False  # the checkpoint was that of the last step
        self._boundary = -1  # the step whose end was handled last
        self._sealed = -1  # the step whose checkpoint was sealed last
        self._ends_step = False  # else: the end of an epoch, right after its last step's end
        self._last_logged: dict[str, float | None] = {"grad_norm": None, "learning_rate": None}

    @property
    def totals(self) -> Totals:
        """The sums of this run; a resume replaces the object by the checkpoint's."""
        return next(cb for cb in self.callback_handler.callbacks if isinstance(cb, Totals))

    # --- The end of a step --------------------------------------------------------------------------------------------

    def _maybe_log_save_evaluate(
        self,
        tr_loss: Tensor,
        grad_norm: Tensor | float | None,
        model: nn.Module,
        trial: Any,
        epoch: float,
        ignore_keys_for_eval: list[str] | None,
        start_time: float,
        learning_rate: float | None = None,
    ) -> None:
        """Evaluate and save as scheduled; then stop, with a checkpoint, if a signal has asked for it."""
        step = self.state.global_step
        self._ends_step = step != self._boundary
        self._boundary = step
        self._last_logged = {
            "grad_norm": None if grad_norm is None else float(grad_norm),
            "learning_rate": None if learning_rate is None else float(learning_rate),
        }
        rest = (tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time)
        try:
            super()._maybe_log_save_evaluate(*rest, learning_rate=learning_rate)
        except Interrupted:  # only an evaluation lets signals through; it left no trace and is repeated on resume
            self._seal({"evaluate": True, "save": self.control.should_save, "epoch_end": self._epoch_end_follows()})
            raise self._interrupted() from None
        if self._stop_agreed() and not self._epoch_end_follows():
            if self._sealed != step:
                self._seal(_NOTHING_PENDING)
            raise self._interrupted()

    def _epoch_end_follows(self) -> bool:
        stops = self.control.should_training_stop or self.control.should_epoch_stop
        steps_per_epoch = max(len(self.steps), 1)  # an item is a step
        return self._ends_step and (stops or self.state.global_step % steps_per_epoch == 0)

    def _stop_agreed(self) -> bool:
        """Whether any rank has got a signal; all ranks answer the same."""
        received = self.signals.received or 0
        if self.args.world_size > 1:
            flag = torch.tensor([received], device=self.args.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            received = int(flag.item())
            self.signals.received = received or None
        return received > 0

    def _interrupted(self) -> Interrupted:
        return Interrupted(int(self.signals.received or 0), str(self.checkpoints.path(self.state.global_step)))

    # --- Saving -------------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save at the step the configuration says; replaces transformers' method, which writes in place."""
        step = self.state.global_step
        if self.state.best_global_step == step and self.args.save_strategy != SaveStrategy.NO:
            self.state.best_model_checkpoint = str(self.checkpoints.path(step))
        self._seal({**_NOTHING_PENDING, "epoch_end": self._epoch_end_follows()}, scheduled=True)
        self._rotate()

    def _rotate(self) -> None:
        if self.args.should_save:
            best = self._best_step()
            self.checkpoints.rotate(self.args.save_total_limit, keep=[] if best is None else [best])

    def _best_step(self) -> int | None:
        path = self.state.best_model_checkpoint
        return int(path.rsplit("-", 1)[1]) if path is not None else None

    def _seal(self, pending: Mapping[str, bool], *, scheduled: bool = False) -> None:
        self.store_flos()
        totals = self._totals_of_all_ranks()
        if self.args.should_save:
            with self.checkpoints.staged(self.state.global_step, needed_bytes=self._bytes_needed()) as stage:
                self.save_model(str(stage), _internal_call=True)
                save_state(self.optimizer.state_dict(), stage, "optimizer")
                save_state(self.lr_scheduler.state_dict(), stage, "scheduler")
                self._write_trainer_state(stage)
                own = {
                    "scheduled": scheduled,
                    "pending": dict(pending),
                    "best_step": self._best_step(),
                    "metrics_bytes": self.recorder.position(),
                    "last_logged_step": self._globalstep_last_logged,
                    "last_logged": self._last_logged,
                    "totals": totals,
                    "max_tokens": [self._first_budget, self.max_tokens],
                }
                (stage / STATE).write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")
        self.accelerator.wait_for_everyone()  # nobody goes on, or ends, before the checkpoint is there
        self._sealed = self.state.global_step

    def _bytes_needed(self) -> int:
        """Return the size of the checkpoint about to be written: saved weights, optimizer state, small files."""
        only_trained = isinstance(self.accelerator.unwrap_model(self.model), PeftModel)
        saved = (p for p in self.model.parameters() if p.requires_grad or not only_trained)
        return sum(p.numel() * p.element_size() for p in saved) + state_bytes(self.optimizer.state_dict())

    def _write_trainer_state(self, stage: Path) -> None:
        states: dict[str, Any] = {}
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                states.setdefault(type(callback).__name__, []).append(callback.state())
        self.state.stateful_callbacks = states  # type: ignore[assignment]  # what transformers reads back
        path, self.state.best_model_checkpoint = self.state.best_model_checkpoint, None  # rmx's state names its step
        try:
            self.state.save_to_json(str(stage / _TRAINER_STATE))
        finally:
            self.state.best_model_checkpoint = path

    def _totals_of_all_ranks(self) -> list[list[float]]:
        """Return [window..., run...] of every rank."""
        mine = [*self.totals.window, *self.totals.run]
        if self.args.world_size == 1:
            return [mine]
        everyone: list[Any] = [None] * self.args.world_size
        torch.distributed.all_gather_object(everyone, mine)
        return everyone

    # --- Continuing ---------------------------------------------------------------------------------------------------

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: Any,
        trial: Any,
    ) -> tuple[int, int]:
        position = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None:
            checkpoint = Path(resume_from_checkpoint)
            own = read_state(checkpoint)
            self._restored = own
            # A run that reached its end also says "stop"; with a later end it goes on. An early stop stays one.
            former_end = json.loads((checkpoint / _TRAINER_STATE).read_text(encoding="utf-8"))["max_steps"]
            stopped_early = self.control.should_training_stop and self.state.global_step < former_end
            self._finished = stopped_early or self.state.global_step >= max_steps
            best = own["best_step"]
            self.state.best_model_checkpoint = None if best is None else str(checkpoint.parent / f"checkpoint-{best}")
            self.state.compute_steps(self.args, max_steps)  # the schedule of this call: transformers keeps the old one
            mine = share_of_totals(own["totals"], self.args.process_index, self.args.world_size)
            self.totals.window, self.totals.run = mine[: len(SUMS)], mine[len(SUMS) :]
            asked, used = own["max_tokens"]
            if asked == self._first_budget:  # lowered since then, when memory ran out: sums keep their order
                self.max_tokens = used
        return position

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Read optimizer and schedule; replaces transformers' method, which reads pickles."""
        if checkpoint is not None:
            restore_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Do nothing: rmx trains in float32 or bfloat16, and transformers would read a pickle."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Do nothing: every step seeds its randomness, and transformers would read a pickle."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers does; signals end the run only where that costs nothing."""
        with self.signals, self.signals.deferred():
            return super().train(*args, **kwargs)

    def _run_epoch(self, **kwargs: Any) -> None:  # type: ignore[override]  # called with names only
        self._continue()
        if not self.control.should_training_stop:
            super()._run_epoch(**kwargs)

    def _continue(self) -> None:
        """Put the rest of the checkpoint's state in place and do what was still to be done at its step; once."""
        own, self._restored = self._restored, None
        if own is None:
            return
        self._sealed = self._boundary = self.state.global_step
        self._globalstep_last_logged = own["last_logged_step"]
        self.control.should_training_stop = self._finished
        pending = own["pending"]
        if pending["evaluate"]:
            self._boundary = -1 if pending["epoch_end"] else self._boundary
            self.control.should_log, self.control.should_evaluate = False, True
            self.control.should_save = pending["save"]
            self._end_step(own)
        if pending["epoch_end"]:
            self._boundary = self.state.global_step
            self.control._new_step()
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._end_step(own)

    def _end_step(self, own: Mapping[str, Any]) -> None:
        logged = own["last_logged"]
        nothing = torch.zeros((), device=self.args.device)
        self._maybe_log_save_evaluate(
            nothing,
            logged["grad_norm"],
            self.model_wrapped,
            None,
            self.state.epoch,
            None,
            0.0,
            learning_rate=logged["learning_rate"],
        )

    # --- The end ------------------------------------------------------------------------------------------------------

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        """End as transformers does, but leave the last checkpoint: until `model/` is there, a kill needs it."""
        self._continue()  # where no epoch was left to run
        self._rotate()  # a kill may have come between the last save and this
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(trial, num_train_samples, start_time)
        finally:
            self.args.save_total_limit = limit

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            verify(Path(self.state.best_model_checkpoint))
        super()._load_best_model()
