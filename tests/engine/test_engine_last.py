"""The last layer computes scored tokens only: same numbers, less work, and no trace on plain calls."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks.families import SHARED, comparisons
from rmx.engine import Engine, last

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
FAMILIES = {family.name: family for family in SHARED}


def seen_by_mlps(model):
    """Token counts that each layer's MLP works on, filled at every call."""
    counts: list[int] = []
    for layer in model.model.layers:
        layer.mlp.act_fn.register_forward_pre_hook(lambda module, args: counts.append(args[0].shape[1]))
    return counts


def test_the_last_mlp_sees_scored_tokens_only():
    """6 comparisons with 14 responses; every layer but the last sees all tokens of the row."""
    model = FAMILIES["Llama"].build()
    engine = Engine(model)
    counts = seen_by_mlps(model)
    batch = engine.collate(comparisons())
    engine.rewards(batch)
    assert counts == [batch.tokens, 14]


def test_a_checkpointed_layer_stays_whole():
    model = FAMILIES["Llama"].build().train()
    engine = Engine(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    counts = seen_by_mlps(model)
    batch = engine.collate(comparisons())
    engine.rewards(batch).sum().backward()
    assert counts[:2] == [batch.tokens] * 2
    model.eval()
    counts.clear()
    engine.rewards(batch)
    assert counts == [batch.tokens, 14]


def test_plain_calls_see_every_token():
    model = FAMILIES["Llama"].build()
    before = model(input_ids=torch.arange(3, 23)[None], output_hidden_states=True)
    engine = Engine(model)
    counts = seen_by_mlps(model)
    after = model(input_ids=torch.arange(3, 23)[None], output_hidden_states=True)
    assert counts == [20, 20]
    for expected, found in zip(before.hidden_states, after.hidden_states, strict=True):
        assert found.equal(expected)
    engine.detach()
    assert "forward" not in vars(model.model.layers[-1])
    assert "forward" not in vars(model.model.layers[-1].mlp)


def test_whole_layers_give_the_same_rewards_and_gradients():
    for name in ("Llama", "GPT-2", "Mixtral", "gpt-oss, sinks, window", "Gemma 2, softcap, window", "Cohere2, window"):
        model = FAMILIES[name].build()
        engine = Engine(model)
        batch = engine.collate(comparisons())
        found = []
        for _ in range(2):
            model.zero_grad()
            rewards = engine.rewards(batch)
            torch.tanh(rewards).sum().backward()
            found.append(
                (rewards.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
            )
            last.widen(model)
        (narrow, narrow_gradients), (whole, whole_gradients) = found
        torch.testing.assert_close(narrow, whole, rtol=2e-6, atol=2e-6)
        largest = max(g.abs().max() for g in whole_gradients.values())
        for parameter, gradient in whole_gradients.items():
            assert (narrow_gradients[parameter] - gradient).abs().max() <= 2e-6 * largest, (name, parameter)


def test_layers_that_somebody_else_wrapped_stay_as_they_are():
    model = FAMILIES["Llama"].build()
    layer = model.model.layers[-1]
    own = layer.mlp.forward
    layer.mlp.forward = lambda states: own(states)
    engine = Engine(model)
    assert "forward" not in vars(layer)
    counts = seen_by_mlps(model)
    batch = engine.collate(comparisons())
    engine.rewards(batch)
    assert counts == [batch.tokens] * 2


def test_copies_are_independent():
    model = FAMILIES["Llama"].build()
    Engine(model)
    clone = copy.deepcopy(model)
    assert clone.model.layers[-1].mlp.forward.__self__ is clone.model.layers[-1].mlp


def test_spread_puts_rows_back():
    narrow = torch.tensor([[[1.0], [2.0]]])
    assert last.spread(narrow, torch.tensor([1, 3]), 4).tolist() == [[[0.0], [1.0], [0.0], [2.0]]]
