"""A callback for runs that have to last: each step takes at least so long, however fast the machine is."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["SlowSteps"]


class SlowSteps(TrainerCallback):
    """Wait at the beginning of each step.

    Args:
        seconds: how long.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Called by the trainer."""
        time.sleep(self.seconds)
