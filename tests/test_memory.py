"""How many tokens a micro-batch starts with: fixed on a CPU, from free memory on a GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.families import SHARED
from rmx.training.token_budget import starting_budget

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")
CUDA = torch.device("cuda", 0)


def llama():
    return next(family for family in SHARED if family.name == "Llama").build()


def test_a_cpu_has_fixed_budgets():
    model = llama()
    assert starting_budget(model, torch.device("cpu"), "fp32") == 1024
    assert starting_budget(model, torch.device("cpu"), "bf16") == 2048


@pytest.mark.parametrize(("tokens", "expected"), [(5000, 4096), (100, 1024), (10_000_000, 65_536)])
def test_a_gpu_budget_comes_from_what_is_free_after_the_optimizer(monkeypatch, tokens, expected):
    """Free memory for exactly `tokens`: 12 bytes a parameter, and 34 x hidden x (layers + 1) bytes a token in 70 %."""
    model = llama()
    config = model.config
    parameters = sum(p.numel() for p in model.parameters())
    per_token = 34 * config.hidden_size * (config.num_hidden_layers + 1)
    free = int(12 * parameters + (tokens + 0.5) * per_token / 0.7)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert starting_budget(model, CUDA, "bf16") == expected


def test_gradient_checkpointing_leaves_room_for_more_tokens(monkeypatch):
    model = llama()
    free = 12 * sum(p.numel() for p in model.parameters()) + 9000 * 34 * 3 * model.config.hidden_size
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    plain = starting_budget(model, CUDA, "bf16")
    model.gradient_checkpointing_enable()
    assert starting_budget(model, CUDA, "bf16") > plain
