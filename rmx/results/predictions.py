"""generated_predictions*.jsonl: how a scored pair is written, and how the pairs of a set are read back as columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmx.records import EncodedComparison, Pair
from rmx.results.metrics import float_or_nan, json_lines

__all__ = [
    "PREDICTIONS",
    "DecidedPair",
    "Predictions",
    "decided_pairs",
    "prediction_row",
    "predictions_name",
    "read_predictions",
]

PREDICTIONS = "generated_predictions"


def predictions_name(set_name: str, several: bool) -> str:
    """The file of one evaluation set; a single set has no name in it.

    >>> predictions_name("eval", False), predictions_name("code", True)
    ('generated_predictions.jsonl', 'generated_predictions_code.jsonl')
    """
    return f"{PREDICTIONS}_{set_name}.jsonl" if several else f"{PREDICTIONS}.jsonl"


def prediction_row(
    comparison: EncodedComparison, pair: Pair, chosen: float, rejected: float, loss: float
) -> dict[str, Any]:
    """One line of the file: full-precision scores with their identity, and what the metrics are made of.

    `loss` (nats) and `weight` (where it is not 1) are those of the evaluation, so that `pair_metrics` of the file's
    columns gives the run's own numbers, to the last digit.
    """
    margin = chosen - rejected
    lengths = comparison.lengths
    row: dict[str, Any] = {
        "id": comparison.id,
        "source": comparison.source,
        "chosen": chosen,
        "rejected": rejected,
        "margin": margin,
        "p_chosen": 0.5 * (1 + math.tanh(margin / 2)),  # the sigmoid, without overflow
        "loss": loss,
        "tie": chosen == rejected,
        "chosen_tokens": lengths[pair.winner],
        "rejected_tokens": lengths[pair.loser],
        "truncated": comparison.truncated,
    }
    if pair.weight != 1.0:
        row["weight"] = float(np.float32(pair.weight))  # as every loss and metric takes it
    if pair.tie:
        row["labelled_tie"] = True
    if len(lengths) > 2:
        row["pair"] = [pair.winner, pair.loser]
    if comparison.truth is not None:
        row["truth_chosen"] = comparison.truth[pair.winner]
        row["truth_rejected"] = comparison.truth[pair.loser]
    return row


@dataclass(frozen=True)
class Predictions:
    """The scored pairs of one evaluation set, in file order; all columns have the same length."""

    name: str
    ids: list[str]  # unique: of K > 2 responses with the pair, as "id [winner>loser]"
    comparisons: list[str]  # the comparison's id: pairs that share it share their prompt and responses
    source: list[str]
    chosen: NDArray[np.float64]
    rejected: NDArray[np.float64]
    chosen_tokens: NDArray[np.float64]  # NaN where the file does not say
    rejected_tokens: NDArray[np.float64]
    tie: NDArray[np.bool_]  # the annotators saw no winner (`labelled_tie`; the rows' `tie` is only equal rewards)
    weight: NDArray[np.float64]
    loss: NDArray[np.float64] | None  # nats; None where the file does not say (written before it did)
    truncated: int  # rows of which a part was cut away
    unscored: int  # rows left out because a score is missing or not finite
    truth_chosen: NDArray[np.float64] | None = None
    truth_rejected: NDArray[np.float64] | None = None

    @property
    def margin(self) -> NDArray[np.float64]:
        """Chosen minus rejected reward of the pairs that have a winner."""
        return (self.chosen - self.rejected)[~self.tie]

    @property
    def has_tokens(self) -> bool:
        """Whether every row knows its token counts."""
        return bool(len(self.ids) and np.isfinite(self.chosen_tokens + self.rejected_tokens).all())


class DecidedPair(NamedTuple):
    """A pair that has a winner, as one run scored it."""

    margin: float  # chosen minus rejected reward
    weight: float
    comparison: tuple[str, str]  # the set and the comparison's id


def decided_pairs(sets: Iterable[Predictions]) -> dict[tuple[str, str], DecidedPair]:
    """Return {(set, id of the pair): pair}, by which runs are matched; without pairs that annotators called a tie."""
    found = {}
    for one in sets:
        margins, weights, ties = (one.chosen - one.rejected).tolist(), one.weight.tolist(), one.tie.tolist()
        for name, comparison, margin, weight, tie in zip(one.ids, one.comparisons, margins, weights, ties, strict=True):
            if not tie:
                found[one.name, name] = DecidedPair(margin, weight, (one.name, comparison))
    return found


def read_predictions(path: Path, notes: list[str]) -> Predictions:
    """Read one file; rows without a score are left out and counted, in the result and in `notes`."""
    name = path.stem[len(PREDICTIONS) :].lstrip("_") or "eval"
    return _columns(name, json_lines(path, notes), notes)


def _columns(name: str, rows: Iterator[dict[str, Any]], notes: list[str]) -> Predictions:
    kept, unscored = [], 0
    for row in rows:
        if math.isfinite(float_or_nan(row.get("chosen"))) and math.isfinite(float_or_nan(row.get("rejected"))):
            kept.append(row)
        else:
            unscored += 1
    if unscored:
        notes.append(f"{name}: rows without a finite score left out: {unscored}")
    weight, loss = _floats(kept, "weight"), _floats(kept, "loss")
    truth_chosen, truth_rejected = _floats(kept, "truth_chosen"), _floats(kept, "truth_rejected")
    known = bool(kept) and bool(np.isfinite(truth_chosen + truth_rejected).all())
    return Predictions(
        name=name,
        ids=[_identity(row, number) for number, row in enumerate(kept)],
        comparisons=[str(row.get("id", place)) for place, row in enumerate(kept)],
        source=[str(row.get("source", "")) for row in kept],
        chosen=_floats(kept, "chosen"),
        rejected=_floats(kept, "rejected"),
        chosen_tokens=_floats(kept, "chosen_tokens"),
        rejected_tokens=_floats(kept, "rejected_tokens"),
        tie=np.array([row.get("labelled_tie") is True for row in kept], dtype=bool),
        weight=np.where(np.isfinite(weight), weight, 1.0),
        loss=loss if np.isfinite(loss).all() else None,
        truncated=sum(row.get("truncated") is True for row in kept),
        unscored=unscored,
        truth_chosen=truth_chosen if known else None,
        truth_rejected=truth_rejected if known else None,
    )


def _identity(row: dict[str, Any], number: int) -> str:
    name, pair = str(row.get("id", number)), row.get("pair")
    return f"{name} [{pair[0]}>{pair[1]}]" if isinstance(pair, list) and len(pair) == 2 else name


def _floats(rows: list[dict[str, Any]], key: str) -> NDArray[np.float64]:
    return np.array([float_or_nan(row.get(key)) for row in rows], dtype=np.float64)
