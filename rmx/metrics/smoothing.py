"""Smoothing for curves that are drawn, never for numbers that are reported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rmx.errors import DataError

__all__ = ["smooth"]


def smooth(values: Sequence[float | None], weight: float | None = None) -> list[float]:
    """Exponentially weighted moving average without the bias of its start.

    `s_t = Σ_i w^(t-i) x_i / Σ_i w^(t-i)`: the division makes early values averages of what has been seen so far, not
    copies of the first point (Kingma & Ba 2014, arXiv 1412.6980, section 3). Missing values (None, NaN, infinite) are
    left out and repeat the average so far; before the first value the result is NaN, which plots as a gap.

    Args:
        values: the curve, in order.
        weight: memory w in [0, 1); default: grows with the number of values, 1 - 8 / n between 0 and 0.95.

    Returns:
        As many numbers as given.

    Raises:
        DataError: `weight` outside [0, 1).

    >>> smooth([1.0, 3.0], weight=0.5)  # (0.5 · 1 + 3) / 1.5
    [1.0, 2.3333333333333335]
    """
    if weight is None:
        weight = min(0.95, max(0.0, 1 - 8 / max(1, len(values))))
    if not 0 <= weight < 1:
        raise DataError(f"smooth: weight={weight} must be at least 0 and below 1")
    total, seen, averages = 0.0, 0.0, []
    for value in values:
        if value is not None and np.isfinite(value):
            total, seen = weight * total + value, weight * seen + 1.0
        averages.append(total / seen if seen else float("nan"))
    return averages
