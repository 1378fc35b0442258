"""Who won, and by more than noise? Ranks the trials of a sweep and compares each with the winner."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rmx.results.metrics import last_values
from rmx.sweep.space import Params
from rmx.sweep.trials import SweepFolder, Trial

__all__ = ["Difference", "Facts", "Row", "build_rows", "read_facts"]

PREDICTIONS = "generated_predictions.jsonl"


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


@dataclass(frozen=True)
class Difference:
    """A trial's accuracy minus the winner's, with its 95 % interval.

    `method` is "paired" where both runs left predictions of the same pairs (exact McNemar test, `p_value`), else
    "interval" (Newcombe's interval from the two Wilson intervals, no p-value).
    """

    method: str
    difference: float
    low: float
    high: float
    p_value: float | None
    within_noise: bool


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard and one entry of sweep.json's `trials`."""

    number: int
    name: str
    rank: int | None  # 1 is the winner; None for trials without a result
    status: str
    params: Params
    values: dict[str, float]
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    loss: float | None
    pairs_per_second: float | None
    seconds: float  # wall time of all its processes
    step: int | None
    steps: dict[int, float]
    pareto: bool  # no other trial is at least as good in every objective and better in one
    vs_winner: Difference | None
    folder: str  # relative to the sweep folder, as is `log`
    log: str
    exit_code: int | None
    processes: int  # above 1: it was continued after a kill
    max_rss_bytes: int | None
    reason: str
    overrides: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def read_facts(folder: Path, evaluation: str = "eval") -> Facts:
    """Read a run folder's last numbers; `evaluation` is the evaluation set whose accuracy counts."""
    last = last_values(folder / "metrics.jsonl")
    finite = {key: value for key, value in last.items() if math.isfinite(value)}
    step = finite.get("step")
    low, high = finite.get(f"{evaluation}/accuracy_low"), finite.get(f"{evaluation}/accuracy_high")
    accuracy, pairs = finite.get(f"{evaluation}/accuracy"), finite.get(f"{evaluation}/pairs")
    if accuracy is not None and pairs and low is None:
        from rmx.metrics import wilson_interval

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


def in_order(
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
    paired: bool = True,
) -> list[Row]:
    """Rank the trials: finished ones first, by objective; then pruned, killed, failed and unstarted ones.

    `paired` may be left out while the sweep goes on: it reads every predictions file.
    With several objectives those on the Pareto front come first; within and behind it the first
    objective decides, then the loss.
    """
    finished, front, rest = in_order(trials, facts, directed)
    ranks = {trial.number: rank for rank, trial in enumerate(finished, start=1)}
    winner = finished[0] if finished else None
    rows = []
    for trial in [*finished, *rest]:
        known = facts.get(trial.number, Facts())
        attempts = folder.attempts(trial.name)
        compared = None
        if winner is not None and trial is not winner and trial.status == "finished":
            compared = compare(folder, winner, trial, facts, paired=paired)
        rows.append(
            Row(
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
                vs_winner=compared,
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


def compare(
    folder: SweepFolder, winner: Trial, trial: Trial, facts: Mapping[int, Facts], *, paired: bool
) -> Difference | None:
    """Compare a trial's accuracy with the winner's: paired where both scored the same pairs."""
    best = read_margins(folder.trial(winner.name) / PREDICTIONS) if paired else {}
    other = read_margins(folder.trial(trial.name) / PREDICTIONS) if paired else {}
    if best and best.keys() == other.keys():
        from rmx.metrics import paired_comparison

        result = paired_comparison(list(best.values()), [other[key] for key in best])
        return Difference(
            method="paired",
            difference=result["difference"],
            low=result["difference_low"],
            high=result["difference_high"],
            p_value=result["p_value"],
            within_noise=result["p_value"] >= 0.05,
        )
    return unpaired(facts.get(winner.number, Facts()), facts.get(trial.number, Facts()))


def unpaired(winner: Facts, other: Facts) -> Difference | None:
    """Newcombe's hybrid-score interval of a difference of two proportions (1998, method 10).

    >>> a, b = Facts(accuracy=0.8, accuracy_low=0.7, accuracy_high=0.87), Facts(
    ...     accuracy=0.7, accuracy_low=0.6, accuracy_high=0.79)
    >>> result = unpaired(a, b)
    >>> round(result.low, 4), round(result.high, 4), result.within_noise
    (-0.2221, 0.0345, True)
    """
    a, a_low, a_high = winner.accuracy, winner.accuracy_low, winner.accuracy_high
    b, b_low, b_high = other.accuracy, other.accuracy_low, other.accuracy_high
    if a is None or a_low is None or a_high is None or b is None or b_low is None or b_high is None:
        return None
    low = b - a - math.hypot(b - b_low, a_high - a)
    high = b - a + math.hypot(b_high - b, a - a_low)
    return Difference("interval", b - a, low, high, None, within_noise=low <= 0.0 <= high)


def read_margins(path: Path) -> dict[str, float]:
    """Return {pair: chosen minus rejected reward} of a predictions file, without annotators' ties; {} without one."""
    margins: dict[str, float] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        try:
            row = json.loads(line)
            if not row.get("labelled_tie", False):
                margins[json.dumps([row["id"], row.get("pair")])] = float(row["margin"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}  # not a whole predictions file: no paired comparison
    return margins if all(math.isfinite(margin) for margin in margins.values()) else {}


def _dominated(trial: Trial, others: Sequence[Trial], directed: Mapping[str, str]) -> bool:
    def signed(one: Trial) -> list[float]:
        return [one.values[key] * (1 if way == "maximize" else -1) for key, way in directed.items()]

    mine = signed(trial)
    for other in others:
        theirs = signed(other)
        if theirs != mine and all(their >= my for their, my in zip(theirs, mine, strict=True)):
            return True
    return False
