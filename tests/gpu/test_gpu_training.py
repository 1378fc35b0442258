"""Training on the device: equal to the CPU, within its memory, under fused and compiled code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_bench import make_trainer

from benchmarks.workload import build_model, comparisons, rows_of_lengths
from rmx.engine import Engine
from rmx.losses import bradley_terry
from rmx.models import Adapter
from rmx.scoring.scorer import Scorer
from rmx.trackers import Recorder
from rmx.training.arguments import trainer_settings
from rmx.training.loop import Loop
from rmx.training.token_budget import LARGEST, SMALLEST, starting_budget

STEPS = {"max_steps": 5, "size": 40, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "warmup_steps": 0}


def trained(folder: Path, **changes: Any) -> tuple[list[float], torch.Tensor]:
    """The losses of five steps, and all weights after them."""
    loop = make_trainer(folder, **{**STEPS, **changes})
    loop.train()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = torch.cat([p.detach().flatten().double().cpu() for p in loop.model.parameters()])
    return [line["train/loss"] for line in lines if line["phase"] == "train"], weights


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("encoding", ["shared", "separate"])
def test_five_steps_are_those_of_a_cpu(tmp_path: Path, encoding: str) -> None:
    losses, weights = trained(tmp_path / "gpu", encoding=encoding)
    expected, wanted = trained(tmp_path / "cpu", encoding=encoding, use_cpu=True)
    assert len(losses) == 5
    assert losses == pytest.approx(expected, abs=1e-4)
    assert distance(weights, wanted) <= 1e-3


def test_dropout_is_the_same_however_often_it_is_drawn(tmp_path: Path) -> None:
    adapter = Adapter(kind="lora", r=4, dropout=0.3)
    first, second = (trained(tmp_path / name, adapter=adapter, full_determinism=True) for name in "ab")
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


def test_fused_adamw_is_adamw(tmp_path: Path) -> None:
    """The same formula in another order of float32 operations."""
    losses, weights = trained(tmp_path / "fused", optim="adamw_torch_fused", weight_decay=0.1)
    expected, wanted = trained(tmp_path / "loops", optim="adamw_torch", weight_decay=0.1)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert distance(weights, wanted) <= 1e-5


def test_every_log_line_knows_its_speed(tmp_path: Path) -> None:
    trained(tmp_path, precision="bf16")
    (*_, line) = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["train/peak_memory_gb"] > 0
    assert line["train/padded_tflops_per_device"] > line["train/tflops_per_device"] > 0
    assert ("train/mfu" in line) == any(name in torch.cuda.get_device_name() for name in ("H100", "H200", "A100"))


# --- Memory -----------------------------------------------------------------------------------------------------------


def medium(tmp_path: Path, rows: int, **arguments: Any) -> Loop:
    """A 24 M model on comparisons of about 200 tokens."""
    model = build_model("M", 16_384, device="cuda")
    settings = trainer_settings(
        precision="bf16", per_device_train_batch_size=rows, max_steps=1, save_strategy="no", **arguments
    )
    encoded = comparisons(rows_of_lengths([(120, 180, 170)] * rows))
    return Loop(
        Scorer(model, None, None, precision="bf16"),  # type: ignore[arg-type]  # nothing is tokenised
        settings.training_arguments(tmp_path, 0, evaluates=False),
        loss=bradley_terry, rows=encoded, evals={}, settings=settings, recorder=Recorder(),
    )  # fmt: skip


def leave_free(gigabytes: float) -> None:
    """Let this process have so much more memory than it has now."""
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + gigabytes * 1e9) / total)


def test_the_automatic_budget_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 GB are free: the budget that is found for them is used as it is, by a step that fills it."""
    model = build_model("M", 16_384, device="cuda")
    leave_free(4.0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (int(4e9), int(80e9)))
    args = trainer_settings(optim="adamw_torch_fused").training_arguments(tmp_path, 0, evaluates=False)
    budget = starting_budget(Engine(model, precision="bf16"), args)
    assert SMALLEST <= budget <= LARGEST and budget % SMALLEST == 0
    del model
    rows = budget // 230 + 1  # 230 tokens each: 120 shared, 60 and 50 more
    loop = medium(tmp_path, rows)
    loop.train()
    assert loop.first_budget == budget
    print(f"budget {budget}, peak {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")
    assert loop.position.max_tokens == (budget, budget), "memory ran out, and the budget was halved"


def test_running_out_of_memory_halves_the_budget_and_repeats_the_step(tmp_path: Path) -> None:
    loop = medium(tmp_path, 240, max_tokens_per_micro_batch=60_000)  # 55,200 tokens in all
    loop.begin(None)
    step = loop.steps[(0, 0)]
    loop.use_budget(6_000)
    loop.gradients(step)
    expected = torch.cat([p.grad.flatten().double() for p in loop.model.parameters() if p.grad is not None])
    loop.module.zero_grad()
    loop.use_budget(60_000)
    leave_free(3.0)
    loop.gradients(step)
    assert loop.layout.max_tokens < 60_000, "memory did not run out"
    found = torch.cat([p.grad.flatten().double() for p in loop.model.parameters() if p.grad is not None])
    print(f"halved to {loop.layout.max_tokens}, gradients differ by {distance(found, expected):.1e}")
    assert distance(found, expected) <= 2e-2  # bfloat16, summed in other parts


# --- Compiled ---------------------------------------------------------------------------------------------------------


def test_a_compiled_model_trains_the_same(tmp_path: Path) -> None:
    losses, weights = trained(tmp_path / "compiled", torch_compile=True)
    expected, wanted = trained(tmp_path / "eager")
    assert losses == pytest.approx(expected, abs=1e-4)
    assert distance(weights, wanted) <= 1e-3
