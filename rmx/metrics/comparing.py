"""Is one run better than another, or only luckier? Paired tests on the same evaluation rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from rmx.errors import DataError
from rmx.metrics.arrays import Floats, columns, group_sums

__all__ = ["compare_with_selected", "holm", "paired_comparison"]

_EXACT_UP_TO = 1000  # disagreements; beyond it the normal approximation has three correct digits and more
_NORMAL = NormalDist()


def paired_comparison(
    first_margin: ArrayLike,
    second_margin: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    comparison: Sequence[object] | np.ndarray | None = None,
    confidence: float = 0.95,
) -> dict[str, float]:
    """Compare the accuracy of two runs on the same pairs, row by row.

    Only pairs on which the two disagree say anything: b that only the first gets right, c only the second. Under "no
    difference" b is Binomial(b + c, 1/2): the exact two-sided McNemar test (McNemar 1947). Pairs of one comparison
    share a prompt, so they swap together: with d_g the second's right pairs minus the first's in comparison g, every
    d_g has either sign with probability 1/2, and the test is that of |Σ d_g| under all sign flips (Fisher 1935), which
    is McNemar's where every comparison has one pair. It is exact up to 1,000 disagreements and normal with a
    continuity correction beyond; with unequal weights it is normal, |Σ d_g| / √(Σ d_g² + 1).

    The interval of the difference is Agresti & Min's (2005), Wald after adding 1/2 to b and c, for comparisons:
    D / (n + 2) ± z √(Σ d_g² + 1 - D² / (G + 2)) / (n + 2), with D = Σ d_g, n pairs and G comparisons.

    Args:
        first_margin: chosen minus rejected reward of each pair under the first run.
        second_margin: the same pairs, in the same order, under the second.
        weight: how much each pair counts in both accuracies; default 1.
        comparison: what names the comparison of each pair; default: every pair is its own.
        confidence: coverage of the interval.

    Returns:
        `pairs`, `first_accuracy`, `second_accuracy`, `difference` (second minus first) with `difference_low` and
        `difference_high`, `first_only` (b), `second_only` (c) and `p_value`.

    Raises:
        DataError: no pairs, columns of different lengths, or weights that are negative or all 0.
        NonFiniteError: a margin or weight is NaN or infinite.

    One pair only the first gets right, five only the second: p = 2 (1 + 6) / 2^6.

    >>> result = paired_comparison([1, -1, -1, -1, -1, -1, 1], [-1, 1, 1, 1, 1, 1, 1])
    >>> result["first_only"], result["second_only"], result["p_value"]
    (1.0, 5.0, 0.21875)
    """
    first, second = columns(first_margin=first_margin, second_margin=second_margin)
    weights, labels = _weights_and_labels(first.size, weight, comparison)
    return _compare(first > 0, second > 0, weights, labels, _NORMAL.inv_cdf(0.5 + confidence / 2))


def compare_with_selected(
    margins: ArrayLike,
    selected: int,
    *,
    weight: ArrayLike | None = None,
    comparison: Sequence[object] | np.ndarray | None = None,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Compare every run with one that was selected for its result on these very pairs.

    The best of many equal runs looks better than the others, so a test that is right for two runs named beforehand
    finds differences that are not there. This one allows for any choice among all T (T - 1) / 2 differences of two
    runs, as Tukey's studentised range does (1953), with the dependence between runs taken from the pairs: with
    y_tg the right pairs of run t in comparison g, less their mean over g, and S_ts = Σ_g (y_tg - y_sg)²,

        M = max over t < s of |Z_t - Z_s| / √S_ts,    Z ~ Normal(0, Y Yᵀ)

    is drawn `draws` times (the Gaussian multiplier bootstrap of a maximum, Chernozhukov, Chetverikov & Kato 2013).
    A run's p-value of `paired_comparison`, as the size z of a standard normal deviate, becomes `adjusted_p`, the share
    of draws with M ≥ z (single-step min-p, Westfall & Young 1993): the chance that sweeps of equal runs show any
    difference of this size. The interval uses the quantile of M in place of z, so that all intervals hold together.

    Args:
        margins: chosen minus rejected reward, [T runs, n pairs]: every run on the same pairs.
        selected: the row that was chosen.
        weight: how much each pair counts; default 1.
        comparison: what names the comparison of each pair; default: every pair is its own.
        confidence: coverage of all intervals together.
        draws: size of the bootstrap.
        seed: seed of the bootstrap; the same input gives the same result.

    Returns:
        For each run `paired_comparison` of the selected (first) against it (second), the interval widened, with
        `adjusted_p`. For two runs nothing has to be adjusted.

    Raises:
        DataError: fewer than two runs, no pairs, or columns of different lengths.
        NonFiniteError: a margin or weight is NaN or infinite.

    Eight pairs that only the first of two runs gets right, p = 2 / 2^8; the same beside a third run is weaker evidence.

    >>> first, second, third = [1] * 40, [1] * 32 + [-1] * 8, [-1] * 5 + [1] * 35
    >>> compare_with_selected([first, second], 0)[1]["adjusted_p"]
    0.0078125
    >>> 0.0078125 < compare_with_selected([first, second, third], 0)[1]["adjusted_p"] < 0.05
    True
    """
    rows = [np.asarray(row) for row in np.asarray(margins, dtype=np.float64)]
    if len(rows) < 2:
        raise DataError(f"a comparison needs two runs or more, got {len(rows)}")
    right = np.stack(columns(**{f"margins[{place}]": row for place, row in enumerate(rows)})) > 0
    weights, labels = _weights_and_labels(right.shape[1], weight, comparison)
    z = _NORMAL.inv_cdf(0.5 + confidence / 2)
    largest = None
    if len(rows) > 2:
        largest = _largest_differences(group_sums(right * weights, labels), draws, seed)
        z = max(z, float(np.quantile(largest, confidence)))
    results = [_compare(right[selected], row, weights, labels, z) for row in right]
    return [result | {"adjusted_p": _adjusted(result["p_value"], largest)} for result in results]


def _adjusted(p: float, largest: np.ndarray | None) -> float:
    """A p-value as the share of draws whose largest difference is no smaller; as it is where nothing was drawn."""
    if largest is None:
        return p
    deviate = -_NORMAL.inv_cdf(max(p, 1e-300) / 2)
    return max(p, float(1 + (largest >= deviate - 1e-9).sum()) / (largest.size + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that any false alarm among them keeps its level (Holm 1979).

    The smallest is multiplied by the number of tests, the next by one less, and so on, never falling again. For tests
    that were named beforehand: a run that was selected for its result needs `compare_with_selected`.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for done, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _weights_and_labels(
    pairs: int, weight: ArrayLike | None, comparison: Sequence[object] | np.ndarray | None
) -> tuple[Floats, np.ndarray]:
    """Weights of mean 1, so that equal ones leave whole numbers, and the number of each pair's comparison."""
    weights = np.ones(pairs) if weight is None else columns(weight=weight)[0]
    labels = np.arange(pairs) if comparison is None else np.unique(np.asarray(comparison), return_inverse=True)[1]
    if not weights.size == labels.size == pairs:
        raise DataError(f"{pairs} pairs, but {weights.size} weights and {labels.size} comparisons")
    if weights.min() < 0 or weights.sum() <= 0:
        raise DataError("weight: the weights of the pairs must be 0 or more and not all 0")
    return (np.ones(pairs) if np.ptp(weights) == 0 else weights / weights.mean()), labels


def _compare(first: np.ndarray, second: np.ndarray, weights: Floats, labels: np.ndarray, z: float) -> dict[str, float]:
    n = first.size
    sums = group_sums(weights * (second.astype(np.float64) - first), labels)
    total, squares, groups = float(sums.sum()), float((sums**2).sum()), sums.size
    middle = total / (n + 2)
    half = z * math.sqrt(squares + 1 - total**2 / (groups + 2)) / (n + 2)
    return {
        "pairs": float(n),
        "first_accuracy": float(np.average(first, weights=weights)),
        "second_accuracy": float(np.average(second, weights=weights)),
        "difference": total / n,
        "difference_low": max(-1.0, middle - half),
        "difference_high": min(1.0, middle + half),
        "first_only": float((first & ~second).sum()),
        "second_only": float((second & ~first).sum()),
        "p_value": _sign_flip_test(sums),
    }


def _sign_flip_test(sums: Floats) -> float:
    """P(|Σ ±d_g| ≥ |Σ d_g|), every sign as likely as the other; 1 when nothing differs."""
    sums = sums[sums != 0]
    if not sums.size:
        return 1.0
    total, squares = abs(float(sums.sum())), float((sums**2).sum())
    if not np.array_equal(sums, np.rint(sums)):
        return math.erfc(total / math.sqrt(2 * (squares + 1)))
    sizes, counts = np.unique(np.abs(sums).astype(np.int64), return_counts=True)
    highest = int(sizes @ counts)
    if highest > _EXACT_UP_TO:
        step = math.gcd(*sizes.tolist())  # possible sums lie two steps apart
        return math.erfc(max(0.0, total - step) / math.sqrt(2 * squares))
    chances = np.ones(1)  # of the sum of the positive ones, 0 to `highest`
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        binomial = np.zeros(size * count + 1)
        binomial[::size] = [math.comb(count, k) / 2**count for k in range(count + 1)]
        chances = np.convolve(chances, binomial)
    possible = np.abs(2 * np.arange(highest + 1) - highest)
    return min(1.0, float(chances[possible >= total].sum()))


def _largest_differences(sums: Floats, draws: int, seed: int) -> Floats:
    """Draws of M in `compare_with_selected`, from the right pairs of each run in each comparison, [T, G]."""
    sums = sums - sums.mean(axis=0)  # what all runs share cancels in every difference
    sums -= sums.mean(axis=1, keepdims=True)
    covariance = sums @ sums.T
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    z = (root @ np.random.default_rng(seed).standard_normal((len(sums), draws))).astype(np.float32)
    variance = np.diag(covariance)
    spread = np.sqrt(np.maximum(variance[:, None] + variance - 2 * covariance, 0.0))
    # Two runs that agree on every pair have no spread but for rounding, and no difference either.
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * max(1.0, spread.max()))
    scale, largest = scale.astype(np.float32), np.zeros(draws, dtype=np.float32)
    for place in range(len(z) - 1):
        differences = np.abs(z[place + 1 :] - z[place])
        differences *= scale[place, place + 1 :, None]
        np.maximum(largest, differences.max(axis=0), out=largest)
    return largest.astype(np.float64)
