"""The bytes of one process of a run, part by part, and how many tokens fit beside what has to be there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rmx.models.head import backbone_of
from rmx.models.layers import layers_of

__all__ = ["Parts", "copied_bytes", "gathered_bytes"]


@dataclass(frozen=True)
class Parts:
    """Bytes of the fullest process of a run.

    Attributes:
        weights: parameters; in float32 where all are trained, and then they are the optimizer's masters as well.
        quantization: scales of quantised weights.
        gradients: of what is trained.
        optimizer: its state.
        buckets: what gradients are averaged in (DistributedDataParallel, DeepSpeed).
        gathered: whole weights of the layers at work, where weights are divided.
        copies: bfloat16 copies of float32 weights, or of quantised ones, that products are computed with.
        step: what the optimizer's step takes for its length.
        per_token: activations of one token; None where they are not known.
        host: bytes in the host's memory (parallel.cpu_offload).
    """

    weights: int
    quantization: int
    gradients: int
    optimizer: int
    buckets: int = 0
    gathered: int = 0
    copies: int = 0
    step: int = 0
    per_token: float | None = None
    host: int = 0

    @property
    def resident(self) -> int:
        """What is there from step to step, gradients counted."""
        return self.weights + self.quantization + self.gradients + self.optimizer + self.buckets

    def peak(self, tokens: int, *, several: bool = True) -> float:
        """Bytes at the fullest moment, with micro-batches of so many tokens.

        Args:
            tokens: of one micro-batch.
            several: whether a step has more than one of them; the first finds no gradients yet.

        >>> parts = Parts(100, 0, 100, 200, copies=50, per_token=2.0)
        >>> parts.peak(100), parts.peak(100, several=False), parts.peak(10, several=False)
        (650.0, 550.0, 400)
        """
        working = self.gathered + self.copies + (self.per_token or 0.0) * tokens
        forward = self.resident + working - (0 if several else self.gradients)
        return max(forward, self.resident + self.gathered, self.resident + self.step)

    def tokens_within(self, memory: float) -> int:
        """How many tokens a micro-batch may have; 0 where not even the rest fits, or it is not known.

        >>> Parts(100, 0, 100, 200, copies=50, per_token=2.0).tokens_within(650)
        100
        """
        left = memory - self.resident - self.gathered - self.copies
        if not self.per_token or left <= 0 or self.resident + self.step > memory:
            return 0
        return int(left / self.per_token)


def gathered_bytes(model: nn.Module, tensor: int) -> int:
    """Return what divided weights take when they are whole.

    That is the root's all the time, two layers' weights, and a layer's gradient.

    Args:
        model: whole on the meta device, or divided: a divided tensor knows the number of all its elements.
        tensor: processes that compute every layer together, and hold a part of it each even then.
    """
    layers = layers_of(model)
    inside = {id(p) for layer in layers for p in layer.parameters()}
    root = sum(_size(p) for p in model.parameters() if id(p) not in inside)
    layer = max((sum(map(_size, stack.parameters())) for stack in layers), default=0)
    gradient = max((sum(_size(p) for p in stack.parameters() if p.requires_grad) for stack in layers), default=0)
    return root + (2 * layer + gradient) // tensor


def copied_bytes(model: nn.Module, quantized: Collection[str], precision: str, checkpointing: bool) -> int:
    """Return the bytes of weights in the dtype that products are computed in, where they are kept in another.

    Without checkpointing autograd keeps them all until the backward pass, with it those of one layer; quantised
    weights are unpacked for each product anew.

    Args:
        model: bare, or with an adapter.
        quantized: names of its linear layers that are packed in 4 or 8 bits.
        precision: of the backbone's products.
        checkpointing: whether layers are computed again in the backward pass.
    """
    if quantized:
        modules: dict[str, Any] = dict(model.named_modules())
        return max(2 * modules[name].in_features * modules[name].out_features for name in quantized)
    if precision != "bf16":
        return 0
    stacks = layers_of(model) if checkpointing else [backbone_of(model)]
    return max((2 * sum(map(_multiplied, stack.modules())) for stack in stacks), default=0)


def _multiplied(module: nn.Module) -> int:
    """Weights of a linear layer in float32."""
    weight = getattr(module, "weight", None) if isinstance(module, nn.Linear) else None
    return weight.numel() if weight is not None and weight.dtype == torch.float32 else 0


def _size(parameter: torch.Tensor) -> int:
    return parameter.numel() * parameter.element_size()
