"""Training metrics as sums: exact for any batch size, any number of ranks and across a resume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rmx.records import PairTable

__all__ = ["SUMS", "Totals", "means", "share_of_totals", "step_sums", "sum_dtype"]

# What every step adds up over its pairs; the order is that of the vector read from the device.
SUMS = (
    "loss", "weight", "correct", "ties", "decided", "margin", "chosen", "rejected", "squares", "pairs", "tokens",
)  # fmt: skip


class Totals:
    """This rank's sums since the last log (the window) and since step 0 (the run); both go into the checkpoint."""

    def __init__(self, values: Sequence[float] | None = None) -> None:
        values = values or [0.0] * (2 * len(SUMS))
        self.window, self.run = list(values[: len(SUMS)]), list(values[len(SUMS) :])

    def values(self) -> list[float]:
        """Return both, one after the other."""
        return [*self.window, *self.run]

    def add(self, sums: Sequence[float]) -> None:
        """Add one step's sums (this rank's share)."""
        self.window = [a + b for a, b in zip(self.window, sums, strict=True)]
        self.run = [a + b for a, b in zip(self.run, sums, strict=True)]

    def start_window(self) -> None:
        """Forget the window."""
        self.window = [0.0] * len(SUMS)


def share_of_totals(totals: Sequence[Sequence[float]], rank: int, ranks: int) -> list[float]:
    """Return a rank's own sums out of a checkpoint's; with another number of ranks the first one carries them all.

    >>> share_of_totals([[1.0, 2.0], [10.0, 20.0]], 0, 1)
    [11.0, 22.0]
    """
    if len(totals) == ranks:
        return list(totals[rank])
    return [math.fsum(column) if rank == 0 else 0.0 for column in zip(*totals, strict=True)]


def means(sums: Sequence[float]) -> dict[str, float]:
    """Turn sums over pairs into metrics.

    >>> two = dict(loss=1.0, weight=2, correct=1, ties=0, decided=2, margin=1.0, chosen=1.0, rejected=0.0,
    ...            squares=1.0, pairs=2, tokens=40)
    >>> m = means([two[name] for name in SUMS])
    >>> m["loss"], m["accuracy"], m["margin"], round(m["reward_std"], 4)
    (0.5, 0.5, 0.5, 0.433)
    """
    s = dict(zip(SUMS, sums, strict=True))
    pairs = s["pairs"] or math.nan
    mean_reward = (s["chosen"] + s["rejected"]) / (2 * pairs)
    return {
        "loss": s["loss"] / s["weight"] if s["weight"] else math.nan,
        "accuracy": s["correct"] / s["decided"] if s["decided"] else math.nan,
        "tie_rate": s["ties"] / s["decided"] if s["decided"] else math.nan,
        "margin": s["margin"] / pairs,
        "chosen_reward": s["chosen"] / pairs,
        "rejected_reward": s["rejected"] / pairs,
        "reward_std": math.sqrt(max(s["squares"] / (2 * pairs) - mean_reward**2, 0.0)),
        "pairs": s["pairs"],
        "tokens": s["tokens"],
    }


def step_sums(winner: Tensor, loser: Tensor, terms: Tensor, pairs: PairTable, tokens: int) -> Tensor:
    """Return the sums over one micro-batch's pairs, in the order of `SUMS`, on the device of the rewards."""
    exact = sum_dtype(winner.device)
    w, lo, weight = winner.to(exact), loser.to(exact), pairs.weight.to(exact)
    decided = ~pairs.tie  # annotators' ties have no right order
    sums = {
        "loss": (weight * terms.to(exact)).sum(),
        "weight": weight.sum(),
        "correct": ((w > lo) & decided).sum().to(exact),
        "ties": ((w == lo) & decided).sum().to(exact),
        "decided": decided.sum().to(exact),
        "margin": (w - lo).sum(),
        "chosen": w.sum(),
        "rejected": lo.sum(),
        "squares": w.square().sum() + lo.square().sum(),
        "pairs": w.new_full((), winner.numel()),
        "tokens": w.new_full((), tokens),
    }
    return torch.stack([sums[name] for name in SUMS])


def sum_dtype(device: torch.device) -> torch.dtype:
    """float64, so that sums over long windows stay exact; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
