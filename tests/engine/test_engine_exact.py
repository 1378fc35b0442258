"""Rewards and gradients of every family against transformers' own code, each sequence run alone."""

from __future__ import annotations

import pytest
import torch

from benchmarks.exactness import alone, difference, gradients
from benchmarks.families import NOT_SHARED, SHARED, Family, comparisons
from rmx.engine import Engine
from rmx.records import EncodedComparison, Pair

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
LLAMA = next(f for f in SHARED if f.name == "Llama")


def named(families: list[Family]) -> object:
    return pytest.mark.parametrize("family", families, ids=lambda family: family.name)


@named(SHARED)
def test_shared_in_float64(family):
    """The method is exact: what is left is the last bits, or the float32 inside a model's own norms."""
    found = difference(family, torch.float64)
    assert found.encoding == "shared"
    assert found.reward <= 1e-12
    assert found.gradient <= (2e-7 if family.norm_in_float32 else 1e-12)


@named(SHARED)
def test_shared_in_float32(family):
    found = difference(family, torch.float32)
    assert found.encoding == "shared"
    assert found.reward <= 4e-6  # 2.7e-6 on CPUs whose float32 kernels sum in another order
    assert found.gradient <= 2e-6


@named(SHARED)
def test_flat_is_exact_too(family):
    found = difference(family, torch.float32, encoding="separate")
    assert found.encoding == "flat"
    assert found.reward <= 4e-6  # 2.7e-6 on CPUs whose float32 kernels sum in another order
    assert found.gradient <= 2e-6


@named(NOT_SHARED)
def test_fallback_gives_the_same_rewards(family):
    """Padding reorders sums inside the models' own kernels; recurrent scans in float32 differ most (gradients)."""
    found = difference(family, torch.float32)
    assert found.encoding == family.encoding != "shared"
    assert found.reward <= 4e-6  # 2.7e-6 on CPUs whose float32 kernels sum in another order
    assert found.gradient <= 1e-5


def test_bf16_rewards_are_those_of_each_sequence_alone():
    """Autocast on the CPU: token-wise kernels give every row the same bits, however many rows there are."""
    model = LLAMA.build()
    engine = Engine(model, precision="bf16")
    rows = comparisons()
    together = engine.rewards(engine.collate(rows))
    single = [EncodedComparison("", "", [], ([*c.prefix_ids, *s],), ()) for c in rows for s in c.suffix_ids]
    one_by_one = torch.cat([engine.rewards(engine.collate([row])) for row in single])
    assert together.dtype == torch.float32
    assert (together - one_by_one).abs().max() <= 1e-2 * one_by_one.abs().max()
    full = alone(model, rows)
    assert 0 < (together - full).abs().max() <= 5e-2 * full.abs().max()


def test_bf16_leaves_the_head_in_float32():
    """A head of bfloat16 precision would round 1.0 + 2^-9 to 1.0; rewards must keep such a difference."""
    model = LLAMA.build()
    engine = Engine(model, precision="bf16")
    batch = engine.collate(comparisons())
    states = engine.hidden(batch)
    expected = states.float() @ model.score.weight[0].float()
    torch.testing.assert_close(engine.rewards(batch), expected, rtol=1e-6, atol=1e-6)


def test_half_precision_weights_still_meet_a_float32_head():
    model = LLAMA.build().to(torch.bfloat16)
    engine = Engine(model)
    assert engine.encoding == "shared"
    rewards = engine.rewards(engine.collate(comparisons()))
    assert rewards.dtype == torch.float32
    rewards.sum().backward()
    assert model.score.weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(reentrant):
    model = LLAMA.build().train()
    engine = Engine(model)
    batch = engine.collate(comparisons())
    plain = gradients(model, engine.rewards(batch))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    checkpointed = gradients(model, engine.rewards(batch))
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        assert (checkpointed[name] - gradient).abs().max() <= 2e-6 * gradient.abs().max(), name


@pytest.mark.parametrize("split", [[3, 3], [1, 5], [1, 1, 1, 1, 1, 1]])
def test_gradients_do_not_depend_on_the_micro_batches(split):
    """The sum of the parts' gradients is the whole's: a token budget is a matter of memory only."""
    rows = comparisons()
    model = LLAMA.build(torch.float64)
    engine = Engine(model)

    def total(parts: list[list[EncodedComparison]]) -> torch.Tensor:
        model.zero_grad()
        for part in parts:
            torch.tanh(engine.rewards(engine.collate(part))).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    parts = [part.tolist() for part in torch.arange(len(rows)).split(split)]
    whole = total([rows])
    torch.testing.assert_close(total([[rows[i] for i in part] for part in parts]), whole, rtol=1e-7, atol=1e-7)


def test_the_pad_token_is_a_token_like_any_other():
    """transformers scores the last token that is not the pad id; here the position comes from the length."""
    model = LLAMA.build()
    assert model.config.pad_token_id == 0
    engine = Engine(model)
    row = EncodedComparison("a", "s", [5, 0, 6], ([7, 0], [0]), (Pair(0, 1),))
    rewards = engine.rewards(engine.collate([row]))
    model.config.pad_token_id = None  # transformers then scores the last token, for one row
    torch.testing.assert_close(rewards, alone(model, [row]), rtol=0, atol=1e-6)


def test_one_response_is_plain_scoring():
    model = LLAMA.build()
    engine = Engine(model)
    row = EncodedComparison("a", "s", [5, 9, 6, 7, 8, 4], ([3],), ())
    torch.testing.assert_close(engine.rewards(engine.collate([row])), alone(model, [row]), rtol=0, atol=1e-6)


def test_attention_dropout_is_a_shared_draw_per_call():
    """Dropout reaches the attention kernels in training, and nothing happens in evaluation."""
    model = Family("Llama", "LlamaConfig", {"attention_dropout": 0.5}).build()
    engine = Engine(model)
    batch = engine.collate(comparisons())
    assert engine.rewards(batch).equal(engine.rewards(batch))
    model.train()
    assert not engine.rewards(batch).equal(engine.rewards(batch))
