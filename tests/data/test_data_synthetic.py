"""Synthetic data: the truth is what it says, and labels follow the Bradley–Terry model."""

from __future__ import annotations

import math

import pytest

from rmx.data import SyntheticData
from rmx.data.audit import audit
from rmx.data.synthetic import SENTENCES, true_reward
from rmx.errors import ConfigError


def test_vocabulary_does_not_leak_by_length() -> None:
    """Values sum to 0 within every length, so neither length nor number of sentences says anything."""
    by_length: dict[int, float] = {}
    for sentence, value in SENTENCES.items():
        by_length[len(sentence)] = by_length.get(len(sentence), 0.0) + value
    assert set(by_length.values()) == {0.0}
    assert not any(a in b for a in SENTENCES for b in SENTENCES if a != b)


def test_truth_is_the_reward_in_logits() -> None:
    for row in SyntheticData(size=50, temperature=2.0).read().train:
        for response, truth in zip(row.responses, row.truth, strict=True):
            assert truth == true_reward(response[0]["content"]) / 2.0


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_labels_follow_bradley_terry(temperature: float) -> None:
    """The share of labels that agree with the truth is the mean of sigmoid(|gap|), within 4 standard errors."""
    rows = SyntheticData(size=20_000, temperature=temperature, validation_fraction=0).read().train
    gaps = [row.truth[0] - row.truth[1] for row in rows]
    expected = [1 / (1 + math.exp(-abs(gap))) for gap in gaps if gap]
    agree = sum(gap > 0 for gap in gaps)
    error = math.sqrt(sum(p * (1 - p) for p in expected))
    assert abs(agree - sum(expected)) < 4 * error


def test_length_is_no_clue() -> None:
    found = audit(SyntheticData(size=20_000, validation_fraction=0).read()).numbers["characters"]["sets"]["train"]
    assert found["length_only_accuracy_low"] < 0.5 < found["length_only_accuracy_high"] + 0.01


def test_same_seed_same_rows_and_no_prompt_on_both_sides() -> None:
    first, second = SyntheticData(size=400).read(), SyntheticData(size=400).read()
    assert (first.train, first.evals) == (second.train, second.evals)
    assert SyntheticData(size=400, seed=1).read().train != first.train
    assert audit(first).numbers["overlap"]["eval"]["with_prompt_in_train_normalised"] == 0
    assert len(first.evals["eval"]) == 100
    assert first.accounting.adds_up()


def test_more_responses_are_ranked() -> None:
    """K = 4: 6 pairs each; the noisy order puts the truly best response first far more often than 1 in 4."""
    rows = SyntheticData(size=500, responses=4, validation_fraction=0).read().train
    assert {len(row.pairs) for row in rows} == {6}
    assert sum(row.truth[0] == max(row.truth) for row in rows) > 350


@pytest.mark.parametrize("keys", [{"size": 1}, {"temperature": 0.0}, {"responses": 1}, {"validation_fraction": -1.0}])
def test_bad_values(keys: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"data.{next(iter(keys))}"):
        SyntheticData(**keys)
