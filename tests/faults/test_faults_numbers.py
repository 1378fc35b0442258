"""Numbers that faults must not touch: cadence changes no weight (F16), and no NaN is ever saved (F11)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fault_harness import needs_fork, run_child, train, workflow
from safetensors.torch import load_file

pytestmark = needs_fork


def test_cadence_changes_no_weight(reference: Callable[..., Any]) -> None:
    """Evaluating, logging and saving never, often or seldom, with dropout: the same tensors, bit by bit."""
    cadences: list[dict[str, Any]] = [
        {},
        {"eval_strategy": "no", "logging_strategy": "no", "save_steps": 10},
        {"eval_steps": 1, "logging_steps": 1, "save_steps": 7, "dataloader_num_workers": 1},
    ]
    found = [reference(**cadence) for cadence in cadences]
    assert found[0]["tensors"] == found[1]["tensors"] == found[2]["tensors"]
    assert found[0]["results"] == found[1]["results"] == found[2]["results"]


def test_no_nan_is_saved(models: Path, tmp_path: Path) -> None:
    """A learning rate that explodes: stopped at the first bad step with the rows named; what is saved is finite."""
    exploding = {"learning_rate": 1e18, "optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    child = run_child(lambda: train(workflow(tmp_path / "run", models, **exploding)), tmp_path / "log")
    assert child.code == 1 and "NonFiniteError" in child.text and "Rows: " in child.text, child.text[-2000:]
    assert "Traceback" not in child.text
    for path in (tmp_path / "run" / "checkpoints").rglob("*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values()), path
    assert not (tmp_path / "run" / "model").exists()
