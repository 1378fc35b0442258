"""Held-out pairs, scored by a finished model, and the scale of its rewards that is measured on them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np

from rmx.data import PreferenceData
from rmx.data.accounting import Accounting
from rmx.data.assemble import assemble
from rmx.data.collect import collect
from rmx.errors import DataError
from rmx.losses import bradley_terry
from rmx.metrics import calibration, pair_metrics
from rmx.models.artefact.calibrated import Calibration
from rmx.scoring.evaluation import Evaluation, evaluate_set
from rmx.scoring.scorer import Scorer
from rmx.tokens import encode

__all__ = ["fit_scale", "heldout_rows", "score_heldout"]

log = logging.getLogger(__name__)


FLAGS = "--"  # rmx export takes flags: --columns, --ignore


def heldout_rows(
    path: str, *, columns: Mapping[str, str] = MappingProxyType({}), ignore: Sequence[str] = ()
) -> PreferenceData:
    """Held-out pairs of a file, in any row shape that training reads; bad rows are left out, up to a twentieth.

    Args:
        path: a file, or what else data.path takes.
        columns: rmx's column name → the file's.
        ignore: columns of text that are left out on purpose.
    """
    return PreferenceData(
        path=path,
        columns=dict(columns),
        ignore=list(ignore),
        allow_empty_prompt=True,
        validation_fraction=0.0,
        on_bad_row="skip",
    )


def score_heldout(scorer: Scorer, rows: PreferenceData) -> Evaluation:
    """Score every pair with the scorer's template and limit.

    Rows that cannot be used are left out, each named in the log.

    Raises:
        DataError: the file holds no pairs, or more than a twentieth of its rows cannot be used.
        NonFiniteError: a reward is NaN or infinite.
    """
    accounting = Accounting()
    read = assemble(collect(rows, accounting, key=FLAGS), accounting, rows, {}, None, key=FLAGS)
    for reject in read.accounting.rejects:
        log.warning("left out: %s", reject)
    encoded, _ = encode(read.train, scorer.tokenizer, scorer.template, max_tokens=scorer.max_tokens, on_bad_row="skip")
    return evaluate_set(scorer, encoded, bradley_terry)


def fit_scale(
    chosen: np.ndarray,
    rejected: np.ndarray,
    *,
    tie: np.ndarray,
    weight: np.ndarray,
    method: Literal["std", "temperature"],
    measured_on: str,
) -> Calibration:
    """Measure the scale of rewards on held-out pairs.

    Args:
        chosen: rewards of the preferred responses, one per pair.
        rejected: rewards of the others.
        tie: True where annotators saw no winner; such a pair has no part in a temperature.
        weight: of each pair, for the mean and the standard deviation.
        method: `std`: the standard deviation of all rewards (`reward_std` of `pair_metrics`); `temperature`: that of
            `rmx.metrics.calibration`.
        measured_on: a name for the pairs.

    Raises:
        DataError: there are no pairs, no two rewards differ, or no finite temperature exists.

    Four rewards 3, 1, 1, -1: mean 1, variance (4 + 0 + 0 + 4) / 4 = 2.

    >>> two = np.array([3.0, 1.0]), np.array([1.0, -1.0])
    >>> scale = fit_scale(*two, tie=np.zeros(2, bool), weight=np.ones(2), method="std", measured_on="x")
    >>> scale.mean, round(scale.scale, 6), scale.pairs
    (1.0, 1.414214, 2)
    """
    numbers = pair_metrics(chosen, rejected, tie=tie, weight=weight)
    mean = float(np.average(np.concatenate((chosen, rejected)), weights=np.concatenate((weight, weight))))
    if method == "std":
        scale = numbers["reward_std"]
        if not scale > 0:
            raise DataError(f"--rows: all rewards of the pairs of {measured_on} are equal; they have no scale")
    else:
        found = calibration((chosen - rejected)[~tie])["temperature"]
        if found is None:
            raise DataError(
                f"--scale temperature: the pairs of {measured_on} have none: all are ranked right, or the rewards are "
                "no better than a coin; give more pairs, or --scale std"
            )
        scale = found
    return Calibration(method, mean, float(scale), int(numbers["pairs"]), measured_on)
