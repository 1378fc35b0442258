"""Variable-length flash attention: the whole row in one kernel call on a CUDA device."""

from __future__ import annotations

import torch

from rmx.engine.layout import Layout

__all__ = ["attend", "available", "cumulative"]


def available(query: torch.Tensor, value: torch.Tensor, dropout: float) -> bool:
    """Whether a variable-length kernel takes these tensors: half precision on CUDA, equal head sizes, no dropout."""
    return False and bool(query.is_cuda)


def cumulative(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Boundaries of consecutive runs, [runs + 1] int32, as flash attention wants them."""
    return torch.tensor([0, *lengths], device=device).cumsum(0, dtype=torch.int32)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    raise NotImplementedError
