"""The numbers of a run's page, computed from its predictions: one evaluation set at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmx import metrics
from rmx.results import Curve, Predictions

__all__ = ["SetFacts", "WrongPair", "flat", "set_facts", "worst_mistakes"]

WORST = 15  # mistakes shown


@dataclass(frozen=True)
class WrongPair:
    """A pair that the model puts the wrong way round, and what is known of its texts."""

    id: str
    source: str
    chosen: float
    rejected: float
    p_chosen: float
    chosen_tokens: float
    rejected_tokens: float
    texts: Mapping[str, str] | None = None


@dataclass(frozen=True)
class SetFacts:
    """What is said of one evaluation set; None where the predictions do not allow it."""

    name: str
    numbers: dict[str, float]
    calibration: dict[str, Any] | None
    length: dict[str, float | None] | None
    ceiling: dict[str, float] | None
    truth: dict[str, float | None] | None
    sources: dict[str, dict[str, float]]
    mistakes: list[WrongPair]
    truncated: int
    unscored: int


def set_facts(predictions: Predictions, texts: Mapping[str, Mapping[str, str]] | None = None) -> SetFacts | None:
    """All numbers of one set; None when it has no scored pair."""
    if not predictions.ids:
        return None
    won = ~predictions.tie
    decided = bool(won.any())
    chosen, rejected = predictions.chosen, predictions.rejected
    columns: dict[str, Any] = {
        "tie": predictions.tie,
        "weight": predictions.weight,
        "loss": predictions.loss,
        "comparison": predictions.comparisons,
    }
    sizes = (predictions.chosen_tokens, predictions.rejected_tokens)
    truth = (predictions.truth_chosen, predictions.truth_rejected)
    return SetFacts(
        name=predictions.name,
        numbers=metrics.pair_metrics(chosen, rejected, **columns),
        calibration=metrics.calibration(predictions.margin) if decided else None,
        length=(
            metrics.length_bias(chosen[won], rejected[won], sizes[0][won], sizes[1][won])
            if decided and predictions.has_tokens
            else None
        ),
        ceiling=metrics.ceiling(truth[0], truth[1]) if truth[0] is not None and truth[1] is not None else None,
        truth=(
            metrics.truth_correlation(chosen, rejected, truth[0], truth[1])
            if truth[0] is not None and truth[1] is not None
            else None
        ),
        sources=metrics.by_source(predictions.source, chosen, rejected, **columns),
        mistakes=worst_mistakes(predictions, texts or {}),
        truncated=predictions.truncated,
        unscored=predictions.unscored,
    )


def worst_mistakes(predictions: Predictions, texts: Mapping[str, Mapping[str, str]]) -> list[WrongPair]:
    """The pairs that the model is most confidently wrong about, worst first."""
    margin = np.where(predictions.tie, 0.0, predictions.chosen - predictions.rejected)
    order = np.argsort(margin, kind="stable")[:WORST]
    return [
        WrongPair(
            id=predictions.ids[i],
            source=predictions.source[i],
            chosen=float(predictions.chosen[i]),
            rejected=float(predictions.rejected[i]),
            p_chosen=float(1 / (1 + np.exp(-margin[i]))) if margin[i] > -700 else 0.0,
            chosen_tokens=float(predictions.chosen_tokens[i]),
            rejected_tokens=float(predictions.rejected_tokens[i]),
            texts=texts.get(predictions.ids[i]),
        )
        for i in order.tolist()
        if margin[i] < 0
    ]


def curve_words(curve: Curve) -> str:
    """A curve in a sentence, for readers who do not see it.

    >>> curve_words(Curve("eval/loss", np.array([1.0, 2.0, 3.0]), np.array([0.7, 0.4, 0.5])))
    'from 0.7 at step 1 to 0.5 at step 3, lowest 0.4 at step 2, highest 0.7 at step 1'
    """
    fine = np.isfinite(curve.values)
    steps, values = curve.steps[fine], curve.values[fine]
    if not values.size:
        return "no values"
    low, high = int(values.argmin()), int(values.argmax())
    return (
        f"from {values[0]:.3g} at step {steps[0]:g} to {values[-1]:.3g} at step {steps[-1]:g}, "
        f"lowest {values[low]:.3g} at step {steps[low]:g}, highest {values[high]:.3g} at step {steps[high]:g}"
    )


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """A nested object as rows of "a › b" and a plain value; lists of plain values are joined, long ones cut.

    >>> flat({"rows": 3, "dropped": {"empty": 1, "long": 2}, "first": ["a", "b"]})
    [('rows', 3), ('dropped › empty', 1), ('dropped › long', 2), ('first', 'a, b')]
    """
    rows: list[tuple[str, Any]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            rows += flat(item, f"{name} › ")
        elif isinstance(item, Sequence) and not isinstance(item, str):
            rows += _listed(name, item)
        else:
            rows.append((name, item))
    return rows


def _listed(name: str, items: Sequence[Any]) -> list[tuple[str, Any]]:
    if any(isinstance(item, Mapping | list) for item in items):
        shown = [row for place, item in enumerate(items[:5]) for row in flat({f"{name} {place + 1}": item})]
    else:
        shown = [(name, ", ".join(str(item) for item in items[:12]))]
    return shown + ([(f"{name} (count)", len(items))] if len(items) > 12 else [])
