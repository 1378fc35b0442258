"""The checkpoints of a run while it trains: written whole or not at all, at once or beside training, and rotated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from rmx.checkpoints import CheckpointFolder
from rmx.checkpoints.tensors import save_state
from rmx.launch import note
from rmx.models.quiet import quiet
from rmx.scoring.scorer import Scorer
from rmx.training.position import Position
from rmx.training.strategies import OneProcess
from rmx.training.time_limit import TimeLimit

__all__ = ["Saver"]


class Saver:
    """Writes the checkpoints of one run, one at a time, and remembers the newest.

    Args:
        scorer: its model and tokenizer are what is saved.
        args: `save_only_model` and `save_total_limit` hold here.
        strategy: how several processes write what they hold.
        checkpoints: where they go.
        limit: is told how long each took.
        async_save: return when the tensors are copied to the host's memory; `finish` waits for the rest.
    """

    def __init__(
        self,
        scorer: Scorer,
        args: TrainingArguments,
        strategy: OneProcess,
        checkpoints: CheckpointFolder,
        limit: TimeLimit,
        *,
        async_save: bool,
    ) -> None:
        self.scorer, self.args, self.strategy = scorer, args, strategy
        self.checkpoints, self.limit, self.async_save = checkpoints, limit, async_save
        self.sealed_step = -1
        self.sealed_best: int | None = None  # the best step, as the newest checkpoint knows it

    def continue_from(self, position: Position) -> None:
        """Remember the checkpoint that a run continues from as the newest."""
        self.sealed_step, self.sealed_best = position.state.global_step, position.best_step

    def write(
        self,
        position: Position,
        optimizer: torch.optim.Optimizer,
        schedule: Any,
        write_position: Callable[[Path], None],
        *,
        scheduled: bool,
    ) -> None:
        """Write a checkpoint of the step that the run stands at; the one before has to be finished.

        Args:
            position: where the run stands.
            optimizer: left out of a scheduled checkpoint where `save_only_model` is set.
            schedule: as the optimizer.
            write_position: writes where the run stands into the folder, in the first process.
            scheduled: false for one made for a signal or a time limit: it is there to go on from, and always whole.

        Raises:
            OutputError: it could not be written; nothing of it is left.
        """
        whole, step = not (scheduled and self.args.save_only_model), position.state.global_step

        def rest(stage: Path) -> None:
            with quiet():
                self.scorer.tokenizer.save_pretrained(str(stage))
            if whole:
                save_state(schedule.state_dict(), stage, "scheduler")
            write_position(stage)

        with self.limit.timed("checkpoint"):
            self.strategy.write_checkpoint(
                lambda needed: self.checkpoints.staged(step, needed_bytes=needed),
                self.scorer.model,
                optimizer if whole else None,
                rest,
                background=self.async_save and scheduled,
            )
        self.continue_from(position)

    def scheduled_is_made(self) -> None:
        """Delete what a scheduled checkpoint makes superfluous; one on its way to the disk does so when it is there."""
        if not self.async_save:
            self.rotate()

    def finish(self) -> None:
        """Wait for a checkpoint that is being written meanwhile; older ones are no longer wanted then.

        Raises:
            OutputError: it could not be written.
        """
        if self.async_save:
            note("writing the last checkpoint to the disk")
            self.strategy.finish_saving()
            self.limit.took["checkpoint"].extend(self.strategy.saving.took())
            self.rotate()

    def rotate(self) -> None:
        """Delete the oldest checkpoints beyond `trainer.save_total_limit`; the newest and the best stay."""
        keep = [] if self.sealed_best is None else [self.sealed_best]  # a better one is not on the disk yet
        self.strategy.first(lambda: self.checkpoints.rotate(self.args.save_total_limit, keep=keep))
