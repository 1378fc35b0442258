"""How many floating-point operations a training step takes, and what a device can do.

Two counts of the same step stand side by side:

    model     what the engine's layout has to compute: every token of the row once, attention scores on and below the
              diagonal of each run, the last layer's MLP at the scored tokens
    padded    what a trainer computes that gives every pair two rows and pads them to the longest of its batch: all
              tokens of the rectangle, behind a dense mask

A multiply-add counts as 2. A weight that meets a token costs 2 forward, 2 more where its own gradient is computed
and 2 more where its input's is, so that frozen weights under LoRA cost 4 and those below the first adapter 2.
Nothing is counted twice for being computed twice: activation checkpointing and flash attention's second look at
the scores are left out, as in MFU (Chowdhery et al. 2022, "PaLM", appendix B). Norms, softmax, rotary positions and
the optimizer are not matrix products and not counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rmx.engine import Engine
from rmx.engine.layout import Encoding
from rmx.records import Batch, EncodedComparison
from rmx.training.memory_use import whole_shape

__all__ = ["FlopCount", "FlopCounts", "count_flops", "flop_counts", "peak_flops", "speed"]

# Dense bfloat16 matrix products with float32 sums, FLOP/s, as the makers' data sheets have them (half of what they
# print "with sparsity"). The first pattern that is found in the device's name holds; what only resembles one (a laptop
# or export model, a part of a card) is not in the table.
PEAK_BF16 = (
    (r"\bA100\b", 312e12),
    (r"\bH100 PCIe\b", 756e12),
    (r"\bH100 NVL\b", 835e12),
    (r"\bH100\b", 989.4e12),
    (r"\bH200 NVL\b", 835e12),
    (r"\bH200\b", 989.4e12),
    (r"\bB200\b", 2250e12),
    (r"\bL40S\b", 362e12),
    (r"\bRTX 4090$", 165.2e12),
    (r"\bMI300X\b", 1307.4e12),
)


def peak_flops(device_name: str) -> float | None:
    """Return the bfloat16 FLOP/s that a device can do at best; None for one that is not known.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("NVIDIA H100 PCIe"), peak_flops("NVIDIA GeForce RTX 4090")
    (989400000000000.0, 756000000000000.0, 165200000000000.0)
    >>> [peak_flops(name) for name in ("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "cpu")]
    [None, None, None]
    """
    if "MIG" in device_name.split():
        return None
    return next((peak for pattern, peak in PEAK_BF16 if re.search(pattern, device_name)), None)


def speed(
    sums: Mapping[str, float], seconds: float, devices: int, device: torch.device, precision: str
) -> dict[str, float]:
    """Return how fast work was done, from its sums over all devices.

    `tflops_per_device` are model TFLOP/s, and `mfu` is their share of the device's bfloat16 peak; with `padded_` before
    them they say how fast a padding trainer would have to be to finish as soon. MFU is absent where the precision is
    another or the device's peak is not known.

    >>> work = {"pairs": 64.0, "tokens": 9000.0, "unique_tokens": 8000.0, "flops": 8e14, "padded_flops": 2e15}
    >>> found = speed(work, 2.0, 4, torch.device("cpu"), "fp32")
    >>> found["pairs_per_second"], found["unique_tokens_per_second"], found["tflops_per_device"]
    (32.0, 4000.0, 100.0)
    """

    def per_second(name: str) -> float:
        return sums[name] / seconds if seconds > 0 else math.nan

    found = {f"{name}_per_second": per_second(name) for name in ("pairs", "tokens", "unique_tokens")}
    found |= {f"{kind}tflops_per_device": per_second(f"{kind}flops") / devices / 1e12 for kind in ("", "padded_")}
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" and precision == "bf16" else None
    if peak is not None:
        found |= {f"{kind}mfu": found[f"{kind}tflops_per_device"] * 1e12 / peak for kind in ("", "padded_")}
    return found


@dataclass(frozen=True)
class FlopCount:
    """Forward and backward FLOPs of a model, as a function of what it is given.

    Attributes:
        per_token: of the weights that meet every token.
        per_scored: of those that meet the scored tokens alone.
        per_score: of one attention score (one query, one key, all heads) in each layer.
        windows: how many keys a query of each layer sees at most; None: all.
        narrow: whether the last layer computes the scored tokens' queries only.

    A layer of 100 weights for every token and 10 for the scored ones, one attention layer of 4 FLOPs a score; the row
    has 6 tokens in runs of 5 queries over 5 keys and 1 over 4, and the last layer needs one query of each:

    >>> from rmx.engine import Collator
    >>> from rmx.records import Pair
    >>> c = EncodedComparison("a", "s", [7, 8, 9], ([1, 2], [3]), (Pair(0, 1),))
    >>> FlopCount(100.0, 10.0, (4.0,), (None,)).batch(Collator("shared")([c]))  # 600 + 20 + 4 x (5 + 4)
    656.0
    >>> FlopCount(100.0, 10.0, (4.0,), (None,)).padded([c], 1)  # 2 rows of 5: 10 x 110 + 4 x 2 x 25
    1300.0
    """

    per_token: float
    per_scored: float
    per_score: tuple[float, ...]
    windows: tuple[int | None, ...]
    narrow: bool = True

    def batch(self, batch: Batch) -> float:
        """FLOPs of a micro-batch as it is laid out."""
        scored = len(batch.pool_index)
        return self.per_token * batch.tokens + self.per_scored * scored + self._attention(batch)

    def padded(self, comparisons: Sequence[EncodedComparison], at_once: int) -> float:
        """FLOPs of the same pairs as padded rows, two to a pair, of `at_once` comparisons at a time."""
        total = 0.0
        for start in range(0, len(comparisons), at_once):
            part = comparisons[start : start + at_once]
            rows = 2 * sum(len(c.pairs) for c in part)
            width = max((max(c.lengths) for c in part if c.pairs), default=0)
            total += (self.per_token + self.per_scored) * rows * width + sum(self.per_score) * rows * width**2
        return total

    def rows(self, comparisons: Iterable[EncodedComparison], encoding: Encoding) -> float:
        """FLOPs of comparisons as `batch` counts them when they are laid out in this way, without laying them out.

        >>> from rmx.engine import Collator
        >>> c = EncodedComparison("a", "s", [7, 8, 9], ([1, 2], [3]), ())
        >>> count = FlopCount(100.0, 10.0, (4.0,), (None,))
        >>> [count.rows([c], kind) == count.batch(Collator(kind)([c])) for kind in ("shared", "flat", "padded")]
        [True, True, True]
        """
        total = 0.0
        for c in comparisons:
            scored = len(c.lengths)
            if encoding == "padded":
                width = max(c.lengths)
                total += self.per_token * scored * width + sum(self.per_score) * scored * width**2
            elif encoding == "flat":
                total += self.per_token * sum(c.lengths) + self._runs([(n, n) for n in c.lengths])
            else:
                reused = len(c.prefix_ids)
                runs = [(n - reused if i else n, n) for i, n in enumerate(c.lengths)]
                total += self.per_token * c.shared_tokens + self._runs(runs)
            total += self.per_scored * scored
        return total

    def _attention(self, batch: Batch) -> float:
        if batch.layout is None:  # behind a dense mask every score is computed
            rows, width = batch.input_ids.shape
            return sum(self.per_score) * rows * width**2
        return self._runs(list(zip(batch.layout.q_lens, batch.layout.k_lens, strict=True)))

    def _runs(self, runs: Sequence[tuple[int, int]]) -> float:
        """FLOPs of the attention of runs of (queries, keys)."""
        seen: dict[tuple[int | None, bool], int] = {}
        total = 0.0
        for layer, (cost, window) in enumerate(zip(self.per_score, self.windows, strict=True), start=1):
            one_query = self.narrow and layer == len(self.per_score)
            if (window, one_query) not in seen:
                seen[window, one_query] = sum(scores(1 if one_query else q, k, window) for q, k in runs)
            total += cost * seen[window, one_query]
        return total


def scores(queries: int, keys: int, window: int | None) -> int:
    """Attention scores of a run that is causal from the bottom right: query a sees keys up to a + keys - queries.

    >>> scores(5, 5, None), scores(2, 5, None), scores(5, 5, 2), scores(1, 5, 2)
    (15, 9, 9, 2)
    """
    first = keys - queries + 1  # keys that the first query sees
    window = keys if window is None else min(window, keys)
    growing = max(0, min(queries, window - first))  # queries before the window is full
    return growing * first + growing * (growing - 1) // 2 + (queries - growing) * window


class FlopCounts(NamedTuple):
    """FLOPs of one model, counted in different ways.

    Attributes:
        training: forward and backward, as the engine runs it.
        whole: forward and backward where every layer computes every token, as checkpointed layers do.
        whole_forward: the forward pass of that alone. Checkpointing computes most of it again: a layer's last product,
            whose output nobody keeps, is left out.
    """

    training: FlopCount
    whole: FlopCount
    whole_forward: FlopCount


def count_flops(engine: Engine) -> FlopCount:
    """Count the operations of an engine's model as it trains now, by watching one small forward pass.

    What passes through a module's hands says it all: how many tokens it is given, whether its weights are trained and
    whether its input needs a gradient. So adapters, frozen layers and the last layer's shortcut need no rules.
    """
    return flop_counts(engine).training


def flop_counts(engine: Engine) -> FlopCounts:
    """Count as `count_flops` does, and what checkpointing changes; the model may lie on the meta device."""
    ids = [token % engine.model.config.get_text_config().vocab_size for token in range(3, 17)]
    rows = [EncodedComparison("flops", "flops", ids[:6], (ids[6:9], ids[9:11]), ())]
    batch = engine.collate(rows)
    watch = _Watch()
    devices = [engine.model.device] if engine.model.device.type == "cuda" else []
    training = engine.model.training
    engine.model.train()  # as it will run: activation checkpointing is on in training only
    try:
        with torch.random.fork_rng(devices), torch.enable_grad(), watch.on(engine.model):
            engine.rewards(batch)
    finally:
        engine.model.train(training)
    windows = batch.layout.windows if batch.layout is not None else []
    head = {id(m) for m in getattr(engine.model, "score", nn.Module()).modules()}
    make = partial(_flop_count, watch, engine.model.config.get_text_config(), windows, head, len(batch.pool_index))
    return FlopCounts(make(), make(whole=True), make(whole=True, backward=False))


def _flop_count(
    watch: _Watch,
    config: Any,
    windows: Sequence[int | None],
    head: set[int],
    scored: int,
    *,
    whole: bool = False,
    backward: bool = True,
) -> FlopCount:
    few = [m for m in watch.products if m.rows <= scored and (m.module in head or not whole)]
    many = [m for m in watch.products if m.rows > scored or (m.module not in head and whole)]
    per_score, gradients = _per_score(config), watch.attention or [True] * config.num_hidden_layers
    return FlopCount(
        per_token=sum(m.flops if backward else m.forward_flops for m in many),
        per_scored=sum(m.flops if backward else m.forward_flops for m in few),
        per_score=tuple(per_score * (3 if gradient and backward else 1) for gradient in gradients),
        windows=tuple(windows) if len(windows) == len(gradients) else (None,) * len(gradients),
        narrow=any(m.module not in head for m in few),
    )


def _per_score(config: Any) -> int:
    """Forward FLOPs of one score: a product of query and key, and one of weight and value, in each head."""
    heads = getattr(config, "num_attention_heads", 1)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    key, value = (getattr(config, name, None) or size for name in ("qk_head_dim", "v_head_dim"))
    return 2 * heads * (key + value)


@dataclass(frozen=True)
class _Product:
    """One matrix product of a forward pass."""

    module: int  # its id
    rows: int  # tokens that it was given
    flops: int  # per token, forward and backward
    forward_flops: int  # per token, forward alone


@dataclass
class _Watch:
    """Records the matrix products of one forward pass, and which attentions need a gradient."""

    products: list[_Product] = field(default_factory=list)
    attention: list[bool] = field(default_factory=list)
    input_gradients: list[bool] = field(default_factory=list)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Watch `model` inside."""
        share = _active_share(model)
        with ExitStack() as stack:
            for module in model.modules():
                weights = _weights(module, share)
                if weights:
                    hook = module.register_forward_pre_hook(lambda m, args, w=weights: self._product(m, args[0], w))
                    stack.callback(hook.remove)
                elif isinstance(getattr(module, "is_causal", None), bool):
                    stack.callback(module.register_forward_hook(self._attention).remove)
            yield

    def _product(self, module: nn.Module, given: torch.Tensor, weights: int) -> None:
        # Without gradients runs a layer that reentrant checkpointing computes again, with them.
        input_gradient = given.requires_grad or not torch.is_grad_enabled()
        trained = any(p.requires_grad for p in module.parameters(recurse=False) if len(whole_shape(p)) > 1)
        rows = given.shape[:-1].numel()
        self.products.append(_Product(id(module), rows, 2 * weights * (1 + trained + input_gradient), 2 * weights))
        self.input_gradients.append(input_gradient)

    def _attention(self, module: nn.Module, args: Any, output: Any) -> None:
        """The last product inside an attention takes what the scores have made: it needs a gradient if they do."""
        self.attention.append(self.input_gradients[-1])


def _weights(module: nn.Module, active: float) -> int:
    """How many weights of a module meet each token that it is given; 0 for one that multiplies nothing."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features  # a quantised weight has another shape
    if isinstance(module, Conv1D):
        return whole_shape(module.weight).numel()
    shapes = [whole_shape(p) for p in module.parameters(recurse=False)]
    return round(active * sum(shape.numel() for shape in shapes if len(shape) == 3))  # one matrix per expert


def _active_share(model: Any) -> float:
    """The share of a mixture's experts that each token goes to."""
    config = model.config.get_text_config()
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((n for name in names if (n := getattr(config, name, None))), 1)
    return (getattr(config, "num_experts_per_tok", None) or 1) / experts
