"""Does σ(margin) mean what it says? Reliability of the predicted preference probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rmx.errors import DataError
from rmx.metrics.arrays import Floats, columns, sigmoid, softplus
from rmx.metrics.pairs import wilson_interval

__all__ = ["calibration"]


def calibration(margin: ArrayLike, *, bins: int = 10) -> dict[str, Any]:
    """Expected calibration error, Brier score and fitted temperature of preference probabilities.

    A pair's confidence is `σ(|margin|)`, from 1/2 to 1, and it is right where the margin is positive (an exactly equal
    pair is half right). ECE is `Σ_b n_b / n · |accuracy_b - confidence_b|` over equal-width bins of [1/2, 1] (Guo et
    al. 2017, arXiv 1706.04599); Brier is the mean of `(1 - σ(margin))²` (Brier 1950; 1/4 for a coin). The temperature
    T minimises the log loss of `σ(margin / T)`: above 1 the rewards are overconfident, below 1 too timid.

    Args:
        margin: chosen minus rejected reward of each pair that has a winner.
        bins: number of bins, at least 1.

    Returns:
        `ece`, `brier`, `log_loss`, `pairs`, `temperature` and `log_loss_fitted` (both None when no finite temperature
        exists: every pair right, or the rewards no better than a coin), and `bins`: for each non-empty one `lower`,
        `upper`, `count`, mean `confidence`, `accuracy` with its Wilson interval `low`, `high`.

    Raises:
        DataError: no pairs, or `bins` below 1.
        NonFiniteError: a margin is NaN or infinite.

    Two pairs at confidence 3/4, one right: |1/2 - 3/4| = 1/4; Brier (1/16 + 9/16) / 2.

    >>> c = calibration([np.log(3), -np.log(3)])
    >>> round(c["ece"], 6), round(c["brier"], 6), c["temperature"]
    (0.25, 0.3125, None)
    """
    if bins < 1:
        raise DataError(f"calibration: bins={bins} must be at least 1")
    (margins,) = columns(margin=margin)
    confidence = sigmoid(np.abs(margins))
    right = np.where(margins > 0, 1.0, np.where(margins == 0, 0.5, 0.0))
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    table = []
    for b in sorted(set(place.tolist())):
        inside = place == b
        count = int(inside.sum())
        low, high = wilson_interval(float(right[inside].sum()), count)
        table.append(
            {
                "lower": 0.5 + b / (2 * bins),
                "upper": 0.5 + (b + 1) / (2 * bins),
                "count": count,
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
                "low": low,
                "high": high,
            }
        )
    temperature = _temperature(margins)
    return {
        "pairs": int(margins.size),
        "ece": sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in table) / margins.size,
        "brier": float((sigmoid(-margins) ** 2).mean()),
        "log_loss": float(softplus(-margins).mean()),
        "temperature": temperature,
        "log_loss_fitted": None if temperature is None else float(softplus(-margins / temperature).mean()),
        "bins": table,
    }


def _temperature(margins: Floats) -> float | None:
    """argmin over T > 0 of mean log(1 + e^(-margin / T)): bisection on the slope in 1 / T, which only rises."""
    if margins.mean() <= 0 or margins.min() >= 0:
        return None

    def slope(inverse: float) -> float:
        return float(-(margins * sigmoid(-inverse * margins)).mean())

    low, high = 0.0, 1.0 / float(np.abs(margins).max())
    while slope(high) < 0:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)
