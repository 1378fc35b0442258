"""Training metrics as sums: exact for any batch size, any number of ranks and across a resume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rmx.records import PairTable

__all__ = ["DEVICE_SUMS", "HOST_SUMS", "SUMS", "Totals", "means", "share_of_totals", "step_sums", "sum_dtype"]

# What every step adds up over its pairs, each times its weight but for the last two; the order is that of the vector
# read from the device. `decided` and the five after it leave out pairs in which annotators saw no winner.
DEVICE_SUMS = (
    "loss", "weight", "decided", "correct", "ties", "margin", "chosen", "rejected", "rewards", "squares",
    "pairs", "labelled_ties",
)  # fmt: skip
# What the host knows of the step's work. `tokens` are the positions that went through the model; `unique_tokens` count
# each prompt once and no padding; `padded_flops` are what padded pairs would have taken (`rmx.training.flops`).
HOST_SUMS = ("tokens", "unique_tokens", "flops", "padded_flops")
SUMS = DEVICE_SUMS + HOST_SUMS
_WITHOUT_WORK = (*DEVICE_SUMS, "tokens")  # before work was counted
# Those of version 0.1.0, whose means took every pair alike.
_OLD_SUMS = (
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
    totals = [_as_now(sums) for sums in totals]
    if len(totals) == ranks:
        return list(totals[rank])
    return [math.fsum(column) if rank == 0 else 0.0 for column in zip(*totals, strict=True)]


def _as_now(sums: Sequence[float]) -> Sequence[float]:
    """Return sums in the order of `SUMS`; those of 0.1.0 are the same where no pair has a weight or is a tie.

    Work that was not counted is taken as none.
    """
    names = next((n for n in (_OLD_SUMS, _WITHOUT_WORK) if len(sums) == 2 * len(n)), None)
    if names is None:
        return sums
    found: list[float] = []
    for half in (sums[: len(names)], sums[len(names) :]):
        old = dict(zip(names, half, strict=True))
        new = dict.fromkeys(HOST_SUMS, 0.0)
        if names is _OLD_SUMS:
            new |= {"rewards": old["chosen"] + old["rejected"], "labelled_ties": old["pairs"] - old["decided"]}
        found += [(new | old)[name] for name in SUMS]
    return found


def means(sums: Sequence[float]) -> dict[str, float]:
    """Turn sums over pairs into metrics, with the names and definitions of `rmx.metrics.pair_metrics`.

    What is not defined is absent: all but the counts where no pair has a weight, and `accuracy` and its kin where
    annotators saw a winner in none of them.

    Two pairs of weight 1 with rewards 1 over 0 and 0 over 0: means 1/2 and 0, squares 1, so a variance of 1/4 - 1/16.

    >>> two = dict.fromkeys(SUMS, 0.0) | dict(
    ...     loss=1.0, weight=2, correct=1, ties=1, decided=2, margin=1.0, chosen=1.0, rewards=1.0, squares=1.0, pairs=2
    ... )
    >>> m = means([two[name] for name in SUMS])
    >>> m["loss"], m["accuracy"], m["tie_rate"], m["margin"], round(m["reward_std"], 4)
    (0.5, 0.5, 0.5, 0.5, 0.433)
    """
    s = dict(zip(SUMS, sums, strict=True))
    found: dict[str, float] = {}
    if weight := s["weight"]:
        mean = s["rewards"] / (2 * weight)
        found |= {
            "loss": s["loss"] / weight,
            "reward_std": math.sqrt(max(s["squares"] / (2 * weight) - mean**2, 0.0)),
        }
    if decided := s["decided"]:
        found |= {
            "accuracy": s["correct"] / decided,
            "tie_rate": s["ties"] / decided,
            "margin": s["margin"] / decided,
            "chosen_reward": s["chosen"] / decided,
            "rejected_reward": s["rejected"] / decided,
        }
    return found | {name: s[name] for name in ("pairs", "labelled_ties", *HOST_SUMS)}


def step_sums(winner: Tensor, loser: Tensor, terms: Tensor, pairs: PairTable) -> Tensor:
    """Return the sums over one micro-batch's pairs, in the order of `DEVICE_SUMS`, on the device of the rewards."""
    exact = sum_dtype(winner.device)
    w, lo, weight = winner.to(exact), loser.to(exact), pairs.weight.to(exact)
    decided = weight * ~pairs.tie  # annotators' ties have no right order
    sums = {
        "loss": (weight * terms.to(exact)).sum(),
        "weight": weight.sum(),
        "decided": decided.sum(),
        "correct": (decided * (w > lo)).sum(),
        "ties": (decided * (w == lo)).sum(),
        "margin": (decided * (w - lo)).sum(),
        "chosen": (decided * w).sum(),
        "rejected": (decided * lo).sum(),
        "rewards": (weight * (w + lo)).sum(),
        "squares": (weight * (w.square() + lo.square())).sum(),
        "pairs": w.new_full((), winner.numel()),
        "labelled_ties": pairs.tie.sum().to(exact),
    }
    return torch.stack([sums[name] for name in DEVICE_SUMS])


def sum_dtype(device: torch.device) -> torch.dtype:
    """float64, so that sums over long windows stay exact; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
