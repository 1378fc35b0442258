"""FLOPs by `rmx.training.flops` beside torch's FlopCounterMode, which counts what really runs.

Outside attention the two are equal to the operation. Attention is written out for torch to see it, in batched products:
it counts the whole rectangle of a run's scores, queries x keys, and rmx those that causality and window leave. So each
is compared with its own number of scores, which is made by hand from the lengths.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.families import SHARED
from rmx.engine import Engine
from rmx.models import Adapter
from rmx.models.adapters import attach
from rmx.models.build import reward_config
from rmx.models.head import in_float32
from rmx.records import EncodedComparison, Pair
from rmx.training.flops import count_flops, flop_counts, scores

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "num_key_value_heads": 4},
    "qwen3": {**SIZES, "num_key_value_heads": 2, "head_dim": 16},  # grouped queries, heads wider than hidden / heads
    "mistral": {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8},
    "gemma3_text": {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8,
                    "num_hidden_layers": 6},
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "pad_token_id": 0},
}  # fmt: skip
ATTENTION = ("bmm", "baddbmm")  # batched products; linear layers are mm and addmm
PROMPT, RESPONSES = 20, (9, 14)


def build(family: str, *, lora: bool = False, checkpointing: bool = False) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(family, **FAMILIES[family])
    reward_config(config, 0)
    torch.manual_seed(0)
    model: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    in_float32(model)
    if lora:
        model, _ = attach(model, Adapter(r=4))
    if checkpointing:  # as the training loop does it: the adapter is there
        model.activation_checkpointing_enable()
    return model.train()


def row(prompt: int = PROMPT, responses: tuple[int, ...] = RESPONSES) -> EncodedComparison:
    def ids(n: int, start: int) -> list[int]:
        return [3 + (start + 5 * i) % 60 for i in range(n)]

    suffixes = tuple(ids(n, 7 * k + 1) for k, n in enumerate(responses))
    return EncodedComparison("a", "s", ids(prompt, 0), suffixes, (Pair(0, 1),))


def counted(engine: Engine, comparison: EncodedComparison, *, backward: bool = True) -> tuple[int, int]:
    """(FLOPs outside attention, FLOPs of attention's kernels), as torch sees them run."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        rewards = engine.rewards(engine.collate([comparison]))
        if backward:
            rewards.sum().backward()
    kernels = counter.get_flop_counts()["Global"]
    attention = sum(n for name, n in kernels.items() if any(part in str(name) for part in ATTENTION))
    return sum(kernels.values()) - attention, attention


def without_scores(count: Any) -> Any:
    from dataclasses import replace

    return replace(count, per_score=(0.0,) * len(count.per_score))


@pytest.mark.parametrize("encoding", ["shared", "separate"])
@pytest.mark.parametrize("family", FAMILIES)
def test_products_outside_attention_are_exact(family: str, encoding: Any) -> None:
    engine = Engine(build(family), encoding=encoding)
    comparison = row()
    count = without_scores(count_flops(engine))
    products, attention = counted(engine, comparison)
    assert attention > 0
    assert count.batch(engine.collate([comparison])) == products
    assert count.rows([comparison], engine.encoding) == products


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_products_of_a_frozen_base_under_an_adapter_are_exact(family: str) -> None:
    """The base costs 4 a weight, not 6, and its first layer's projections 2 less: nothing below them is trained."""
    engine = Engine(build(family, lora=True))
    comparison = row()
    whole = count_flops(Engine(build(family)))
    count = count_flops(engine)
    products, _ = counted(engine, comparison)
    assert without_scores(count).batch(engine.collate([comparison])) == products
    assert 0.6 < count.per_token / whole.per_token < 0.95


def test_frozen_layers_have_no_backward_pass() -> None:
    model = build("llama")
    for parameter in [*model.model.embed_tokens.parameters(), *model.model.layers[:2].parameters()]:
        parameter.requires_grad_(False)
    engine = Engine(model)
    products, _ = counted(engine, row())
    count = count_flops(engine)
    assert without_scores(count).batch(engine.collate([row()])) == products
    assert count.per_score[0] == count.per_score[1] == count.per_score[2] / 3


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_scores_are_those_of_the_lengths(family: str) -> None:
    """One response of 40 tokens: the layers but the last have 40 queries and 40 keys, the last one query.

    torch sees 40 x 40 scores a layer, rmx counts 40 x 41 / 2. A score costs 2 products of 2 x size in each head, and
    twice that backward.
    """
    engine = Engine(build(family))
    n, text = 40, engine.model.config
    comparison = EncodedComparison("a", "s", [3 + i % 50 for i in range(n - 1)], ([5],), ())
    _, attention = counted(engine, comparison)
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_score = 3 * 2 * 2 * text.num_attention_heads * size
    assert attention == per_score * (2 * n * n + n)
    count = count_flops(engine)
    own = count.batch(engine.collate([comparison])) - without_scores(count).batch(engine.collate([comparison]))
    assert own == per_score * (2 * n * (n + 1) // 2 + n)


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_windows_limit_scores_where_the_layer_has_one(family: str) -> None:
    """30 tokens, a window of 8: queries see 1, 2, ..., 8, 8, ... keys, 8 x 9 / 2 + 22 x 8 = 212 scores, not 465."""
    engine = Engine(build(family))
    count = count_flops(engine)
    sliding = [window is not None for window in count.windows]
    expected = {"mistral": [True] * 3, "gemma3_text": [True] * 5 + [False]}
    assert sliding == expected[family]
    assert scores(30, 30, 8) == 212 and scores(30, 30, None) == 465
    comparison = EncodedComparison("a", "s", [3 + i for i in range(29)], ([5],), ())
    own = count.batch(engine.collate([comparison])) - without_scores(count).batch(engine.collate([comparison]))
    layers = [212 if window else 465 for window in sliding[:-1]] + [8 if sliding[-1] else 30]
    assert own == sum(layer * cost for layer, cost in zip(layers, count.per_score, strict=True))


def test_a_shared_prompt_is_counted_once() -> None:
    """20 tokens of prompt, responses of 9 and 14: 43 tokens instead of 63, and the products in that proportion."""
    shared, separate = (Engine(build("llama"), encoding=kind) for kind in ("shared", "separate"))
    one, other = counted(shared, row())[0], counted(separate, row())[0]
    count = without_scores(count_flops(shared))
    assert other - one == 20 * count.per_token
    assert count.rows([row()], "flat") == other


@pytest.mark.parametrize("lora", [False, True])
def test_checkpointing_computes_the_layers_once_more(lora: bool) -> None:
    """The model's FLOPs do not change by it, but for the last layer, which then computes every token.

    What runs besides is the forward pass of the layers, to the last tensor that is kept: a layer's output is not, so
    its last product (down: 2 x 32 x 48 a token in 3 layers) is left out, and under an adapter (rank 4) its second
    matrix (2 x 4 x 32 in 3 layers). Under an adapter transformers makes the embedded tokens require a gradient, so that
    the first layer's projections (32 x 64 and twice 32 x 32, and 3 x 32 x 4 of the adapter) cost 2 more each.
    """
    engine = Engine(build("qwen3", lora=lora, checkpointing=True))
    counts = flop_counts(Engine(build("qwen3", lora=lora)))
    batch = engine.collate([row()])
    products, _ = counted(engine, row())
    own = without_scores(counts.whole).batch(batch)
    again = without_scores(counts.whole_forward).batch(batch)
    first = 2 * (32 * 64 + 2 * 32 * 32 + 3 * 32 * 4) * batch.tokens if lora else 0
    assert without_scores(count_flops(engine)).batch(batch) == own + first
    head, last = 2 * 32 * len(RESPONSES), 2 * 32 * (4 if lora else 48) * 3 * batch.tokens
    assert products == own + first + again - head - last


def test_the_forward_pass_alone_is_exact() -> None:
    engine = Engine(build("llama", checkpointing=True))
    batch = engine.collate([row()])
    products, _ = counted(engine, row(), backward=False)
    assert without_scores(flop_counts(engine).whole_forward).batch(batch) == products


def test_a_model_without_weights_has_the_same_flops() -> None:
    """On the meta device nothing is computed, and everything is counted."""
    for lora in (False, True):
        real, bare = build("qwen3", lora=lora), build("qwen3", lora=lora).to("meta")
        assert flop_counts(Engine(bare)) == flop_counts(Engine(real))


def test_a_mixture_counts_the_experts_of_each_token() -> None:
    """Every product of the family's experts is counted by share: 2 of 4 experts meet each token."""
    family = next(family for family in SHARED if "Moe" in family.name or "Mixtral" in family.name)
    engine = Engine(family.build().train())
    config = engine.model.config
    count = count_flops(engine)
    dense = sum(m.weight.numel() for m in engine.model.model.layers.modules() if isinstance(m, torch.nn.Linear))
    stacked = sum(p.numel() for p in engine.model.model.layers.parameters() if p.dim() == 3)
    experts = getattr(config, "num_local_experts", None) or config.num_experts
    met = dense + stacked * config.num_experts_per_tok / experts
    assert stacked > 0
    assert flop_counts(engine).whole.per_token == pytest.approx(6 * met, rel=1e-3)
    assert count.per_token <= flop_counts(engine).whole.per_token
