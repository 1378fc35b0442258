"""Liger's kernels on the device: rewards and gradients of the model's own code, prompts shared or not, and compiled."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training_bench import make_trainer
from transformers import TrainingArguments

from benchmarks.families import Family
from rmx.models import fused
from rmx.models.fused import fuse
from rmx.training.compiled import compile_layers, graphs

sys.path.insert(0, str(Path(__file__).parent))
from test_gpu_exactness import FAMILIES, alone, distance, engine_for, gradients, rows

pytest.importorskip("liger_kernel")
FUSED = [family for family in FAMILIES if "Mistral" not in family.name]


@pytest.fixture(autouse=True)
def rotary_as_before() -> Iterator[None]:
    """Give files of transformers their own rotary embedding back."""
    yield
    for (module, name), plain in fused._plain.items():
        setattr(sys.modules[module], name, plain)


def results(model: Any, encoding: str, precision: str) -> tuple[torch.Tensor, torch.Tensor]:
    engine = engine_for(model, encoding, precision)
    rewards = engine.rewards(engine.collate(rows()))
    return rewards.detach(), gradients(model, rewards)


@pytest.mark.parametrize("encoding", ["shared", "flat"])
@pytest.mark.parametrize("family", FUSED, ids=lambda family: family.name)
def test_float32(family: Family, encoding: str) -> None:
    model = family.build().to("cuda")
    reference = copy.deepcopy(model)
    expected = alone(reference)
    wanted = gradients(reference, expected)
    said = fuse(model)
    found, gradient = results(model, encoding, "fp32")
    print(f"{family.name} {encoding} ({said}): {distance(found, expected):.1e}, {distance(gradient, wanted):.1e}")
    assert distance(found, expected) <= 1e-5
    assert distance(gradient, wanted) <= 1e-4


@pytest.mark.parametrize("encoding", ["shared", "flat"])
@pytest.mark.parametrize("family", FUSED, ids=lambda family: family.name)
def test_bf16_is_as_near_to_float32_as_without_them(family: Family, encoding: str) -> None:
    """bfloat16 rounds at every step; the kernels must not add to it: at most a half more."""
    model = family.build().to("cuda")
    reference = copy.deepcopy(model)
    exact = alone(reference)
    exact_gradients = gradients(reference, exact)
    plain = results(copy.deepcopy(model), encoding, "bf16")
    fuse(model)
    found = results(model, encoding, "bf16")
    own = distance(found[0], exact), distance(found[1], exact_gradients)
    without = distance(plain[0], exact), distance(plain[1], exact_gradients)
    print(f"{family.name} {encoding}: rewards {own[0]:.1e} (without {without[0]:.1e}), "
          f"gradients {own[1]:.1e} (without {without[1]:.1e})")  # fmt: skip
    assert 0 < own[0] <= 1.5 * without[0] + 1e-3
    assert 0 < own[1] <= 1.5 * without[1] + 1e-3


@pytest.mark.parametrize("family", FUSED[:1], ids=lambda family: family.name)
def test_compiled_float32(family: Family) -> None:
    model = family.build().to("cuda")
    expected = results(copy.deepcopy(model), "shared", "fp32")
    fuse(model)
    compile_layers(model, TrainingArguments("run", report_to="none", torch_compile=True))
    found = results(model, "shared", "fp32")
    assert graphs() > 0
    assert distance(found[0], expected[0]) <= 1e-5
    assert distance(found[1], expected[1]) <= 1e-4


def test_training_with_them_is_training(tmp_path: Path) -> None:
    """Five steps of the embedded model."""
    settings = {"max_steps": 5, "size": 40, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "warmup_steps": 0}
    plain, with_them = (make_trainer(tmp_path / name, **settings) for name in ("plain", "fused"))
    with_them.model.to("cuda")
    assert "LigerSwiGLUMLP" in fuse(with_them.model)
    plain.train()
    with_them.train()
    weights = [torch.cat([p.detach().flatten() for p in loop.model.parameters()]) for loop in (with_them, plain)]
    assert distance(*weights) <= 1e-3
