"""Small whole workflows for tests: the embedded model, generated data, no trackers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmx.data import SyntheticData
from rmx.losses import bradley_terry
from rmx.models import RewardModelSource
from rmx.templates import Template
from rmx.training.arguments import trainer_settings
from rmx.workflow import Workflow


def make_workflow(folder: Path, *, size: int = 80, max_steps: int = 2, **changes: Any) -> Workflow:
    """`changes` are arguments of Workflow, or `trainer_<name>` for one of the trainer's."""
    trainer = {
        "precision": "fp32",
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "max_steps": max_steps,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": max(1, max_steps // 2),
        "save_strategy": "steps",
        "save_steps": max(1, max_steps // 2),
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        **{name.removeprefix("trainer_"): value for name, value in changes.items() if name.startswith("trainer_")},
    }
    arguments: dict[str, Any] = {
        "model": RewardModelSource(name="tiny"),
        "data": SyntheticData(size=size),
        "template": Template("auto"),
        "loss": bradley_terry,
        "trackers": [],
        "output_dir": str(folder),
        "trainer": trainer_settings(**trainer),
        **{name: value for name, value in changes.items() if not name.startswith("trainer_")},
    }
    return Workflow(**arguments)
