"""The embedding's gradient added row by row: the sums that autograd makes, without a new table per micro-batch."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.families import SHARED, comparisons
from rmx.engine import EmbeddingGradient, Engine

FAMILIES = {family.name: family for family in SHARED}


class Calls(TorchDispatchMode):
    """Counts the operations that run inside, backward included."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def step(engine, rows) -> None:
    """One optimizer step's gradients, a micro-batch per comparison."""
    for number, row in enumerate(rows, start=1):
        (engine.rewards(engine.collate([row])) * number).sum().backward()


def gradient(model) -> torch.Tensor:
    return model.get_input_embeddings().weight.grad


@pytest.mark.parametrize("name", ["Llama", "Gemma 3, window", "GPT-2", "OPT"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_gradient_is_that_of_autograd(name, dtype):
    """Gemma scales what it looks up and has a padding row that never learns; both stay as they are."""
    model, rows = FAMILIES[name].build(dtype), comparisons()
    engine = Engine(model)
    step(engine, rows)
    expected = gradient(model).clone()
    model.zero_grad()
    with EmbeddingGradient(model).rows_only():
        step(engine, rows)
    assert not gradient(model).is_sparse
    torch.testing.assert_close(gradient(model), expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())
    assert not model.get_input_embeddings().sparse


def test_no_table_is_written_per_micro_batch():
    """Two micro-batches: autograd alone makes two dense gradients; here none, and the memory stays the same."""
    model, rows = FAMILIES["Llama"].build(), comparisons()[:2]
    engine, kept = Engine(model), EmbeddingGradient(model)
    with Calls() as dense:
        step(engine, rows)
    assert dense.count["aten::embedding_dense_backward"] == 2
    model.zero_grad()
    with Calls() as by_row, kept.rows_only():
        step(engine, rows)
    assert by_row.count["aten::embedding_dense_backward"] == 0
    first = gradient(model).data_ptr()
    model.zero_grad()
    with kept.rows_only():
        step(engine, rows[:1])
    assert gradient(model).data_ptr() == first


def test_a_step_forgets_the_rows_of_the_step_before():
    model, rows = FAMILIES["Llama"].build(), comparisons()
    engine, kept = Engine(model), EmbeddingGradient(model)
    with kept.rows_only():
        step(engine, rows[:1])
    model.zero_grad()
    with kept.rows_only():
        step(engine, rows[1:2])
    found = gradient(model).clone()
    model.zero_grad()
    step(engine, rows[1:2])
    torch.testing.assert_close(found, gradient(model), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("why", ["frozen", "several ranks"])
def test_where_it_does_not_apply_autograd_is_left_alone(why):
    model = FAMILIES["Llama"].build()
    model.get_input_embeddings().weight.requires_grad_(why != "frozen")
    with EmbeddingGradient(model, ranks=2 if why == "several ranks" else 1).rows_only():
        assert not model.get_input_embeddings().sparse
        assert gradient(model) is None
