"""Does the model reward quality, or length?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from rmx.metrics.arrays import columns
from rmx.metrics.pairs import wilson_interval
from rmx.metrics.truth import correlation

__all__ = ["length_bias"]


def length_bias(
    chosen: ArrayLike, rejected: ArrayLike, chosen_tokens: ArrayLike, rejected_tokens: ArrayLike
) -> dict[str, float | None]:
    """How rewards and accuracy depend on response length.

    Preference data prefers longer answers, so a model can look accurate by counting tokens (Singhal et al. 2023,
    arXiv 2310.03716). Three views: the correlation of reward with length; accuracy split by which response is longer;
    and what a rule that always takes the longer one would reach.

    Args:
        chosen: rewards of the preferred responses of pairs that have a winner.
        rejected: rewards of the others.
        chosen_tokens: token counts; prompts are shared, so whole-sequence counts give the same differences.
        rejected_tokens: token counts.

    Returns:
        `reward_pearson`, `reward_spearman`: reward against tokens over all responses (None when either is constant).
        `margin_pearson`: margin against difference in tokens, which prompts cannot disturb.
        `pairs_longer`, `accuracy_longer`, `accuracy_longer_low`, `accuracy_longer_high`: pairs whose chosen response
        is the longer one; likewise `_shorter` and `_equal` (None where there is no such pair).
        `length_only_accuracy`, `_low`, `_high`: always taking the longer response, equal lengths counting half; and
        `shortest_only_accuracy`, its mirror.
        `length_controlled_accuracy`, `_low`, `_high`: the mean of the accuracies on longer and shorter pairs, which is
        the accuracy on data where length tells nothing: a length rule gets 1/2 (None without both kinds). Its interval
        joins the two Wilson intervals (Newcombe 1998, method 10).

    Raises:
        DataError: no pairs, or columns of different lengths.
        NonFiniteError: a value is NaN or infinite.

    A model that counts tokens: right whenever chosen is longer, wrong whenever it is shorter.

    >>> bias = length_bias([9, 5, 3, 2], [4, 1, 2, 8], [9, 5, 3, 2], [4, 1, 2, 8])
    >>> bias["length_only_accuracy"], bias["length_controlled_accuracy"], round(bias["reward_pearson"], 6)
    (0.75, 0.5, 1.0)
    """
    won, lost, won_tokens, lost_tokens = columns(
        chosen=chosen, rejected=rejected, chosen_tokens=chosen_tokens, rejected_tokens=rejected_tokens
    )
    right, longer = won > lost, won_tokens - lost_tokens
    pooled = correlation(np.concatenate((won, lost)), np.concatenate((won_tokens, lost_tokens)))
    numbers: dict[str, float | None] = {
        "reward_pearson": pooled["pearson"],
        "reward_spearman": pooled["spearman"],
        "margin_pearson": correlation(won - lost, longer)["pearson"],
    }
    for name, inside in (("longer", longer > 0), ("shorter", longer < 0), ("equal", longer == 0)):
        numbers |= _part(name, right[inside])
    by_rule = float((longer > 0).sum() + (longer == 0).sum() / 2)
    low, high = wilson_interval(by_rule, won.size)
    numbers |= {
        "length_only_accuracy": by_rule / won.size,
        "length_only_accuracy_low": low,
        "length_only_accuracy_high": high,
        "shortest_only_accuracy": 1 - by_rule / won.size,
    }
    return numbers | _controlled(numbers)


def _part(name: str, right: np.ndarray) -> dict[str, float | None]:
    """Count, accuracy and interval of one kind of pairs."""
    accuracy, low, high = None, None, None
    if right.size:
        accuracy = float(right.mean())
        low, high = wilson_interval(float(right.sum()), right.size)
    return {
        f"pairs_{name}": float(right.size),
        f"accuracy_{name}": accuracy,
        f"accuracy_{name}_low": low,
        f"accuracy_{name}_high": high,
    }


def _controlled(numbers: dict[str, float | None]) -> dict[str, float | None]:
    """The two kinds weighted equally, whatever their share in the data."""
    longer, longer_low, longer_high = (numbers[f"accuracy_longer{end}"] for end in ("", "_low", "_high"))
    shorter, shorter_low, shorter_high = (numbers[f"accuracy_shorter{end}"] for end in ("", "_low", "_high"))
    name = "length_controlled_accuracy"
    if longer is None or longer_low is None or longer_high is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    if shorter is None or shorter_low is None or shorter_high is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    mean = (longer + shorter) / 2
    return {
        name: mean,
        f"{name}_low": mean - math.hypot(longer - longer_low, shorter - shorter_low) / 2,
        f"{name}_high": mean + math.hypot(longer_high - longer, shorter_high - shorter) / 2,
    }
