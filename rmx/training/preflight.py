"""What can be known to go wrong in training before data, or before the model, is read: all of it in one message."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from rmx.errors import ConfigError
from rmx.training.arguments import TrainerSettings, shipped_values, wrong_metric
from rmx.training.events import Callbacks
from rmx.training.keys import idle
from rmx.training.optimizers import check_optimizer, check_schedule

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = ["check_before_data", "check_before_model"]

log = logging.getLogger(__name__)


def check_before_data(
    settings: TrainerSettings,
    callbacks: Mapping[str, TrainerCallback] | None,
    *,
    output_dir: Path,
    seed: int,
    trackers: Sequence[str] = (),
) -> None:
    """Refuse what a library would refuse later: optimizer, schedule, their arguments, missing packages, callbacks.

    Keys in a file that do nothing because of another one are named in the log.

    Raises:
        ConfigError: a line for each mistake.
    """
    Callbacks(callbacks)
    given = settings.arguments
    for name, key in idle(given):
        # Epochs give way to steps in every trainer, and the header says so.
        if given[name] != shipped_values().get(name) and name != "num_train_epochs":
            log.info("trainer.%s=%s does nothing: trainer.%s=%s", name, given[name], key, given.get(key))
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps") if settings.comparisons_per_step else ():
        if given.get(name, shipped_values()[name]) != shipped_values()[name]:
            total = settings.comparisons_per_step
            log.info("trainer.%s=%s does nothing: trainer.comparisons_per_step=%d", name, given[name], total)
    args = settings.training_arguments(output_dir, seed, evaluates=True)
    mistakes = [
        *check_optimizer(args, settings.arguments),
        *check_schedule(args),
        *check_early_stopping(args, callbacks or {}),
        *(
            f"trainer.{name}: does nothing without trackers=[trackio]; leave it out, or add that tracker"
            for name in given
            if name.startswith("trackio_") and given[name] is not None and "trackio" not in trackers
        ),
    ]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def check_before_model(
    settings: TrainerSettings,
    args: TrainingArguments,
    callbacks: Mapping[str, Any] | None,
    *,
    comparisons: int,
    sets: Sequence[str],
    ranks: int = 1,
) -> None:
    """Refuse a run that would not train one step, or whose best checkpoint is chosen by what is not measured.

    Args:
        settings: rmx's own knobs.
        args: the run's arguments, made with the knowledge whether there is an evaluation set.
        callbacks: the user's, by name.
        comparisons: of the training set.
        sets: names of the evaluation sets.
        ranks: processes that share a step.

    Raises:
        ConfigError: a line for each mistake.
    """
    mistakes = check_early_stopping(args, callbacks or {}, sets)
    per_step = settings.step_size(ranks)
    if args.dataloader_drop_last and comparisons < per_step:
        mistakes.append(
            f"trainer.dataloader_drop_last: {comparisons} training comparisons are less than one step of {per_step}, "
            "so nothing would be trained; set it to false, or lower trainer.per_device_train_batch_size, "
            "trainer.gradient_accumulation_steps or trainer.comparisons_per_step"
        )
    if sets and args.metric_for_best_model is not None and (wrong := wrong_metric(args.metric_for_best_model, sets)):
        mistakes.append(str(wrong))
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def check_early_stopping(
    args: TrainingArguments, callbacks: Mapping[str, Any], sets: Sequence[str] | None = None
) -> list[str]:
    """Return what an EarlyStoppingCallback lacks: evaluations, or a metric."""
    mistakes = []
    for name, callback in callbacks.items():
        if not isinstance(callback, EarlyStoppingCallback):
            continue
        if sets is not None and not sets:
            lacks = "an evaluation set; set data.validation_fraction above 0, or give data.eval_sets"
        elif args.eval_strategy == IntervalStrategy.NO:
            lacks = "evaluations; set trainer.eval_strategy=steps, or leave it out"
        elif args.metric_for_best_model is None:
            lacks = "a metric; set trainer.metric_for_best_model=eval_loss, or leave it out"
        else:
            continue
        mistakes.append(f"callbacks.{name}: early stopping needs {lacks}")
    return mistakes
