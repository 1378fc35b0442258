"""A callback for runs that have to last: each step takes at least so long, however fast the machine is.

With it, a time limit is found that the first start of a run cannot keep, on a machine that is busy as on an idle one.
"""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["WORDS", "SlowSteps", "limit_and_steps"]

SECONDS = 0.5
WORDS = ["--allow-target", "slow_steps.", f"+callbacks.slow={{_target_: slow_steps.SlowSteps, seconds: {SECONDS}}}"]


def limit_and_steps(seconds_of_short_run: float) -> tuple[int, int]:
    """Return seconds for trainer.stop_after, enough to start in, and more steps than fit into them.

    >>> limit_and_steps(10.0)
    (50, 120)
    """
    limit = 20 + int(3 * seconds_of_short_run)
    return limit, int(limit / SECONDS) + 20


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
