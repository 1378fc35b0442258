"""What training will hold beside the weights, before there is any of it: gradients and the optimizer's state."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from rmx.errors import ConfigError, first_line
from rmx.training.memory_use import held_bytes
from rmx.training.optimizers import make_optimizer

__all__ = ["held_after_step", "step_bytes"]


def held_after_step(model: nn.Module, args: TrainingArguments) -> list[int]:
    """Return the bytes of weights, gradients and optimizer state of a model on the meta device, after one step there.

    The model's trained parameters get gradients, which have no numbers.

    Raises:
        ConfigError: the optimizer's state is not known without a device.

    >>> args = TrainingArguments("run", optim="adamw_torch", use_cpu=True, report_to="none")
    >>> held_after_step(nn.Linear(64, 10, device="meta"), args)  # 650 numbers; two moments of each, two step counters
    [2600, 2600, 5208]
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    name = str(getattr(args.optim, "value", args.optim))
    # Fused kernels refuse the meta device, and paged state lies wherever there is room: the bytes are the same.
    known = {"adamw_torch_fused": "adamw_torch"}.get(name, name.removeprefix("paged_"))
    meant = copy.copy(args)  # without the checks and the search for devices that making new ones would do
    meant.optim = OptimizerNames(known)
    try:
        optimizer = make_optimizer(model, meant)
        optimizer.step()
    except (RuntimeError, NotImplementedError, AttributeError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"trainer.optim={name}: what its state takes is not known without a device ({first_line(error)}); plan "
            "with adamw_torch, adamw_8bit, adafactor or sgd"
        ) from error
    return held_bytes(model, optimizer)


def step_bytes(gradients: int, args: TrainingArguments) -> int:
    """Return what the optimizer's step takes for its length, where gradients take so many bytes.

    AdamW without a fused kernel works on all weights at once, and its denominators are as large as they.
    """
    return gradients if args.optim in ("adamw_torch", "adamw_hf") else 0
