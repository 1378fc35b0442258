"""Variable-length flash attention: on a CUDA device the whole row is one kernel call.

Flash attention takes the runs as they are: cu_q and cu_k mark where each run's queries and keys begin, and its
causality is aligned to the bottom right (FlashAttention-2.1 and later, PyTorch's copy of it too). The engine
does not rely on that sentence: it runs the probe on the very kernel before it uses it.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch

from rmx.engine.layout import Layout

__all__ = ["KERNELS", "attend", "candidates", "takes"]

HALF = (torch.float16, torch.bfloat16)


def candidates(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Kernels that might run here, best first. Flash attention knows half precision only, from Ampere on."""
    if device.type != "cuda" or dtype not in HALF or torch.cuda.get_device_capability(device) < (8, 0):
        return []
    found = []
    if importlib.util.find_spec("torch.nn.attention.varlen") is not None:
        from torch.nn.attention.varlen import varlen_attn

        if {"window_size", "scale"} <= _arguments(varlen_attn):
            found.append("torch_varlen")
    if importlib.util.find_spec("flash_attn") is not None:
        found.append("flash_attn")
    return found


def takes(query: torch.Tensor, value: torch.Tensor, dropout: float) -> bool:
    """Whether these tensors are within the kernels' limits; PyTorch's per-run attention takes the others."""
    return query.dtype in HALF and query.shape[-1] == value.shape[-1] <= 256 and dropout == 0.0


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    *,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """All runs of the row at once, keys and values gathered: [1, heads, T, head size] in, [1, T, heads, size] out."""
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))  # [T, heads, head size]
    cu_q, cu_k = layout.boundaries(q.device)
    runs = Runs(cu_q, cu_k, max(layout.q_lens), max(layout.k_lens))
    reach = -1 if window is None else window - 1  # keys before the query's own that it sees; -1: all
    return KERNELS[layout.kernel](q, k, v, runs, scaling, reach)[None]


class Runs(NamedTuple):
    """The arguments of flash attention that say where the runs are, in its order."""

    cu_q: torch.Tensor
    cu_k: torch.Tensor
    max_q: int
    max_k: int


def _torch_varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, runs: Runs, scaling: float | None, reach: int
) -> torch.Tensor:
    from torch.nn.attention import varlen

    # From torch 2.12 on groups of query heads have to be asked for; before, they went to the kernel unasked.
    groups: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in _arguments(varlen.varlen_attn) else {}
    output = varlen.varlen_attn(q, k, v, *runs, scale=scaling, window_size=(reach, 0), **groups)
    return cast(torch.Tensor, output)  # a pair only where the log-sum-exp is asked for


@functools.cache
def _arguments(function: Callable[..., object]) -> frozenset[str]:
    """The names of a function's arguments; looked up once, because every layer of every micro-batch asks."""
    return frozenset(inspect.signature(function).parameters)


def _flash_attn(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, runs: Runs, scaling: float | None, reach: int
) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func

    window = (-1, -1) if reach < 0 else (reach, 0)
    return flash_attn_varlen_func(q, k, v, *runs, softmax_scale=scaling, causal=True, window_size=window)


KERNELS: dict[str, Callable[..., torch.Tensor]] = {"torch_varlen": _torch_varlen, "flash_attn": _flash_attn}
