"""Scores of whole evaluation sets, and the metrics made of them: rows first, then one pooling over all rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmx.files import write_lines
from rmx.metrics import by_source, ceiling, pair_metrics, truth_correlation
from rmx.records import EncodedComparison, PairTable
from rmx.results.predictions import prediction_row, predictions_name
from rmx.scoring.scorer import Scorer

PAIRS_AT_ONCE = 512  # of a loss; plackett_luce compares every pair with every other

Progress = Callable[[int, int], None]

__all__ = ["Evaluation", "Evaluations", "evaluate_pairs", "predictions_paths", "write_predictions"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The rewards of one set, a row per (winner, loser) pair in input order. M pairs."""

    comparisons: Sequence[EncodedComparison]
    comparison_M: np.ndarray  # index of the pair's comparison
    pair_M: np.ndarray  # index of the pair within its comparison
    chosen_M: np.ndarray  # float32 rewards
    rejected_M: np.ndarray
    loss_M: np.ndarray  # nats
    weight_M: np.ndarray
    tie_M: np.ndarray  # annotators called it a tie

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what generated_predictions.jsonl holds: full-precision scores with their identity."""
        for m in range(len(self.chosen_M)):
            comparison = self.comparisons[self.comparison_M[m]]
            pair = comparison.pairs[self.pair_M[m]]
            yield prediction_row(
                comparison, pair, float(self.chosen_M[m]), float(self.rejected_M[m]), float(self.loss_M[m])
            )


@dataclass(frozen=True, slots=True)
class Evaluations:
    """All sets of one evaluation, and their metrics by the name they are logged under."""

    sets: dict[str, Evaluation]
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def evaluate_pairs(
    scorer: Scorer,
    sets: Mapping[str, Sequence[EncodedComparison]],
    loss: Callable[[Tensor, Tensor, PairTable], Tensor],
    *,
    phase: str = "eval",
    progress: Progress | None = None,
) -> Evaluations:
    """Score every set. Several sets are logged as `eval_<name>`, and all their pairs together as `eval`.

    Args:
        scorer: the model.
        sets: encoded comparisons by the name of their set.
        loss: (winner [M], loser [M], pairs) → loss per pair [M].
        phase: prefix of the names.
        progress: told (comparisons scored, all of them) after every micro-batch.

    Returns:
        The evaluations, with metrics such as {"eval": {"accuracy": 0.71, "loss": 0.55, ...}}.
    """
    done, metrics = {}, {}
    for name, comparisons in sets.items():
        started = time.perf_counter()
        done[name] = evaluation = evaluate_set(scorer, comparisons, loss, progress)
        seconds = time.perf_counter() - started
        if len(sets) > 1:
            metrics[f"{phase}_{name}"] = measure([evaluation], seconds)
    total = sum(values["seconds"] for values in metrics.values()) if metrics else seconds
    metrics[phase] = measure(list(done.values()), total)
    return Evaluations(done, metrics)


def predictions_paths(evaluations: Evaluations, folder: Path) -> dict[str, Path]:
    """Return where each set's scores go: generated_predictions.jsonl, or one file per set where there are several."""
    several = len(evaluations.sets) > 1
    return {name: folder / predictions_name(name, several) for name in evaluations.sets}


def write_predictions(evaluations: Evaluations, paths: Mapping[str, Path]) -> None:
    """Write every pair's scores, a line of JSON each, in input order; a file is complete or absent."""
    for name, evaluation in evaluations.sets.items():
        write_lines(paths[name], (json.dumps(row, allow_nan=False, ensure_ascii=False) for row in evaluation.rows()))


def evaluate_set(
    scorer: Scorer,
    comparisons: Sequence[EncodedComparison],
    loss: Callable[[Tensor, Tensor, PairTable], Tensor],
    progress: Progress | None = None,
) -> Evaluation:
    """Score one set and compute the loss of every pair, from rows gathered over all ranks."""
    rewards = gathered_rewards(scorer, comparisons, progress)
    counts = [len(comparison.pairs) for comparison in comparisons]
    pieces = [piece_of(comparisons, rewards, part, loss) for part in pieces_of(counts)]
    chosen, rejected, terms, weight, tie = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return Evaluation(
        comparisons=comparisons,
        comparison_M=np.repeat(np.arange(len(counts)), counts),
        pair_M=np.concatenate([np.arange(count) for count in counts]),
        chosen_M=chosen,
        rejected_M=rejected,
        loss_M=terms,
        weight_M=weight,
        tie_M=tie,
    )


def pieces_of(counts: Sequence[int]) -> Iterator[range]:
    """Cut a set into runs of whole comparisons of at most PAIRS_AT_ONCE pairs: a loss may need the square of them.

    >>> list(pieces_of([300, 200, 100, 600, 1]))
    [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]
    """
    start, pairs = 0, 0
    for index, count in enumerate(counts):
        if pairs + count > PAIRS_AT_ONCE and index > start:
            yield range(start, index)
            start, pairs = index, 0
        pairs += count
    if start < len(counts):
        yield range(start, len(counts))


def piece_of(
    comparisons: Sequence[EncodedComparison],
    rewards: Sequence[np.ndarray],
    part: range,
    loss: Callable[[Tensor, Tensor, PairTable], Tensor],
) -> tuple[np.ndarray, ...]:
    """Return (winner, loser, loss, weight, tie), each [M], of some comparisons' pairs."""
    starts = dict(zip(part, np.cumsum([0] + [len(rewards[c]) for c in part]).tolist(), strict=False))
    pairs = [(starts[c], pair) for c in part for pair in comparisons[c].pairs]
    table = PairTable(
        winner=torch.tensor([start + p.winner for start, p in pairs]),
        loser=torch.tensor([start + p.loser for start, p in pairs]),
        margin=torch.tensor([p.margin for _, p in pairs]),
        target=torch.tensor([p.target for _, p in pairs]),
        weight=torch.tensor([p.weight for _, p in pairs]),
        tie=torch.tensor([p.tie for _, p in pairs]),
    )
    flat = torch.from_numpy(np.concatenate([rewards[c] for c in part]))
    winner, loser = flat[table.winner], flat[table.loser]
    terms = loss(winner, loser, table).double()
    return winner.numpy(), loser.numpy(), terms.numpy(), table.weight.numpy(), table.tie.numpy()


def gathered_rewards(
    scorer: Scorer, comparisons: Sequence[EncodedComparison], progress: Progress | None = None
) -> list[np.ndarray]:
    """Return the rewards of all comparisons on every rank; each rank scores its share."""
    turns = scorer.turns
    if turns.ranks == 1:
        return scorer.rewards(comparisons, progress)
    # Dealing out the length-sorted order gives every rank the same mix of lengths.
    order = sorted(range(len(comparisons)), key=lambda i: (-comparisons[i].shared_tokens, i))
    mine = scorer.rewards([comparisons[i] for i in order[turns.rank :: turns.ranks]], progress, comparisons[order[-1]])
    shares = turns.gather(mine)
    rewards: list[np.ndarray] = [np.empty(0, np.float32)] * len(comparisons)
    for r, share in enumerate(shares):
        for i, scores in zip(order[r :: turns.ranks], share, strict=True):
            rewards[i] = scores
    return rewards


def measure(evaluations: Sequence[Evaluation], seconds: float) -> dict[str, float]:
    """Return the metrics over all pairs of `evaluations`, pooled; per source where there is more than one."""
    column = {
        name: np.concatenate([getattr(e, f"{name}_M") for e in evaluations])
        for name in ("chosen", "rejected", "loss", "weight", "tie")
    }
    sizes = np.cumsum([0] + [len(e.comparisons) for e in evaluations])
    column["comparison"] = np.concatenate(
        [e.comparison_M + start for e, start in zip(evaluations, sizes, strict=False)]
    )
    metrics = pair_metrics(**column)
    sources = [e.comparisons[c].source for e in evaluations for c in e.comparison_M]
    if len(set(sources)) > 1:
        for source, values in by_source(sources, **column).items():
            if "accuracy" in values:  # a source of labelled ties alone has none
                metrics[f"source/{source}/accuracy"] = values["accuracy"]
    metrics |= measure_truth(evaluations, column["chosen"], column["rejected"])
    tokens = sum(c.shared_tokens for e in evaluations for c in e.comparisons)
    metrics["seconds"] = seconds
    metrics["pairs_per_second"] = len(column["chosen"]) / seconds
    metrics["tokens_per_second"] = tokens / seconds
    return metrics


def measure_truth(evaluations: Sequence[Evaluation], chosen: np.ndarray, rejected: np.ndarray) -> dict[str, float]:
    """Return the best reachable numbers and the correlation with the truth, where true rewards are known."""
    pairs = [(e.comparisons[c], m) for e in evaluations for c, m in zip(e.comparison_M, e.pair_M, strict=True)]
    truths = [(c.truth[c.pairs[m].winner], c.truth[c.pairs[m].loser]) for c, m in pairs if c.truth is not None]
    if len(truths) < len(pairs):
        return {}
    true_chosen, true_rejected = np.array(truths).T
    best = ceiling(true_chosen, true_rejected)
    agreement = truth_correlation(chosen, rejected, true_chosen, true_rejected)["margin_pearson"]
    return {
        "ceiling_accuracy": best["accuracy"],
        "ceiling_loss": best["loss"],
        "drawn_ceiling_accuracy": best["drawn_accuracy"],
        **({} if agreement is None else {"truth_correlation": agreement}),
    }
