"""Training settings: what is ours, what is transformers', and what may not be said twice."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rmx.errors import ConfigError
from rmx.training.arguments import trainer_settings
from rmx.training.keys import ELSEWHERE


def test_accumulation_happens_inside_the_step(tmp_path: Path) -> None:
    """4 per device × 8 accumulated = 32 comparisons in one dataloader item; callbacks see what was configured."""
    settings = trainer_settings(per_device_train_batch_size=4, gradient_accumulation_steps=8, learning_rate=1e-4)
    args = settings.training_arguments(tmp_path, 3, evaluates=True)
    assert settings.step_size(1) == 32
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (4, 8)
    assert (args.learning_rate, args.seed, args.logging_nan_inf_filter) == (1e-4, 3, False)


def test_without_evaluation_sets_nothing_is_evaluated_or_chosen_as_best(tmp_path: Path) -> None:
    settings = trainer_settings(
        eval_strategy="steps", eval_steps=5, save_strategy="best", load_best_model_at_end=True,
        metric_for_best_model="eval_loss", greater_is_better=False,
    )  # fmt: skip
    args = settings.training_arguments(tmp_path, 0, evaluates=False)
    assert args.eval_strategy == "no" and args.save_strategy == "steps" and not args.load_best_model_at_end


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_what_rmx_sets_itself_is_refused_with_the_right_place(name: str) -> None:
    with pytest.raises(ConfigError, match=f"trainer.{name}: rmx sets this itself; use "):
        trainer_settings(**{name: 1})


def test_a_budget_of_no_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer.max_tokens_per_micro_batch: 0 is not an integer from 1 up or auto"):
        trainer_settings(max_tokens_per_micro_batch=0)


def test_precision_is_asked_for_or_follows_the_hardware() -> None:
    """On a CPU scoring is float32 by default, whatever training uses."""
    assert trainer_settings(precision="bf16").resolved_precision("cpu", training=True) == "bf16"
    assert trainer_settings(bf16=True).resolved_precision("cpu", training=True) == "bf16"
    assert trainer_settings(bf16=False).resolved_precision("cpu", training=True) == "fp32"
    assert trainer_settings().resolved_precision("cpu", training=False) == "fp32"
    assert trainer_settings(eval_precision="bf16").resolved_precision("cpu", training=False) == "bf16"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0),
        ("num_train_epochs", -1),
        ("per_device_train_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("learning_rate", -1e-5),
        ("learning_rate", math.nan),
        ("weight_decay", -0.1),
        ("max_grad_norm", -1.0),
        ("adam_beta2", 1.0),
        ("warmup_steps", -1),
        ("warmup_steps", 1.5),
        ("eval_steps", 0),
        ("logging_steps", 0),
    ],
)
def test_numbers_out_of_range_are_named_before_anything_is_loaded(name, value):
    with pytest.raises(ConfigError, match=rf"trainer.{name}: {value} is not (a|finite)"):
        trainer_settings(**{name: value})
