"""Is one run better than another, or only luckier? Paired tests on the same evaluation rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from rmx.metrics.arrays import columns

__all__ = ["holm", "paired_comparison"]


def paired_comparison(first_margin: ArrayLike, second_margin: ArrayLike, confidence: float = 0.95) -> dict[str, float]:
    """Compare the accuracy of two runs on the same pairs, row by row.

    Only pairs on which the two disagree say anything: b that only the first gets right, c only the second. Under "no
    difference" b is Binomial(b + c, 1/2): the exact two-sided McNemar test (McNemar 1947). The interval of the
    difference is Agresti & Min's (2005): Wald after adding 1/2 to each cell of the 2 × 2 table.

    Args:
        first_margin: chosen minus rejected reward of each pair under the first run.
        second_margin: the same pairs, in the same order, under the second.
        confidence: coverage of the interval.

    Returns:
        `pairs`, `first_accuracy`, `second_accuracy`, `difference` (second minus first) with `difference_low` and
        `difference_high`, `first_only` (b), `second_only` (c) and `p_value`.

    Raises:
        DataError: no pairs, or columns of different lengths.
        NonFiniteError: a margin is NaN or infinite.

    One pair only the first gets right, five only the second: p = 2 (1 + 6) / 2^6.

    >>> result = paired_comparison([1, -1, -1, -1, -1, -1, 1], [-1, 1, 1, 1, 1, 1, 1])
    >>> result["first_only"], result["second_only"], result["p_value"]
    (1.0, 5.0, 0.21875)
    """
    first, second = columns(first_margin=first_margin, second_margin=second_margin)
    first_right, second_right = first > 0, second > 0
    b = int((first_right & ~second_right).sum())
    c = int((second_right & ~first_right).sum())
    n, z = first.size, NormalDist().inv_cdf(0.5 + confidence / 2)
    b_more, c_more, n_more = b + 0.5, c + 0.5, n + 2
    middle = (c_more - b_more) / n_more
    half = z * math.sqrt(b_more + c_more - (c_more - b_more) ** 2 / n_more) / n_more
    return {
        "pairs": float(n),
        "first_accuracy": float(np.mean(first_right)),
        "second_accuracy": float(np.mean(second_right)),
        "difference": (c - b) / n,
        "difference_low": max(-1.0, middle - half),
        "difference_high": min(1.0, middle + half),
        "first_only": float(b),
        "second_only": float(c),
        "p_value": _sign_test(b, c),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that any false alarm among them keeps its level (Holm 1979).

    The smallest is multiplied by the number of tests, the next by one less, and so on, never falling again.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for done, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _sign_test(b: int, c: int) -> float:
    """Two-sided exact binomial test of b against c at 1/2; 1 when they never disagree."""
    n, few = b + c, min(b, c)
    if n <= 1000:
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n)
    # Beyond that the integers grow long; the sum in logarithms is exact to about 1e-12.
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(few + 1)]
    top = max(logs)
    return min(1.0, 2 * math.exp(top - n * math.log(2)) * sum(math.exp(value - top) for value in logs))
