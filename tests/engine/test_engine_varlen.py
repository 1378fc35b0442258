"""The GPU path's arithmetic, on the CPU: its one kernel call against a written-out variable-length attention."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks.families import comparisons
from rmx.engine import attention, varlen
from rmx.engine.layout import Collator


def documented_varlen(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """Flash attention as its documentation says: per run, causal from the bottom right, `window_size[0]` keys back.

    FlashAttention README, 2.1: "If seqlen_q != seqlen_k and causal=True, the causal mask is aligned to the bottom
    right corner"; window (left, right): query i sees keys in [i + k - q - left, i + k - q + right].
    """
    assert enable_gqa and window_size[1] == 0
    assert max_q == cu_q.diff().max() and max_k == cu_k.diff().max()
    outputs = []
    for run in range(len(cu_q) - 1):
        queries, keys = q[cu_q[run] : cu_q[run + 1]], k[cu_k[run] : cu_k[run + 1]]
        values = v[cu_k[run] : cu_k[run + 1]]
        groups = q.shape[1] // k.shape[1]
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        scores = torch.einsum("qhd,khd->hqk", queries, keys) * scale
        distance = torch.arange(len(queries))[:, None] + len(keys) - len(queries) - torch.arange(len(keys))
        visible = distance >= 0
        if window_size[0] >= 0:
            visible &= distance <= window_size[0]
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 1, 6, 1000])
@pytest.mark.parametrize("encoding", ["shared", "flat"])
@pytest.mark.parametrize("scored_only", [False, True], ids=["whole layer", "last layer"])
def test_one_kernel_call_equals_the_loop_over_runs(monkeypatch, encoding, window, scored_only):
    import torch.nn.attention.varlen as torch_varlen

    monkeypatch.setattr(torch_varlen, "varlen_attn", documented_varlen)
    monkeypatch.setattr(varlen, "takes", lambda query, value, dropout: True)
    layout = Collator(encoding)(comparisons()).layout
    torch.manual_seed(0)
    tokens = sum(layout.q_lens)
    q = torch.randn(1, 4, tokens, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(1, 2, tokens, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    results = []
    for kernel in ("per_run", "torch_varlen"):
        placed = layout.on(torch.device("cpu"), kernel)
        output, _ = attention._attention(
            torch.nn.Module(),
            q,
            k,
            v,
            None,
            original="sdpa",
            rmx_layout=placed.last() if scored_only else placed,
            scaling=0.3,
            sliding_window=window,
        )
        assert output.shape == (1, tokens, 4, 8)
        results.append([output, *torch.autograd.grad(output.square().sum(), (q, k, v))])
    for loop, call in zip(*results, strict=True):
        torch.testing.assert_close(call, loop, rtol=0, atol=1e-13)


def test_kernels_are_looked_for_only_where_they_can_run(monkeypatch):
    assert varlen.candidates(torch.device("cpu"), torch.bfloat16) == []
    cuda = torch.device("cuda", 0)
    assert varlen.candidates(cuda, torch.float32) == []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert varlen.candidates(cuda, torch.bfloat16) == []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert varlen.candidates(cuda, torch.bfloat16)[0] in ("torch_varlen", "flash_attn")


def test_flash_attn_gets_the_same_runs(monkeypatch):
    """The package's function takes (…, max_q, max_k) in this order and (-1, -1) for "no window"."""
    calls = []

    def flash_attn_varlen_func(q, k, v, cu_q, cu_k, max_q, max_k, **options):
        calls.append((cu_q.tolist(), cu_k.tolist(), max_q, max_k, options))
        return q

    monkeypatch.setitem(
        __import__("sys").modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func)
    )
    layout = Collator("shared")(comparisons()[:1]).layout.on(torch.device("cpu"), "flash_attn")
    q = torch.randn(1, 4, sum(layout.q_lens), 8)
    for window in (None, 6):
        varlen.attend(q, q, q, layout, scaling=0.3, window=window)
    (cu_q, cu_k, max_q, max_k, options), windowed = calls
    assert (cu_q, cu_k, max_q, max_k) == ([0, 23, 33], [0, 23, 50], 23, 27)  # prefix 17, suffixes 5+1 and 9+1
    assert options == {"softmax_scale": 0.3, "causal": True, "window_size": (-1, -1)}
    assert windowed[-1]["window_size"] == (5, 0)


def test_limits_of_the_kernels():
    half, single = torch.empty(1, 1, 1, 64, dtype=torch.bfloat16), torch.empty(1, 1, 1, 64)
    assert varlen.takes(half, half, dropout=0.0)
    assert not varlen.takes(half, half, dropout=0.1)
    assert not varlen.takes(single, single, dropout=0.0)
    assert not varlen.takes(half, half[..., :32], dropout=0.0)
