"""The attention function that un-shares the prefix.

Everything else in a transformer works token by token, so the shared prefix may be computed once. Only attention
looks at other tokens; here each run of queries gets the keys of its own full sequence, gathered from the row.
No mask over the whole row is ever built: it would cost T² where the sequences cost the sum of their squares.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from rmx.engine import varlen
from rmx.engine.forward import autocast_device
from rmx.engine.last import spread
from rmx.engine.layout import Layout

__all__ = ["PREFIX", "install", "original_name", "uninstall"]

PREFIX = "rmx_"  # "rmx_sdpa": rmx rows where a layout is given, the model's own "sdpa" where none is

Attention = tuple[torch.Tensor, torch.Tensor | None]
Run = Callable[..., torch.Tensor]


def original_name(model: Any) -> str:
    """Name of the attention implementation that `model` was loaded with ("sdpa", "eager", ...)."""
    return model.config._attn_implementation.removeprefix(PREFIX)


def install(model: Any) -> bool:
    """Route the attention of `model` through rmx; False if the model does not take the name.

    The name carries the original implementation, so plain calls find it without any state on the side: also
    in a checkpointed layer that is recomputed in backward, and in a model that two engines share.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    original = original_name(model)
    name = PREFIX + original
    AttentionInterface.register(name, partial(_attention, original=original))
    if original in ALL_MASK_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[original])
    model.set_attn_implementation(name)
    return model.config._attn_implementation == name


def uninstall(model: Any) -> None:
    """Give `model` its own attention back."""
    model.set_attn_implementation(original_name(model))


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # [1, heads, T, head size]
    key: torch.Tensor,  # [1, key heads, T, head size]
    value: torch.Tensor,  # [1, key heads, T, value size]
    attention_mask: torch.Tensor | None,
    *,
    original: str,
    rmx_layout: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> Attention:
    """Causal attention of each run of the row over its own sequence; returns [1, T, heads, value size]."""
    if rmx_layout is None:
        options = {"sliding_window": sliding_window, "softcap": softcap, "s_aux": s_aux}
        kwargs |= {name: option for name, option in options.items() if option is not None}
        return _original(module, original)(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    return _of_rows(
        query,
        key,
        value,
        rmx_layout,
        scaling=scaling,
        window=sliding_window,
        dropout=dropout,
        softcap=softcap,
        sinks=s_aux,
    ), None


@torch.compiler.disable(reason="runs differ from row to row: traced, each row would be compiled anew")
def _of_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    *,
    scaling: float | None,
    window: int | None,
    dropout: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    layout.windows.append(window)
    device = autocast_device(query.device)
    if torch.is_autocast_enabled(device):  # cast once here, not run by run
        # On a CPU to float32: forward and backward of 130 tokens take 1.2 ms there, and 2.5 in bfloat16 (torch 2.13).
        dtype = torch.float32 if device == "cpu" else torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    tokens = query.shape[2]
    if layout.scored_only:  # the last layer
        query = query.index_select(2, layout.pool_index)
    if layout.kv_index is not None:
        key, value = key.index_select(2, layout.kv_index), value.index_select(2, layout.kv_index)
    special = softcap is not None or sinks is not None
    with torch.autocast(device, enabled=False):
        if layout.kernel in varlen.KERNELS and not special and varlen.takes(query, value, dropout):
            output = varlen.attend(query, key, value, layout, scaling=scaling, window=window)
        else:
            kind: Run = partial(_special, softcap=softcap, sinks=sinks) if special else _fused
            run = partial(kind, layout=layout, window=window, scaling=scaling, dropout=dropout)
            output = _run_by_run(run, query, key, value, layout)
    return spread(output, layout.pool_index, tokens) if layout.scored_only else output


def _run_by_run(run: Run, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout) -> torch.Tensor:
    runs = zip(_split(query, layout.q_lens), _split(key, layout.k_lens), _split(value, layout.k_lens), strict=True)
    outputs = [run(q, k, v) for q, k, v in runs]
    filler = query.shape[2] - sum(layout.q_lens)
    if filler:
        outputs.append(outputs[0].new_zeros(1, query.shape[1], filler, value.shape[3]))
    return torch.cat(outputs, 2).transpose(1, 2).contiguous()


def _split(tensor: torch.Tensor, lens: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """The runs' parts of [1, heads, T, size], without the filler behind the last one.

    One split per tensor: slicing run by run would write a full-size zero gradient for each run.
    """
    filler = tensor.shape[2] - sum(lens)
    return tensor.split([*lens, filler] if filler else lens, 2)[: len(lens)]


def _original(module: torch.nn.Module, name: str) -> Callable[..., Attention]:
    """The function that transformers itself would have called; "eager" lives in each model's own file."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name == "eager":
        return vars(inspect.getmodule(type(module)))["eager_attention_forward"]
    return ALL_ATTENTION_FUNCTIONS[name]


def _fused(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    layout: Layout,
    window: int | None,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """One run through PyTorch's fused kernel, without a mask where the kernel's own causality is the right one."""
    queries, keys = q.shape[2], k.shape[2]
    reach = min(keys, window or keys)
    if queries == 1:  # a scored token sees everything behind it
        k, v, mask, square = k[:, :, -reach:], v[:, :, -reach:], None, False
    else:
        square = queries == keys == reach
        mask = None if square else layout.mask(queries, keys, reach, q.device)
    return scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=square, dropout_p=dropout, scale=scaling, enable_gqa=True
    )


def _special(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    layout: Layout,
    window: int | None,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One run, written out, for what no fused kernel of PyTorch knows.

    Softcap squashes scores to ±softcap (Gemma 2, arXiv:2408.00118, section 2); a sink is a learned score per
    head that takes part in the softmax and attends to nothing (gpt-oss, arXiv:2508.10925, section 2).
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    mask = layout.mask(q.shape[2], k.shape[2], window or k.shape[2], q.device)
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores).reshape(1, -1, 1, 1).expand(-1, -1, q.shape[2], 1)], -1)
    at_least_float32 = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=at_least_float32)[..., : k.shape[2]].to(v.dtype)
    return torch.nn.functional.dropout(weights, dropout) @ v
