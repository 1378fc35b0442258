"""Rewards and gradients on the device, in every encoding, against each sequence run alone by transformers' own code."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.families import MIXED, SHARED, Family
from rmx.engine import Collator, Engine
from rmx.records import EncodedComparison, Pair

BIG = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "head_dim": 64,
    "vocab_size": 1000,
    "max_position_embeddings": 1024,
    "initializer_range": 0.06,
}
WINDOW = 48  # shorter than most sequences below
NAMES = {
    "Llama": {},
    "Qwen3": {},
    "Gemma 3, window": {"sliding_window": WINDOW, "layer_types": MIXED * 2},
    "Mistral, window": {"sliding_window": WINDOW},
}
FAMILIES = [replace(f, changes={**f.changes, **BIG, **NAMES[f.name]}) for f in SHARED if f.name in NAMES]
ENCODINGS = ("shared", "flat", "padded")


def rows() -> list[EncodedComparison]:
    """Prompts of 1 to 300 tokens, answers of 1 to 120, K of 1 to 4."""
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 1000, (count,), generator=generator).tolist()

    shapes = [(300, (40, 120)), (90, (1, 1, 33)), (0, (70, 50)), (45, (64,)), (128, (7, 20, 1, 3)), (17, (5, 9))]
    return [
        EncodedComparison(
            str(n), "gpu", ids(prefix), tuple(map(ids, suffixes)), tuple(Pair(0, k) for k in range(1, len(suffixes)))
        )
        for n, (prefix, suffixes) in enumerate(shapes)
    ]


def alone(model: Any) -> torch.Tensor:
    sequences = [[*row.prefix_ids, *suffix] for row in rows() for suffix in row.suffix_ids]
    return torch.stack([model(input_ids=torch.tensor([ids], device="cuda")).logits[0, 0] for ids in sequences])


def gradients(model: Any, rewards: torch.Tensor) -> torch.Tensor:
    """All gradients of a loss that weighs every reward differently, in one vector."""
    model.zero_grad()
    weights = torch.linspace(-1, 1.5, len(rewards), device="cuda")
    (weights * torch.tanh(rewards.float())).sum().backward()
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def engine_for(model: Any, encoding: str, precision: str) -> Engine:
    engine = Engine(model, encoding="separate" if encoding == "flat" else "auto", precision=precision)
    if encoding == "padded":
        engine.encoding, engine.collator = "padded", Collator("padded", 0)
    assert engine.encoding == encoding, engine.reason
    return engine


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_float32(family: Family, encoding: str) -> None:
    model = family.build().to("cuda")
    expected = alone(copy.deepcopy(model))
    reference = copy.deepcopy(model)
    wanted = gradients(reference, alone(reference))
    engine = engine_for(model, encoding, "fp32")
    rewards = engine.rewards(engine.collate(rows()))
    assert distance(rewards, expected) <= 1e-5
    assert distance(gradients(model, rewards), wanted) <= 1e-4


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_bf16_is_as_near_to_float32_as_each_sequence_alone_is(family: Family, encoding: str) -> None:
    """bfloat16 rounds at every step whatever the layout; the layout must not add to it: at most a half more."""
    model = family.build().to("cuda")
    reference = copy.deepcopy(model)
    exact = alone(reference)
    exact_gradients = gradients(reference, exact)
    with torch.autocast("cuda", torch.bfloat16):
        single = alone(reference)
    single_gradients = gradients(reference, single)
    engine = engine_for(model, encoding, "bf16")
    if encoding != "padded":
        assert engine.kernel in ("torch_varlen", "flash_attn"), engine.reason
    rewards = engine.rewards(engine.collate(rows()))
    assert rewards.dtype == torch.float32
    own = distance(rewards, exact), distance(gradients(model, rewards), exact_gradients)
    of_single = distance(single, exact), distance(single_gradients, exact_gradients)
    print(f"{family.name} {encoding} {engine.kernel}: rewards {own[0]:.1e} (alone {of_single[0]:.1e}), "
          f"gradients {own[1]:.1e} (alone {of_single[1]:.1e})")  # fmt: skip
    assert 0 < own[0] <= 1.5 * of_single[0] + 1e-3
    assert 0 < own[1] <= 1.5 * of_single[1] + 1e-3


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_one_kernel_call_is_the_loop_over_runs(family: Family) -> None:
    model = family.build().to("cuda")
    engine = engine_for(model, "shared", "bf16")
    assert engine.kernel != "per_run"
    batch = engine.collate(rows())
    rewards = engine.rewards(batch)
    whole = gradients(model, rewards)
    engine.kernel = "per_run"
    again = engine.rewards(engine.collate(rows()))
    assert distance(again, rewards) <= 2e-2
    assert distance(gradients(model, again), whole) <= 5e-2
