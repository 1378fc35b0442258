"""Accuracy, loss and reward statistics of preference pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from rmx.errors import DataError
from rmx.metrics.arrays import Floats, columns, group_sums, softplus

__all__ = ["by_source", "effective_pairs", "pair_metrics", "wilson_interval"]


def wilson_interval(successes: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927): keeps its level at small n and near 0 and 1.

    `(p + z²/2n ± z √(p (1 - p) / n + z²/4n²)) / (1 + z²/n)`, with z = 1.96 for 95 %.

    Args:
        successes: how many succeeded; half counts and weighted counts are fine.
        total: out of how many, above 0; for weighted or dependent pairs their effective number (`effective_pairs`).
        confidence: coverage, between 0 and 1.

    Returns:
        Lower and upper end.

    Raises:
        DataError: `total` is not above 0 or `successes` is not between 0 and `total`.

    >>> [round(end, 4) for end in wilson_interval(8, 10)]
    [0.4902, 0.9433]
    """
    if not (total > 0 and 0 <= successes <= total * (1 + 1e-12)):
        raise DataError(f"wilson_interval: {successes} successes of {total} is no proportion")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = min(successes / total, 1.0)
    center = p + z * z / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # At p = 0 and 1 the end equals p in exact arithmetic; rounding must not leave it outside [0, 1].
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def pair_metrics(
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    tie: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    loss: ArrayLike | None = None,
    comparison: Sequence[object] | np.ndarray | None = None,
) -> dict[str, float]:
    """The numbers of one evaluation set, from one row per pair.

    Args:
        chosen: rewards of the preferred responses, one per pair.
        rejected: rewards of the others.
        tie: True where the annotators saw no winner. Such pairs count in `loss`, `reward_std` and `labelled_ties`,
            and nowhere else: there is no right answer to be accurate about.
        weight: how much each pair counts in every mean, ≥ 0; default 1.
        loss: the loss term of each pair; default: `softplus(rejected - chosen)`, Bradley–Terry in nats.
        comparison: what names the comparison of each pair. Pairs of one comparison share a prompt and responses, so
            they say less than as many independent ones, and the interval widens; default: every pair is its own.

    Returns:
        `pairs` (all rows), `labelled_ties` (rows flagged by annotators), `loss`, `reward_std` (of all rewards, chosen
        and rejected pooled, population form); and over the pairs with a winner: `accuracy` (chosen strictly above
        rejected), its 95 % Wilson interval `accuracy_low` and `accuracy_high` (for other evaluation data like this;
        not for other training seeds), `accuracy_ties_half` (equal rewards count half), `tie_rate` (share of exactly
        equal rewards), `margin`, `chosen_reward`, `rejected_reward`. When every pair is a labelled tie, the keys of
        this second list are absent.

    Raises:
        DataError: no pairs, columns of different lengths, negative or all-zero weights.
        NonFiniteError: a reward, loss or weight is NaN or infinite.

    >>> m = pair_metrics([1.0, 2.0, 0.0], [0.0, 2.0, 1.0])
    >>> m["pairs"], round(m["accuracy"], 4), m["accuracy_ties_half"], round(m["tie_rate"], 4)
    (3.0, 0.3333, 0.5, 0.3333)
    """
    won, lost = columns(chosen=chosen, rejected=rejected)
    tied = np.zeros(won.size, dtype=bool) if tie is None else np.asarray(tie, dtype=bool)
    weights = np.ones(won.size) if weight is None else columns(weight=weight)[0]
    terms = softplus(lost - won) if loss is None else columns(loss=loss)[0]
    if not won.size == tied.size == weights.size == terms.size:
        raise DataError(f"{won.size} pairs, but {tied.size} tie flags, {weights.size} weights, {terms.size} losses")
    if weights.min() < 0 or weights.sum() <= 0:
        raise DataError("weight: the weights of the pairs must be 0 or more and not all 0")

    pooled, doubled = np.concatenate((won, lost)), np.concatenate((weights, weights))
    spread = np.average((pooled - np.average(pooled, weights=doubled)) ** 2, weights=doubled)
    numbers = {
        "pairs": float(won.size),
        "labelled_ties": float(tied.sum()),
        "loss": float(np.average(terms, weights=weights)),
        "reward_std": math.sqrt(spread),
    }
    decided = weights * ~tied
    if decided.sum() > 0:
        numbers |= _decided_metrics(won, lost, decided, comparison)
    return numbers


def effective_pairs(right: ArrayLike, weight: ArrayLike, comparison: Sequence[object] | np.ndarray | None) -> float:
    """How many independent, equally weighted pairs would pin the accuracy down as well as these.

    Unequal weights leave (Σw)² / Σw² pairs (Kish 1965). That number is divided by the design effect of the
    comparisons, the variance of the accuracy p with pairs summed within their comparison over the variance without:

        Σ_g (Σ_{i in g} w_i (x_i - p))² G / (G - 1)  /  Σ_i w_i² p (1 - p),    x_i = 1 where right, G comparisons

    never below 1. Wilson's interval with the effective number keeps its level on such data (Dean & Pagano 2015).
    Where every pair is right, or every one wrong, the effect cannot be seen: then a comparison counts as one pair.

    Args:
        right: whether each pair is the right way round.
        weight: how much each pair counts; pairs of weight 0 are left out.
        comparison: see `pair_metrics`.

    Two comparisons, one wholly right and one wholly wrong, tell next to nothing about others.

    >>> right, weight = [1, 1, 0, 0], [1, 1, 1, 1]
    >>> effective_pairs(right, weight, None), effective_pairs(right, weight, ["a", "a", "b", "b"])
    (4.0, 1.0)
    """
    weights = np.asarray(weight, dtype=np.float64)
    counts = weights > 0
    weights, x = weights[counts], np.asarray(right, dtype=np.float64)[counts]
    kish = float(weights.sum() ** 2 / (weights**2).sum())
    if comparison is None:
        return kish
    labels = np.asarray(comparison)[counts]
    p = np.average(x, weights=weights)
    if p in (0.0, 1.0):
        sums = group_sums(weights, labels)
        return float(sums.sum() ** 2 / (sums**2).sum())
    sums = group_sums(weights * (x - p), labels)
    if sums.size == weights.size:
        return kish
    correction = sums.size / (sums.size - 1) if sums.size > 1 else math.inf
    effect = float((sums**2).sum()) * correction / float((weights**2).sum() * p * (1 - p))
    return max(1.0, kish / max(1.0, effect)) if math.isfinite(effect) else 1.0


def _decided_metrics(
    won: Floats, lost: Floats, weights: Floats, comparison: Sequence[object] | np.ndarray | None
) -> dict[str, float]:
    accuracy = float(np.average(won > lost, weights=weights))
    equal = float(np.average(won == lost, weights=weights))
    effective = effective_pairs(won > lost, weights, comparison)
    low, high = wilson_interval(accuracy * effective, effective)
    return {
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_ties_half": accuracy + equal / 2,
        "tie_rate": equal,
        "margin": float(np.average(won - lost, weights=weights)),
        "chosen_reward": float(np.average(won, weights=weights)),
        "rejected_reward": float(np.average(lost, weights=weights)),
    }


def by_source(
    source: Sequence[str],
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    tie: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    loss: ArrayLike | None = None,
    comparison: Sequence[object] | np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """`pair_metrics` of each source, in alphabetical order.

    Raises:
        DataError: as `pair_metrics`, or `source` has another length.
        NonFiniteError: as `pair_metrics`.

    >>> table = by_source(["b", "a", "b"], [1.0, 2.0, 0.0], [0.0, 3.0, 1.0])
    >>> {name: numbers["accuracy"] for name, numbers in table.items()}
    {'a': 0.0, 'b': 0.5}
    """
    names = np.asarray(source, dtype=object)
    rows: dict[str, np.ndarray] = {"chosen": np.asarray(chosen), "rejected": np.asarray(rejected)}
    optional = {"tie": tie, "weight": weight, "loss": loss, "comparison": comparison}
    rows |= {key: np.asarray(values) for key, values in optional.items() if values is not None}
    sizes = {"source": names.size} | {key: values.size for key, values in rows.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"columns of different lengths: {sizes}")
    return {name: pair_metrics(**{k: v[names == name] for k, v in rows.items()}) for name in sorted(set(source))}
