"""Optimizer and schedule, as transformers makes them from `trainer.*`; what they would refuse later is refused first.

The names are those of `trainer.optim` and `trainer.lr_scheduler_type`. Parameters fall into two groups, as in
transformers: weight decay holds for matrices, not for biases and norms.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_pt_utils import get_parameter_names
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from rmx.checkpoints.tensors import load_state
from rmx.errors import CheckpointError, ConfigError, first_line

__all__ = [
    "check_optimizer",
    "check_schedule",
    "follows_a_metric",
    "make_optimizer",
    "make_schedule",
    "restore_schedule",
    "switch",
]

# As `transformers.Trainer.get_decay_parameter_names`, which is a method of a Trainer.
_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")
_INSIDE_BACKWARD = ("layerwise", "lomo")
_BY_METRIC = ("reduce_lr_on_plateau", "greedy")  # schedules that move when trainer.metric_for_best_model does


def make_optimizer(model: nn.Module, args: TrainingArguments) -> torch.optim.Optimizer:
    """Return the optimizer over the trained parameters of a model.

    Raises:
        ConfigError: a learning rate, beta or other value outside its range, or a package that is missing.
    """
    decayed = set(get_parameter_names(model, [nn.LayerNorm], _NO_DECAY))
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: Any = [
        {"params": [p for name, p in trained if name in decayed], "weight_decay": args.weight_decay},
        {"params": [p for name, p in trained if name not in decayed], "weight_decay": 0.0},
    ]
    try:
        made, options = Trainer.get_optimizer_cls_and_kwargs(args, model)  # type: ignore[arg-type]
        if is_optimizer_factory(made):
            return made()(model, **options)
        return made(options.pop("params", groups), **options)
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise ConfigError(f"trainer.optim: {args.optim!s} refuses these settings: {error}") from error


def switch(optimizer: Any, mode: str) -> None:
    """Tell an optimizer that has two modes (schedule-free ones) whether its weights are trained or used."""
    change = getattr(optimizer, mode, None)
    if callable(change):
        change()


def check_optimizer(args: TrainingArguments, given: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with `trainer.optim` and its arguments, without a model.

    Args:
        args: the arguments as transformers understands them.
        given: those that the user gave.
    """
    name = OptimizerNames(args.optim).value
    if any(part in name for part in _INSIDE_BACKWARD):
        return [
            f"trainer.optim: {name} moves the weights during the backward pass, before the gradient is known to be "
            "finite and is clipped; use adamw_8bit or adafactor, which also save memory, or peft=lora"
        ]
    try:
        options = _options(args)
    except ImportError as error:
        return [f"trainer.optim: {name} needs a package that is not installed: {first_line(error)}"]
    except ValueError as error:
        return [f"trainer.optim: {name}: {first_line(error)}"]
    mistakes = []
    for key in _ADAM:
        if key in given and _options(dataclasses.replace(args, **{key: getattr(args, key) / 2})) == options:
            mistakes.append(f"trainer.{key}: {name} does not use it; leave it out, or use trainer.optim_args")
    pairs = dict(item.split("=", 1) for item in (args.optim_args or "").replace(" ", "").split(",") if "=" in item)
    for key, value in pairs.items():
        changed = ",".join(f"{k}={_other(v) if k == key else v}" for k, v in pairs.items())
        if not _reads(args, changed, options):
            mistakes.append(f"trainer.optim_args: {name} has no argument {key!r} (given {key}={value}); leave it out")
    if args.optim_target_modules is not None and not name.startswith(("galore", "apollo")):
        mistakes.append(f"trainer.optim_target_modules: {name} does not use it; it is for galore_* and apollo_*")
    return mistakes or _trial_step(args)


def _trial_step(args: TrainingArguments) -> list[str]:
    """Move one small layer once: some optimizers find out only then that they cannot work on a device."""
    if args.optim_target_modules is not None:
        args = dataclasses.replace(args, optim_target_modules="all-linear")
    gpus = [args.device] if args.device.type == "cuda" else []
    with torch.random.fork_rng(gpus):  # the run's own random numbers stay the same
        layer = nn.Sequential(nn.Linear(256, 256)).to(args.device)
        layer(torch.ones(1, 256, device=args.device)).sum().backward()
        try:
            optimizer = make_optimizer(layer, args)
            switch(optimizer, "train")
            optimizer.step()
        except ConfigError as error:
            return [str(error)]
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            return [
                f"trainer.optim: {OptimizerNames(args.optim).value} cannot work on {args.device.type}: "
                f"{first_line(error)}; use adamw_torch"
            ]
    return []


def _options(args: TrainingArguments) -> dict[str, Any]:
    """What the optimizer would be made with; those that look at the model's layers are given one layer."""
    layer = nn.Sequential(nn.Linear(2, 2))
    if args.optim_target_modules is not None:
        args = dataclasses.replace(args, optim_target_modules="all-linear")
    options = Trainer.get_optimizer_cls_and_kwargs(args, layer)[1]  # type: ignore[arg-type]
    groups = options.pop("params", [])
    return {**options, "groups": [{k: v for k, v in group.items() if k != "params"} for group in groups]}


def _reads(args: TrainingArguments, optim_args: str, options: dict[str, Any]) -> bool:
    """Whether another value makes another optimizer, or is refused."""
    try:
        return _options(dataclasses.replace(args, optim_args=optim_args)) != options
    except (ValueError, TypeError, AttributeError):
        return True


def _other(value: str) -> str:
    """Another value of the same kind."""
    if value.lower() in ("true", "false"):
        return "false" if value.lower() == "true" else "true"
    try:
        return str(int(value) + 1)
    except ValueError:
        pass
    try:
        return str(float(value) * 2 + 1)
    except ValueError:
        return value + "x"


# --- The schedule -----------------------------------------------------------------------------------------------------


def make_schedule(optimizer: torch.optim.Optimizer, args: TrainingArguments, steps: int) -> Any:
    """Return the schedule over `steps` optimizer steps.

    Raises:
        ConfigError: `trainer.lr_scheduler_kwargs` lacks an argument or has one that the schedule does not know.
    """
    name = SchedulerType(args.lr_scheduler_type).value
    options = dict(cast(Mapping[str, Any], args.lr_scheduler_kwargs or {}))
    if name in _BY_METRIC:
        options.setdefault("mode", "max" if args.greater_is_better else "min")
    if options and name.startswith("constant"):
        raise ConfigError(f"trainer.lr_scheduler_kwargs: the schedule {name} has no arguments; leave them out")
    try:
        return get_scheduler(
            name,
            optimizer,
            num_warmup_steps=args.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=options,
        )
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        raise ConfigError(
            f"trainer.lr_scheduler_kwargs: {options} does not fit trainer.lr_scheduler_type={name}: {first_line(error)}"
        ) from error


def check_schedule(args: TrainingArguments) -> list[str]:
    """Return what is wrong with the schedule's arguments, found by making it for one number."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    try:
        make_schedule(optimizer, args, args.max_steps if args.max_steps > 0 else 1000)
    except ConfigError as error:
        return [str(error)]
    return []


def follows_a_metric(schedule: Any) -> bool:
    """Whether a schedule moves after evaluations, by their metric, and not after every step."""
    return "metrics" in inspect.signature(schedule.step).parameters


def restore_schedule(schedule: Any, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Give a schedule the place it had at a checkpoint; its shape is that of this run's settings.

    A run that was given more steps, or another learning rate, follows its new schedule from the next step on: the
    rate of that step is the new schedule's, not the one that the checkpoint ended with.

    Raises:
        CheckpointError: the state is that of another kind of schedule.
    """
    rates = list(getattr(schedule, "base_lrs", []))
    try:
        schedule.load_state_dict(load_state(checkpoint, "scheduler"))
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{checkpoint}: its schedule is of another kind ({error}); take trainer.lr_scheduler_type back, or start "
            "anew with resume=never"
        ) from error
    if isinstance(schedule, LambdaLR):
        schedule.base_lrs = rates
        for group, rate, shape in zip(optimizer.param_groups, rates, schedule.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = rate, rate * shape(schedule.last_epoch)
