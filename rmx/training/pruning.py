"""Callbacks of a training run that are not its screen: stopping when a sweep says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rmx.errors import Pruned

__all__ = ["PRUNE_FILE", "PruneOnRequest"]

PRUNE_FILE = "PRUNE"


class PruneOnRequest(TrainerCallback):
    """Ends the run with `Pruned` once a file named PRUNE stands in its folder (sweeps put it there)."""

    def __init__(self, folder: Path) -> None:
        self.request = folder / PRUNE_FILE

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look for the request after every optimizer step."""
        if self.request.exists():
            raise Pruned(f"step {state.global_step}: stopped early by the sweep (found {self.request.name})")
