"""A reward model, or a judge, on a public benchmark: rewards of every row, then the numbers the leaderboard has.

SuiteRow ──template, limits of the training──▶ rewards [K] ──rmx.metrics.benchmarks──▶ a line per section
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rmx.data.suites import SuiteRow
from rmx.errors import NonFiniteError
from rmx.metrics import pair_metrics, wilson_interval
from rmx.metrics.benchmarks import (
    PRIOR_SETS,
    PRIOR_SETS_WEIGHT,
    REWARDBENCH_SECTIONS,
    auc_within_prompts,
    best_of_n_curve,
    best_of_n_loss,
    best_pick,
    prior_sets,
    roc_auc,
    style_matrix,
    ties_score,
    weighted_sections,
)
from rmx.records import EncodedComparison
from rmx.scoring.scorer import Scorer
from rmx.tokens import encode_conversations

__all__ = ["CORRECTNESS", "BenchResult", "CorrectnessScore", "SectionScore", "judge_suite", "score_suite"]

Z = 1.959963984540054  # of a 95 % interval
DRAWS = 1000  # of the bootstrap over prompts, where a score is no proportion


@dataclass(frozen=True, slots=True)
class SectionScore:
    """One line of the table."""

    section: str
    rows: int
    score: float
    low: float  # 95 % interval: other prompts like these
    high: float
    kind: str = "section"  # or "subset", "style", "overall"


# What PPE measures (Frick et al. 2024) where a prompt has three responses or more, each with its quality.
CORRECTNESS = {
    "best_of_k_max": "best of k, highest",
    "best_of_k_end": "best of k, last",
    "best_of_k_loss": "best of k, loss",
    "roc_auc": "ROC AUC",
    "roc_auc_within_prompts": "ROC AUC within prompts",
}


@dataclass(frozen=True, slots=True)
class CorrectnessScore:
    """One of CORRECTNESS, of one section."""

    section: str
    metric: str  # a key of CORRECTNESS
    prompts: int
    score: float
    low: float  # 95 % interval; NaN where one prompt has none
    high: float


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All lines of one suite, `overall` the last, and the best-of-n curve where the suite has one."""

    suite: str
    lines: list[SectionScore]
    curve: list[tuple[int, float, float, float]] = field(default_factory=list)  # n, quality, low, high
    correctness: list[CorrectnessScore] = field(default_factory=list)  # by section, the means over sections last
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def overall(self) -> SectionScore:
        """The number that the suite is quoted by."""
        return self.lines[-1]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def score_suite(
    scorer: Scorer, rows: Sequence[SuiteRow], progress: Callable[[int, int], None] | None = None
) -> list[np.ndarray]:
    """Return the rewards [K] of each row's responses, with the scorer's template and limits, the prompt computed once.

    Raises:
        DataError: a row that the template refuses.
        NonFiniteError: a reward that is NaN or infinite.
    """
    conversations = [[*row.prompt, *response] for row in rows for response in row.responses]
    ids = iter(encode_conversations(conversations, scorer.tokenizer, scorer.template, max_tokens=scorer.max_tokens))
    encoded = []
    for row in rows:
        own = [next(ids) for _ in row.responses]
        limit = min(len(sequence) for sequence in own) - 1  # every suffix keeps its scored token
        same = np.all([sequence[:limit] == own[0][:limit] for sequence in own], axis=0)
        shared = limit if same.all() else int(np.argmin(same))
        encoded.append(EncodedComparison(row.id, row.section, own[0][:shared], tuple(s[shared:] for s in own), ()))
    rewards = scorer.rewards(encoded, progress)
    broken = next((row.id for row, values in zip(rows, rewards, strict=True) if not np.isfinite(values).all()), None)
    if broken is not None:
        raise NonFiniteError(f"the reward of row {broken} is not finite; the benchmark has no result")
    return rewards


def judge_suite(suite: str, rows: Sequence[SuiteRow], rewards: Sequence[np.ndarray]) -> BenchResult:
    """Aggregate rewards as the suite's own script does.

    Args:
        suite: a key of `rmx.data.suites.SUITES`.
        rows: its rows.
        rewards: the rewards [K] of each row's responses.
    """
    by_section: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_section.setdefault(row.section, []).append(i)
    lines = []
    for section, places in sorted(by_section.items()):
        own, scores = [rows[i] for i in places], [rewards[i] for i in places]
        made = (_best_of_four if suite == "rewardbench2" else _pairwise)(section, own, scores)
        lines += [made] if made is not None else []
    finish = {"rewardbench": _rewardbench, "rm_bench": _rm_bench, "judgebench": _pooled, "pairs": _pooled}
    finish |= {"best_of_n": _pooled}
    lines += finish.get(suite, _mean_of_sections)(lines, rows, rewards)
    counts = {"rows": len(rows), "labelled_ties": sum(row.tie for row in rows)}
    many = suite in {"ppe", "best_of_n"}
    if not many:
        return BenchResult(suite, lines, counts=counts)
    return BenchResult(suite, lines, _curve(rows, rewards), _correctness(by_section, rows, rewards), counts)


def _pairwise(section: str, rows: Sequence[SuiteRow], rewards: Sequence[np.ndarray]) -> SectionScore | None:
    """Share of (better, worse) pairs the right way round, strictly; None without a pair that has a winner."""
    pairs = [(r, i, j) for r, row in enumerate(rows) for i, j in row.pairs]
    if not pairs:
        return None
    numbers = pair_metrics(
        [rewards[r][i] for r, i, _ in pairs], [rewards[r][j] for r, _, j in pairs], comparison=[r for r, _, _ in pairs]
    )
    return SectionScore(section, len(rows), numbers["accuracy"], numbers["accuracy_low"], numbers["accuracy_high"])


def _best_of_four(section: str, rows: Sequence[SuiteRow], rewards: Sequence[np.ndarray]) -> SectionScore:
    if section.lower() != "ties":
        picks = [best_pick(values) for values in rewards]
        return SectionScore(section, len(rows), sum(picks) / len(picks), *wilson_interval(sum(picks), len(picks)))
    prompts: dict[str, list[tuple[str, int, list[float]]]] = {}
    for row, values in zip(rows, rewards, strict=True):
        kind, _, number = row.id.partition("@")[0].partition(":")
        prompts.setdefault(number, []).append((kind, row.right, values.tolist()))
    whole = ties_score([(f"{kind}:{n}", right, v) for n, own in prompts.items() for kind, right, v in own])
    random, own_rows, found = np.random.default_rng(0), list(prompts.values()), []
    for _ in range(DRAWS):  # a prompt is drawn with both of its rows
        drawn = enumerate(random.integers(len(own_rows), size=len(own_rows)))
        found.append(ties_score([(f"{kind}:{i}", right, v) for i, p in drawn for kind, right, v in own_rows[p]]))
    low, high = np.quantile(found, [0.025, 0.975])
    return SectionScore(section, len(rows), whole, float(low), float(high))


# --- Over the sections ---


def _combined(name: str, kind: str, parts: Mapping[SectionScore, float], score: float) -> SectionScore:
    """A weighted mean of independent sections; its half width is the root of the summed squares of theirs."""
    total = sum(parts.values())
    half = math.sqrt(sum((weight / total * (part.high - part.low) / 2) ** 2 for part, weight in parts.items()))
    rows = sum(part.rows for part in parts)
    return SectionScore(name, rows, score, min(score, max(0.0, score - half)), max(score, min(1.0, score + half)), kind)


def _mean_of_sections(lines: list[SectionScore], rows: Any, rewards: Any) -> list[SectionScore]:
    if not lines:
        return []
    return [_combined("overall", "overall", dict.fromkeys(lines, 1.0), float(np.mean([line.score for line in lines])))]


def _pooled(lines: list[SectionScore], rows: Sequence[SuiteRow], rewards: Sequence[np.ndarray]) -> list[SectionScore]:
    whole = _pairwise("overall", rows, rewards)
    return [] if whole is None else [SectionScore(whole.section, *_numbers(whole), kind="overall")]


def _numbers(line: SectionScore) -> tuple[int, float, float, float]:
    return line.rows, line.score, line.low, line.high


def _rewardbench(lines: list[SectionScore], rows: Any, rewards: Any) -> list[SectionScore]:
    subsets = {line.section: line for line in lines}
    accuracy = {line.section: line.score for line in lines}
    lines[:] = [SectionScore(line.section, *_numbers(line), kind="subset") for line in lines]
    sections: dict[SectionScore, float] = {}  # with their weights
    for name, score in weighted_sections(accuracy).items():
        parts = {subsets[s]: float(count) for s, count in REWARDBENCH_SECTIONS[name].items() if s in subsets}
        sections[_combined(name, "section", parts, score)] = 1.0
    prior = prior_sets(accuracy)
    if prior is not None:
        parts = dict.fromkeys([subsets[name] for name in PRIOR_SETS if name in subsets], 1.0)
        name = f"Prior Sets ({PRIOR_SETS_WEIGHT:g} weight)"
        sections[_combined(name, "section", parts, prior)] = PRIOR_SETS_WEIGHT
    if not sections:
        return _mean_of_sections(list(subsets.values()), rows, rewards)
    overall = sum(line.score * weight for line, weight in sections.items()) / sum(sections.values())
    return [*sections, _combined("overall", "overall", sections, overall)]


def _rm_bench(lines: list[SectionScore], rows: Sequence[SuiteRow], rewards: Sequence[np.ndarray]) -> list[SectionScore]:
    styles: dict[str, list[float]] = {}
    for line in lines:
        own = [values for row, values in zip(rows, rewards, strict=True) if row.section == line.section]
        for style, accuracy in style_matrix([v[:3] for v in own], [v[3:] for v in own]).items():
            styles.setdefault(style, []).append(accuracy)
    (overall,) = _mean_of_sections(lines, rows, rewards)
    spread = dict.fromkeys(lines, 1.0)
    return [*(_combined(s, "style", spread, float(np.mean(found))) for s, found in styles.items()), overall]


# --- Many responses to a prompt ---


def _curve(rows: Sequence[SuiteRow], rewards: Sequence[np.ndarray]) -> list[tuple[int, float, float, float]]:
    """Mean quality of the best of n = 1, 2, 4, ... over prompts of n responses or more; one alone has no interval."""
    curves = [best_of_n_curve(v, row.quality) for row, v in zip(rows, rewards, strict=True) if not row.tie]
    ends = _ends(rows)
    most, points, n = max(map(len, curves), default=0), [], 1
    while n <= most:
        points.append((n, *_mean([curve[n - 1] for curve in curves if len(curve) >= n], *ends)))
        n *= 2
    return points


def _ends(rows: Sequence[SuiteRow]) -> tuple[float, float]:
    """The least and the greatest quality of a response."""
    found = [value for row in rows for value in row.quality]
    return min(found, default=0.0), max(found, default=1.0)


def _correctness(
    by_section: Mapping[str, Sequence[int]], rows: Sequence[SuiteRow], rewards: Sequence[np.ndarray]
) -> list[CorrectnessScore]:
    """CORRECTNESS of each section whose prompts all have three responses or more, and the means over sections."""
    scores = []
    for section, places in sorted(by_section.items()):
        if min(len(rows[i].responses) for i in places) > 2:  # of two, the accuracy says all there is
            found = _section_correctness([rows[i] for i in places], [rewards[i] for i in places])
            scores += [CorrectnessScore(section, metric, *numbers) for metric, numbers in found.items()]
    for metric in CORRECTNESS if len({score.section for score in scores}) > 1 else ():
        parts = [score for score in scores if score.metric == metric]
        if parts:
            scores.append(_mean_of_parts(metric, parts))
    return scores


def _mean_of_parts(metric: str, parts: Sequence[CorrectnessScore]) -> CorrectnessScore:
    mean, prompts = sum(part.score for part in parts) / len(parts), sum(part.prompts for part in parts)
    half = math.sqrt(sum(((part.high - part.low) / 2) ** 2 for part in parts)) / len(parts)
    if math.isnan(half):
        return CorrectnessScore("overall", metric, prompts, mean, math.nan, math.nan)
    low, high = min(part.low for part in parts), max(part.high for part in parts)  # a mean lies within
    return CorrectnessScore("overall", metric, prompts, mean, max(low, mean - half), min(high, mean + half))


def _section_correctness(
    rows: Sequence[SuiteRow], rewards: Sequence[np.ndarray]
) -> dict[str, tuple[int, float, float, float]]:
    """Prompts, value and interval by metric; the curve goes as far as the prompt with the fewest responses."""
    quality = [row.quality for row in rows]
    most = min(map(len, quality))
    curves = [best_of_n_curve(v, q)[:most] for v, q in zip(rewards, quality, strict=True)]
    losses = [float(np.mean(best_of_n_loss(v, q)[:most])) for v, q in zip(rewards, quality, strict=True)]
    highest, ends = int(np.mean(curves, axis=0).argmax()), _ends(rows)
    found = {
        "best_of_k_max": (len(rows), *_mean([curve[highest] for curve in curves], *ends)),
        "best_of_k_end": (len(rows), *_mean([curve[-1] for curve in curves], *ends)),
        "best_of_k_loss": (len(rows), *_mean(losses, most=(ends[1] - ends[0]) ** 2)),
    }
    if {value for row in quality for value in row} <= {0.0, 1.0}:  # right or wrong, which a curve of ROC needs
        pooled = roc_auc(rewards, quality)
        within = [auc_within_prompts(v, q) for v, q in zip(rewards, quality, strict=True)]
        defined = [area for area in within if area is not None]
        found |= {"roc_auc": (len(rows), *pooled)} if pooled is not None else {}
        found |= {"roc_auc_within_prompts": (len(defined), *_mean(defined))} if defined else {}
    return found


def _mean(values: Sequence[float], least: float = 0.0, most: float = 1.0) -> tuple[float, float, float]:
    """The mean over prompts and its 95 % interval within what is possible; NaN where one prompt has none."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, math.nan, math.nan
    half = Z * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean, min(mean, max(least, mean - half)), max(mean, min(most, mean + half))
