"""`plan=`: what a plan is made for, and what it takes for granted where the data is not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from rmx.memory import HEADROOM
from rmx.values import Count, refuse_wrong_fields

__all__ = ["PlanSettings"]


@dataclass(frozen=True)
class PlanSettings:
    """What `phases=[plan]` plans for.

    Args:
        device: the accelerator of every process.
        processes: how many of them; null takes `parallel.processes`, or one.
        processes_per_node: how many share a machine; where `parallel=hsdp` draws its line.
        mfu: share of the device's bfloat16 peak that the products reach. rmx reached 0.28 with all weights of a 1B
            model, 0.21 with a LoRA on 8B and 0.17 on 1B (H100, short rows, benchmarks/results/2026-11-26-h100.md).
        headroom: share of the device's memory that is left free, for the allocator's gaps and the driver.
        comparisons: rows to train on, where the data cannot be read here.
        prompt_tokens: mean tokens of their prompts, where the data or the tokenizer cannot be read here.
        response_tokens: mean tokens of one response, likewise.

    >>> PlanSettings(device="h200", comparisons=80_000).processes_per_node
    8
    """

    device: Literal["rtx4090", "a100_40gb", "l40s", "a100", "h100", "h200", "b200", "mi300x"] = "h100"
    processes: Count | None = None
    processes_per_node: Count = 8
    mfu: Annotated[float, Interval(gt=0, le=1)] = 0.25
    headroom: Annotated[float, Interval(ge=0, lt=1)] = HEADROOM
    comparisons: Count | None = None
    prompt_tokens: Count | None = None
    response_tokens: Count | None = None

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "plan")
