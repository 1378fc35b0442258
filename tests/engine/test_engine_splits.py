"""A step's gradient does not depend on how its comparisons are split into micro-batches."""

from __future__ import annotations

import pytest
import torch

from benchmarks.families import SHARED, comparisons
from benchmarks.workload import build_model, generated_rows
from benchmarks.workload import comparisons as encoded
from rmx.engine import Engine
from rmx.losses import bradley_terry
from rmx.records import EncodedComparison, Pair

FAMILIES = {family.name: family for family in SHARED}


def gradients(engine, rows: list[EncodedComparison], max_tokens: int) -> tuple[int, dict[str, torch.Tensor]]:
    """Number of micro-batches, and gradients of the loss summed over them and divided by the step's pairs."""
    engine.model.zero_grad()
    plan = engine.plan(rows, max_tokens)
    for part in plan:
        batch = engine.collate([rows[i] for i in part])
        rewards = engine.rewards(batch)
        terms = bradley_terry(rewards[batch.pairs.winner], rewards[batch.pairs.loser], batch.pairs)
        (terms.sum() / sum(len(row.pairs) for row in rows)).backward()
    found = {n: p.grad.double().clone() for n, p in engine.model.named_parameters() if p.grad is not None}
    return len(plan), found


def relative(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Norm of the difference of all gradients, relative to the norm of the second."""
    difference = sum(float((a[n] - b[n]).square().sum()) for n in b)
    return (difference / sum(float(g.square().sum()) for g in b.values())) ** 0.5


@pytest.mark.parametrize("name", ["Llama", "Mistral, window", "GPT-2", "Mixtral"])
def test_any_split_in_float64(name):
    """Nothing is left but norms that compute in float32: 1e-7, one comparison at a time included."""
    rows = [
        EncodedComparison(c.id, c.source, c.prefix_ids, c.suffix_ids, (Pair(0, 1),))
        for c in comparisons()
        if len(c.suffix_ids) > 1
    ]
    engine = Engine(FAMILIES[name].build(torch.float64))
    count, whole = gradients(engine, rows, 10**9)
    assert count == 1
    for budget in (70, 1):
        count, split = gradients(engine, rows, budget)
        assert count > 1
        assert relative(split, whole) <= 1e-7


def test_splits_in_float32():
    """16 dialogues of real lengths, in 2 to 4 unequal parts: within 1e-6, float32's rounding of the forward pass."""
    rows = encoded(generated_rows(16, seed=5))
    engine = Engine(build_model("S", 16_000))
    total = sum(row.shared_tokens for row in rows)
    _, whole = gradients(engine, rows, 10**9)
    for parts in (2, 3):
        count, split = gradients(engine, rows, total // parts + 100)
        assert 2 <= count <= 4
        assert relative(split, whole) <= 1e-6
