"""Rows filled up to a multiple of some length: few different lengths, and not a reward or gradient changed."""

from __future__ import annotations

import pytest
import torch

from benchmarks.families import SHARED, comparisons
from rmx.engine import Collator, Engine

FAMILIES = {family.name: family for family in SHARED}


def rewards_and_gradients(engine, batch):
    engine.model.zero_grad()
    rewards = engine.rewards(batch)
    rewards.tanh().sum().backward()
    return rewards.detach(), {n: p.grad.clone() for n, p in engine.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("encoding", ["shared", "flat"])
@pytest.mark.parametrize(
    "name", ["Llama", "Mistral, window", "Mixtral", "Gemma 2, softcap, window", "gpt-oss, sinks, window", "GPT-2"]
)
def test_the_filler_changes_nothing(name, encoding):
    """Float64, so that a filler that leaked into a reward would stand out from rounding."""
    engine = Engine(FAMILIES[name].build(torch.float64))
    rows = comparisons()
    plain, filled = Collator(encoding)(rows), Collator(encoding, multiple_of=128)(rows)
    assert plain.input_ids.shape[1] % 128 and filled.input_ids.shape[1] % 128 == 0
    assert filled.tokens == filled.input_ids.shape[1]
    expected, expected_gradients = rewards_and_gradients(engine, plain)
    found, gradients = rewards_and_gradients(engine, filled)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if "Gemma" in name else 1e-12)
    for parameter, gradient in expected_gradients.items():
        difference = (gradients[parameter] - gradient).abs().max()
        assert difference <= 2e-6 * max(1.0, gradient.abs().max().item()), parameter


def test_bfloat16_on_a_cpu_runs_rows_of_few_lengths():
    """80 batches of different sizes would be 80 row lengths; in steps of 128 tokens they are at most 5."""
    engine = Engine(FAMILIES["Llama"].build(), precision="bf16")
    rows = comparisons()
    lengths = {engine.collate((rows * 4)[:n]).input_ids.shape[1] for n in range(1, 4 * len(rows))}
    plain = {Collator("shared")((rows * 4)[:n]).input_ids.shape[1] for n in range(1, 4 * len(rows))}
    assert all(length % 128 == 0 for length in lengths)
    assert len(lengths) <= max(plain) // 128 + 1 < len(plain)
    assert Engine(FAMILIES["Llama"].build()).collator.multiple_of == 1
