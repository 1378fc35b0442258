"""What each process holds that trains with DeepSpeed's ZeRO, before there is any of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from rmx.models.layers import layers_of
from rmx.training.memory_use import whole_shape
from rmx.training.optimizer_use import held_after_step

__all__ = ["BUCKET", "bucket_bytes", "bucket_numbers", "held_by_zero"]

BUCKET = 50_000_000  # the most numbers that are averaged, gathered or fetched together


def held_by_zero(model: Any, args: TrainingArguments, stage: int, processes: int) -> list[int]:
    """Return the bytes of weights, gradients and optimizer state of the process that holds most.

    Weights count with the float32 parts that the optimizer moves. Stage 2 cuts all trained weights as one run of
    numbers (one for each parameter group), stage 3 each weight by itself.

    Args:
        model: whole, on the meta device, or divided by stage 3.
        args: the arguments of transformers: which optimizer.
        stage: 2 or 3.
        processes: that share.

    Raises:
        ConfigError: the optimizer's state is not known without a device.

    >>> layer = nn.Linear(64, 10, device="meta")  # 640 weights and 10 biases of 4 bytes
    >>> args = TrainingArguments("run", optim="adamw_torch", use_cpu=True, report_to="none")
    >>> held_by_zero(layer, args, 2, 4)  # all, and ceil(650 / 8) * 2 of them once more; two moments, and a step counter
    [3256, 656, 1316]
    >>> held_by_zero(layer, args, 3, 4)  # twice 160 weights and 3 biases
    [1304, 652, 1308]
    """
    sizes = [(whole_shape(p).numel(), p.element_size(), p.requires_grad) for p in model.parameters()]
    trained = [numbers for numbers, _, moves in sizes if moves]
    if stage == 2:  # padded to an even number in each process
        own, here = 2 * math.ceil(sum(trained) / (2 * processes)), sum(n * size for n, size, _ in sizes)
    else:
        own = sum(math.ceil(n / processes) for n in trained)
        here = sum(math.ceil(n / processes) * size for n, size, _ in sizes)
    part = nn.ParameterList([nn.Parameter(torch.empty(own, dtype=torch.float32, device="meta"))])
    masters, gradients, optimizer = held_after_step(part, args)
    return [here + masters, gradients, optimizer]


def bucket_numbers(model: nn.Module) -> int:
    """Return how many numbers are averaged, gathered or fetched together: a layer's, and no more than 50 million.

    >>> bucket_numbers(nn.Linear(64, 10))
    650
    """
    units = [[whole_shape(p).numel() for p in unit.parameters()] for unit in layers_of(model) or [model]]
    return max(1, min(BUCKET, max(map(sum, units))))


def bucket_bytes(model: nn.Module) -> int:
    """Return what the bucket takes in which gradients are averaged, in float32.

    >>> bucket_bytes(nn.Linear(64, 10))
    2600
    """
    return 4 * bucket_numbers(model)
