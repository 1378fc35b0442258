"""What a process really holds: bytes of weights, gradients and optimizer state, counted from the tensors themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rmx.files import readable_bytes

__all__ = ["bytes_of", "held_bytes", "memory_in_words", "whole_shape"]


def held_bytes(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[int]:
    """Return the bytes of this process's weights, gradients and optimizer state; of divided ones its own part.

    >>> layer = torch.nn.Linear(3, 1)
    >>> adam = torch.optim.AdamW(layer.parameters())
    >>> layer(torch.ones(1, 3)).sum().backward(); adam.step()
    >>> held_bytes(layer, adam)  # 4 numbers of 4 bytes; two moments of each, and two step counters
    [16, 16, 40]
    """
    parameters = list(model.parameters())
    return [
        bytes_of(parameters),
        bytes_of(p.grad for p in parameters if p.grad is not None),
        bytes_of(value for values in optimizer.state.values() for value in values.values()),
    ]


def bytes_of(values: Iterable[Any]) -> int:
    """Return the bytes of the tensors among some values."""
    tensors = (value.to_local() if isinstance(value, DTensor) else value for value in values)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def whole_shape(tensor: Tensor) -> torch.Size:
    """Return the shape of a weight, whatever part of it is here: one that DeepSpeed has divided looks empty.

    >>> whole_shape(torch.zeros(2, 3))
    torch.Size([2, 3])
    """
    return torch.Size(getattr(tensor, "ds_shape", tensor.shape))


def memory_in_words(held: list[int]) -> str:
    """Say what `held_bytes` found.

    >>> memory_in_words([16_000_000, 16_000_000, 32_000_000])
    '16.0 MB of weights, 16.0 MB of gradients, 32.0 MB of optimizer state'
    """
    kinds = ("weights", "gradients", "optimizer state")
    return ", ".join(f"{readable_bytes(size)} of {kind}" for size, kind in zip(held, kinds, strict=True))
