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
    REWARDBENCH_SECTIONS,
    best_of_n_curve,
    best_pick,
    style_matrix,
    ties_score,
    weighted_sections,
)
from rmx.records import EncodedComparison
from rmx.scoring.scorer import Scorer
from rmx.tokens import encode_conversations

__all__ = ["BenchResult", "SectionScore", "judge_suite", "score_suite"]

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


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All lines of one suite, `overall` the last, and the best-of-n curve where the suite has one."""

    suite: str
    lines: list[SectionScore]
    curve: list[tuple[int, float, float, float]] = field(default_factory=list)  # n, quality, low, high
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
    return BenchResult(suite, lines, _curve(rows, rewards) if many else [], counts)


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
    lines[:] = [SectionScore(line.section, *_numbers(line), kind="subset") for line in lines]
    sections = []
    for name, score in weighted_sections({line.section: line.score for line in subsets.values()}).items():
        parts = {subsets[s]: float(count) for s, count in REWARDBENCH_SECTIONS[name].items() if s in subsets}
        sections.append(_combined(name, "section", parts, score))
    return [*sections, *_mean_of_sections(sections or list(subsets.values()), rows, rewards)]


def _rm_bench(lines: list[SectionScore], rows: Sequence[SuiteRow], rewards: Sequence[np.ndarray]) -> list[SectionScore]:
    styles: dict[str, list[float]] = {}
    for line in lines:
        own = [values for row, values in zip(rows, rewards, strict=True) if row.section == line.section]
        for style, accuracy in style_matrix([v[:3] for v in own], [v[3:] for v in own]).items():
            styles.setdefault(style, []).append(accuracy)
    (overall,) = _mean_of_sections(lines, rows, rewards)
    spread = dict.fromkeys(lines, 1.0)
    return [*(_combined(s, "style", spread, float(np.mean(found))) for s, found in styles.items()), overall]


def _curve(rows: Sequence[SuiteRow], rewards: Sequence[np.ndarray]) -> list[tuple[int, float, float, float]]:
    """Mean quality of the best of n = 1, 2, 4, ... over prompts of n responses or more; one alone has no interval."""
    curves = [best_of_n_curve(v, row.quality) for row, v in zip(rows, rewards, strict=True) if not row.tie]
    most, points, n = max(map(len, curves), default=0), [], 1
    while n <= most:
        values = np.array([curve[n - 1] for curve in curves if len(curve) >= n])
        half = Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        mean = float(values.mean())
        points.append((n, mean, mean - half, mean + half))
        n *= 2
    return points
