"""How one model and one optimizer step are spread over several processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rmx.values import Count, Positive, refuse_wrong_fields

__all__ = ["NoParallel"]


@dataclass(frozen=True)
class NoParallel:
    """parallel=none: every process holds the whole model.

    Args:
        processes: how many processes rmx starts itself; null for none, auto for one per GPU.
        timeout_minutes: how long a process waits for the others.
    """

    processes: Count | Literal["auto"] | None = None
    timeout_minutes: Positive = 30.0

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "parallel")
