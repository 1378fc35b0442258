"""Who won, and by more than noise? Ranks the trials of a sweep and compares each with the winner."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist

import numpy as np

from rmx.metrics import compare_with_selected, wilson_interval
from rmx.results.metrics import last_values
from rmx.results.predictions import PREDICTIONS, DecidedPair, decided_pairs, read_predictions
from rmx.results.sweep import Difference, SweepRow
from rmx.sweep.trials import SweepFolder, Trial

__all__ = ["Facts", "build_rows", "compare_with_winner", "read_facts", "read_pairs"]

log = logging.getLogger(__name__)

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Facts:
    """What a run folder says about a trial; None where the run did not get so far."""

    metrics: Mapping[str, float] = field(default_factory=dict)  # last value of every key of metrics.jsonl
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    loss: float | None = None
    pairs: float | None = None
    pairs_per_second: float | None = None
    step: int | None = None


def read_facts(folder: Path, evaluation: str = "eval") -> Facts:
    """Read a run folder's last numbers; `evaluation` is the evaluation set whose accuracy counts."""
    last = last_values(folder / "metrics.jsonl")
    finite = {key: value for key, value in last.items() if math.isfinite(value)}
    step = finite.get("step")
    low, high = finite.get(f"{evaluation}/accuracy_low"), finite.get(f"{evaluation}/accuracy_high")
    accuracy, pairs = finite.get(f"{evaluation}/accuracy"), finite.get(f"{evaluation}/pairs")
    if accuracy is not None and pairs and low is None:
        low, high = wilson_interval(accuracy * pairs, pairs)
    return Facts(
        metrics=last,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        loss=finite.get(f"{evaluation}/loss"),
        pairs=pairs,
        pairs_per_second=finite.get("train/pairs_per_second", finite.get(f"{evaluation}/pairs_per_second")),
        step=None if step is None else int(step),
    )


def best_first(
    trials: Sequence[Trial], facts: Mapping[int, Facts], directed: Mapping[str, str]
) -> tuple[list[Trial], set[int], list[Trial]]:
    """Return the finished trials best first, the numbers on the Pareto front, and the other trials by status."""
    finished = [trial for trial in trials if trial.status == "finished"]
    front = {trial.number for trial in finished if not _dominated(trial, finished, directed)}
    first, direction = next(iter(directed.items()))
    sign = -1.0 if direction == "maximize" else 1.0

    def order_of(trial: Trial) -> tuple[bool, float, float, int]:
        loss = facts.get(trial.number, Facts()).loss  # of two with the same accuracy the surer one
        return trial.number not in front, sign * trial.values[first], math.inf if loss is None else loss, trial.number

    finished.sort(key=order_of)
    order = ("pruned", "killed", "running", "failed", "waiting")
    rest = sorted(
        (trial for trial in trials if trial.status != "finished"), key=lambda t: (order.index(t.status), t.number)
    )
    return finished, front, rest


def build_rows(
    folder: SweepFolder,
    trials: Sequence[Trial],
    facts: Mapping[int, Facts],
    directed: Mapping[str, str],
    overrides: Mapping[int, list[str]],
    *,
    evaluation: str = "eval",
    paired: bool = True,
) -> list[SweepRow]:
    """Rank the trials: finished ones first, by objective; then pruned, killed, failed and unstarted ones.

    `paired` may be left out while the sweep goes on: it reads every predictions file of the sets of `evaluation`.
    With several objectives those on the Pareto front come first; within and behind it the first
    objective decides, then the loss.
    """
    finished, front, rest = best_first(trials, facts, directed)
    ranks = {trial.number: rank for rank, trial in enumerate(finished, start=1)}
    differences = compare_with_winner(folder, finished, facts, evaluation, paired=paired)
    rows = []
    for trial in [*finished, *rest]:
        known = facts.get(trial.number, Facts())
        attempts = folder.attempts(trial.name)
        rows.append(
            SweepRow(
                number=trial.number,
                name=trial.name,
                rank=ranks.get(trial.number),
                status=trial.status,
                params=trial.params,
                values=trial.values,
                accuracy=known.accuracy,
                accuracy_low=known.accuracy_low,
                accuracy_high=known.accuracy_high,
                loss=known.loss,
                pairs_per_second=known.pairs_per_second,
                seconds=sum(attempt.seconds for attempt in attempts),
                step=known.step,
                steps=trial.steps,
                pareto=trial.number in front,
                vs_winner=differences.get(trial.number),
                folder=trial.name,
                log=f"jobs/{trial.name}.log",
                exit_code=attempts[-1].exit_code if attempts else None,
                processes=len(attempts),
                max_rss_bytes=max((attempt.max_rss_bytes or 0 for attempt in attempts), default=0) or None,
                reason=trial.reason,
                overrides=list(overrides.get(trial.number, [])),
            )
        )
    return rows


# --- Beyond noise? ----------------------------------------------------------------------------------------------------


def compare_with_winner(
    folder: SweepFolder, finished: Sequence[Trial], facts: Mapping[int, Facts], evaluation: str, *, paired: bool
) -> dict[int, Difference]:
    """Compare the accuracy of every finished trial with the winner's, the first; {} without another trial.

    Paired where a trial scored the pairs that the winner scored. The others are compared by their intervals alone, at
    a level that allows for the choice among all T (T - 1) / 2 differences of two trials (Bonferroni).
    """
    if len(finished) < 2:
        return {}
    winner, *others = finished
    found = _paired_differences(folder, winner, others, evaluation) if paired else {}
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (len(finished) * (len(finished) - 1)))
    for trial in others:
        if trial.number not in found:
            result = by_intervals(facts.get(winner.number, Facts()), facts.get(trial.number, Facts()), z)
            found |= {trial.number: result} if result is not None else {}
    return found


def _paired_differences(
    folder: SweepFolder, winner: Trial, others: Sequence[Trial], evaluation: str
) -> dict[int, Difference]:
    pairs = read_pairs(folder.trial(winner.name), evaluation)
    same, margins, unlike = [], [np.array([pair.margin for pair in pairs.values()])], []
    for trial in others if pairs else []:
        theirs = read_pairs(folder.trial(trial.name), evaluation)
        if theirs.keys() == pairs.keys():
            same.append(trial)
            margins.append(np.array([theirs[key].margin for key in pairs]))
        else:
            unlike.append(trial.name)
    if unlike:
        log.warning(
            "Not compared pair by pair, because they left no predictions of the pairs that the winner %s scored: %s",
            winner.name, ", ".join(unlike),
        )  # fmt: skip
    if not same:
        return {}
    labels = {name: place for place, name in enumerate(dict.fromkeys(pair.comparison for pair in pairs.values()))}
    results = compare_with_selected(
        np.stack(margins),
        0,
        weight=[pair.weight for pair in pairs.values()],
        comparison=[labels[pair.comparison] for pair in pairs.values()],
        confidence=CONFIDENCE,
    )
    return {
        trial.number: Difference(
            method="paired",
            difference=result["difference"],
            low=result["difference_low"],
            high=result["difference_high"],
            p_value=result["adjusted_p"],
            within_noise=result["adjusted_p"] >= 1 - CONFIDENCE,
        )
        for trial, result in zip(same, results[1:], strict=True)
    }


def read_pairs(folder: Path, evaluation: str) -> dict[tuple[str, str], DecidedPair]:
    """Read the scored pairs of a run's evaluation sets: of all for "eval", of one for "eval_<set>".

    Empty where a file is damaged or lacks scores: a part of the pairs would be another evaluation.
    """
    one = folder / f"{PREDICTIONS}{evaluation.removeprefix('eval')}.jsonl"
    paths = sorted(folder.glob(f"{PREDICTIONS}*.jsonl")) if evaluation == "eval" else [one] if one.exists() else []
    notes: list[str] = []
    sets = [read_predictions(path, notes) for path in paths]
    return {} if notes else decided_pairs(sets)


def by_intervals(winner: Facts, other: Facts, z: float) -> Difference | None:
    """Newcombe's hybrid-score interval of a difference of two proportions (1998, method 10).

    It is made of two 95 % intervals and widened by z / 1.96, as a normal one would be.

    >>> a, b = Facts(accuracy=0.8, accuracy_low=0.7, accuracy_high=0.87), Facts(
    ...     accuracy=0.7, accuracy_low=0.6, accuracy_high=0.79)
    >>> result = by_intervals(a, b, 1.959964)
    >>> round(result.low, 4), round(result.high, 4), result.within_noise
    (-0.2221, 0.0345, True)
    """
    a, a_low, a_high = winner.accuracy, winner.accuracy_low, winner.accuracy_high
    b, b_low, b_high = other.accuracy, other.accuracy_low, other.accuracy_high
    if a is None or a_low is None or a_high is None or b is None or b_low is None or b_high is None:
        return None
    wider = z / NormalDist().inv_cdf(0.975)
    low = b - a - wider * math.hypot(b - b_low, a_high - a)
    high = b - a + wider * math.hypot(b_high - b, a - a_low)
    return Difference("interval", b - a, low, high, None, within_noise=low <= 0.0 <= high)


def _dominated(trial: Trial, others: Sequence[Trial], directed: Mapping[str, str]) -> bool:
    def signed(one: Trial) -> list[float]:
        return [one.values[key] * (1 if way == "maximize" else -1) for key, way in directed.items()]

    mine = signed(trial)
    for other in others:
        theirs = signed(other)
        if theirs != mine and all(their >= my for their, my in zip(theirs, mine, strict=True)):
            return True
    return False
