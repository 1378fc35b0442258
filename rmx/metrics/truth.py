"""Where the true rewards are known: the best that any model can reach, and how close learned rewards come."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rmx.metrics.arrays import Floats, columns, sigmoid, softplus

__all__ = ["ceiling", "correlation", "truth_correlation"]


def ceiling(truth_chosen: ArrayLike, truth_rejected: ArrayLike) -> dict[str, float]:
    """Best reachable accuracy and loss when labels are drawn from the Bradley–Terry model of known rewards.

    With d the difference of the true rewards, the truly better response carries the label with probability σ(|d|).
    No model can expect more than `mean σ(|d|)` accuracy, nor less than the labels' entropy in loss:
    `mean [σ(d) log(1 + e^-d) + σ(-d) log(1 + e^d)]` nats.

    Args:
        truth_chosen: true rewards of the responses that the drawn labels prefer, in Bradley–Terry logits (already
            divided by the noise temperature).
        truth_rejected: true rewards of the others.

    Returns:
        `accuracy`, `loss`: expected over the draw of labels; `drawn_accuracy`, `drawn_loss`: what the true rewards
        score on the labels that were in fact drawn (equal true rewards count half).

    Raises:
        DataError: no pairs, or columns of different lengths.
        NonFiniteError: a true reward is NaN or infinite.

    d = ±log 3: the better one wins with probability 3/4.

    >>> {k: round(v, 4) for k, v in ceiling([np.log(3), 0.0], [0.0, np.log(3)]).items()}
    {'accuracy': 0.75, 'loss': 0.5623, 'drawn_accuracy': 0.5, 'drawn_loss': 0.837}
    """
    won, lost = columns(truth_chosen=truth_chosen, truth_rejected=truth_rejected)
    d = won - lost
    return {
        "accuracy": float(sigmoid(np.abs(d)).mean()),
        "loss": float((sigmoid(d) * softplus(-d) + sigmoid(-d) * softplus(d)).mean()),
        "drawn_accuracy": float((d > 0).mean() + (d == 0).mean() / 2),
        "drawn_loss": float(softplus(-d).mean()),
    }


def correlation(first: ArrayLike, second: ArrayLike) -> dict[str, float | None]:
    """Pearson and Spearman correlation; None where a column is constant and none is defined.

    Spearman is Pearson on ranks, equal values sharing their mean rank.

    Raises:
        DataError: no rows, or columns of different lengths.
        NonFiniteError: a value is NaN or infinite.

    >>> correlation([1.0, 2.0, 3.0], [1.0, 8.0, 27.0])["spearman"]
    1.0
    """
    x, y = columns(first=first, second=second)
    return {"pearson": _pearson(x, y), "spearman": _pearson(_ranks(x), _ranks(y))}


def truth_correlation(
    chosen: ArrayLike, rejected: ArrayLike, truth_chosen: ArrayLike, truth_rejected: ArrayLike
) -> dict[str, float | None]:
    """Learned against true reward: `pearson` and `spearman` over responses, `margin_pearson` over pairs.

    The last is the fair one: pairs teach a model nothing about constants that differ from prompt to prompt.

    Raises:
        DataError: no pairs, or columns of different lengths.
        NonFiniteError: a value is NaN or infinite.

    >>> truth_correlation([3.0, 1.0], [1.0, 0.0], [2.0, 4.0], [0.0, 3.0])["margin_pearson"]
    1.0
    """
    won, lost, true_won, true_lost = columns(
        chosen=chosen, rejected=rejected, truth_chosen=truth_chosen, truth_rejected=truth_rejected
    )
    pooled = correlation(np.concatenate((won, lost)), np.concatenate((true_won, true_lost)))
    return pooled | {"margin_pearson": correlation(won - lost, true_won - true_lost)["pearson"]}


def _pearson(x: Floats, y: Floats) -> float | None:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    value = float((x @ y) / np.sqrt((x @ x) * (y @ y)))
    return min(1.0, max(-1.0, value))


def _ranks(x: Floats) -> Floats:
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2.0)[place]
