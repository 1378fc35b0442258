"""The metrics of evaluation sets: what they are called, and what counts as one comparison."""

from __future__ import annotations

import numpy as np
import pytest

from rmx.metrics import wilson_interval
from rmx.models import RewardModelSource
from rmx.records import EncodedComparison, Pair
from rmx.scoring.evaluation import Evaluation, measure
from rmx.scoring.scorer import Scorer, Turns
from rmx.templates import Template

NAMES = ("low", "high", "ties_half", "accuracy", "total_loss", "org/data")


def evaluation(sources: tuple[str, ...], chosen: list[float], pairs_each: int = 1) -> Evaluation:
    """One comparison per source, each with so many pairs; a pair is right where its chosen reward is above 0."""
    responses = pairs_each + 1
    pairs = tuple(Pair(0, loser) for loser in range(1, responses))
    comparisons = [
        EncodedComparison(str(i), source, [1], tuple([2] for _ in range(responses)), pairs)
        for i, source in enumerate(sources)
    ]
    count = len(sources) * pairs_each
    return Evaluation(
        comparisons=comparisons,
        comparison_M=np.repeat(np.arange(len(sources)), pairs_each),
        pair_M=np.tile(np.arange(pairs_each), len(sources)),
        chosen_M=np.array(chosen, dtype=np.float32),
        rejected_M=np.zeros(count, dtype=np.float32),
        loss_M=np.ones(count),
        weight_M=np.ones(count),
        tie_M=np.zeros(count, dtype=bool),
    )


def test_no_source_overwrites_another_number() -> None:
    """Sources whose names end other metrics' names: six right or wrong pairs, half of them right."""
    metrics = measure([evaluation(NAMES, [1, -1, 1, -1, 1, -1])], 1.0)
    low, high = wilson_interval(3, 6)
    assert (metrics["accuracy"], metrics["accuracy_low"], metrics["accuracy_high"]) == (0.5, low, high)
    assert metrics["accuracy_ties_half"] == 0.5
    for place, name in enumerate(NAMES):
        assert metrics[f"source/{name}/accuracy"] == (1.0 if place % 2 == 0 else 0.0)


def test_pairs_of_one_comparison_count_as_dependent_across_sets_too() -> None:
    """Two sets with a comparison of two pairs each, one all right and one all wrong: one effective pair, not four."""
    sets = [evaluation(("a",), [1, 1], 2), evaluation(("a",), [-1, -1], 2)]
    metrics = measure(sets, 1.0)
    assert (metrics["accuracy_low"], metrics["accuracy_high"]) == pytest.approx(wilson_interval(0.5, 1))


def test_processes_agree_on_their_number_of_passes_before_the_first() -> None:
    """Two rows in one micro-batch; another process has three of them: after the answer come the own and two fillers."""
    loaded = RewardModelSource().load(trainable=False)
    scorer = Scorer(loaded.model, loaded.tokenizer, Template("auto").bind(loaded.tokenizer), max_tokens=64)
    seen: list[str] = []

    def in_step(count: int) -> int:
        seen.append(f"asked with {count}")
        return 3

    scorer.turns = Turns(0, 2, in_step, lambda value: [value, value])
    hook = loaded.model.register_forward_pre_hook(lambda *_: seen.append("pass"))
    rows = [EncodedComparison(name, "s", [1, 2], ([3], [4]), (Pair(0, 1),)) for name in "ab"]
    rewards = scorer.rewards(rows)
    hook.remove()
    assert seen == ["asked with 1", "pass", "pass", "pass"]
    assert [len(values) for values in rewards] == [2, 2]
