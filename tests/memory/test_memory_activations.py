"""The bytes of a token: counted on small models, right for larger ones, and for what a GPU was seen to take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from rmx.engine import Engine
from rmx.memory.activations import ActivationCounter, kept_bytes
from rmx.models import Adapter, RewardModelSource
from rmx.models.adapters import attach
from rmx.models.build import reward_config
from rmx.models.head import in_float32
from rmx.models.skeleton import blueprint, skeleton
from rmx.planning.parts import held_by_fullest, parts_of
from rmx.records import EncodedComparison
from rmx.training.arguments import trainer_settings

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
H100 = Path(__file__).parents[2] / "benchmarks" / "results" / "2026-11-26-h100.jsonl"


def config(family: str, **changes: Any) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 160, "intermediate_size": 416, "num_hidden_layers": 4,
        "num_attention_heads": 10, "max_position_embeddings": 1024,
    }  # fmt: skip
    made = AutoConfig.for_model(family, **{**sizes, **changes})
    reward_config(made, 0)
    return made


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(
    ("family", "changes", "adapter", "precision"),
    [("llama", {"num_key_value_heads": 2}, None, "fp32"), ("qwen3", {"num_key_value_heads": 5}, None, "bf16"),
     ("gemma3_text", {"num_key_value_heads": 2, "head_dim": 24}, None, "fp32"),
     ("llama", {"num_key_value_heads": 5}, Adapter(r=6), "bf16"), ("gpt_neox", {}, None, "fp32")],
    ids=str,
)  # fmt: skip
def test_small_shapes_say_what_a_larger_model_keeps(
    family: str, changes: dict[str, Any], adapter: Adapter | None, precision: Any, checkpointing: bool
) -> None:
    """Four layers of 160, between 256 and 512 tokens, beside shapes of one and two layers of 64 to 128."""
    dtype = torch.bfloat16 if adapter else torch.float32
    made = config(family, **changes)
    model: Any = AutoModelForSequenceClassification.from_config(made, dtype=dtype, attn_implementation="sdpa")
    in_float32(model)
    if adapter is not None:
        model, _ = attach(model, adapter)
    if checkpointing:
        model.activation_checkpointing_enable()
    engine = Engine(model.train(), precision=precision)

    def row(tokens: int) -> EncodedComparison:
        return EncodedComparison("a", "s", [3 + i % 50 for i in range(tokens - 1)], ([5],), ())

    real = (kept_bytes(engine, row(512)) - kept_bytes(engine, row(256))) / 256
    planned = ActivationCounter(made, dtype, adapter, precision).of(checkpointing=checkpointing, on_gpu=False)
    assert not isinstance(planned, str)
    assert planned.kept == pytest.approx(real, rel=0.01)
    assert (planned.layer > 0) == checkpointing


def test_a_llama_by_hand() -> None:
    """Float32, all weights, one token of a layer of hidden H, query Q, keys and values K each, intermediate I, h heads.

    Norms keep their input, their normalised input and a number (2 x (8 H + 4)), and give what the projections keep
    (8 H); attention keeps query, key and value, its output and a number for each head (8 Q + 8 K + 4 h), the output
    projection its joined input (4 Q); the MLP gate, its activation, up, and their product (16 I).
    """
    made = config("llama", num_key_value_heads=5)
    counter = ActivationCounter(made, torch.float32, None, "fp32")
    found = counter.of(checkpointing=True, on_gpu=False)
    assert not isinstance(found, str)
    hidden, query, keys, intermediate, heads = 160, 160, 80, 416, 10
    assert found.layer == pytest.approx(8 + 24 * hidden + 12 * query + 8 * keys + 16 * intermediate + 4 * heads)
    assert found.kept == pytest.approx(4 * 4 * hidden + 12 + 8 * hidden + 8, rel=0.02)  # a state a layer, and the end


@pytest.mark.parametrize("piece", ["1B full", "1B LoRA", "8B LoRA"])
def test_peaks_are_those_of_an_h100(piece: str, tmp_path: Path) -> None:
    """Peaks of torch.cuda.max_memory_allocated in benchmarks/results/2026-11-26-h100.jsonl, within 3 per cent.

    Each step was one micro-batch, so that the forward pass finds no gradients; its largest had 14,076 tokens (1B) and
    12,761 (8B, which was checkpointed).
    """
    lines = [json.loads(line) for line in H100.read_text().splitlines()]
    seen = max(line["peak_gb"] for line in lines if line.get("piece") == piece and line.get("peer") == "rmx")
    name = "Llama-3.1-8B-Instruct" if piece.startswith("8B") else "Llama-3.2-1B-Instruct"
    source, adapter = RewardModelSource(path=f"meta-llama/{name}"), Adapter(r=16) if "LoRA" in piece else None
    plan, checkpointing = blueprint(source, adapter), piece.startswith("8B")
    bare = skeleton(plan, source, adapter)
    args = trainer_settings(use_cpu=True).training_arguments(tmp_path, 0, evaluates=False)
    activations = ActivationCounter(plan.config, plan.dtype, adapter, "bf16").of(checkpointing=checkpointing)
    parts = parts_of(
        bare, args, activations, held=held_by_fullest(bare.model, args, None), sizes=None, processes=1,
        precision="bf16", checkpointing=checkpointing,
    )  # fmt: skip
    tokens = 12_761 if checkpointing else 14_076
    assert parts.peak(tokens, several=False) / 1e9 == pytest.approx(seen, rel=0.03)


def test_what_is_not_known_is_said() -> None:
    mixture = config("mixtral", num_key_value_heads=2, num_local_experts=4)
    counter = ActivationCounter(mixture, torch.float32, None, "fp32")
    assert counter.of(checkpointing=False) == "a mixture of experts keeps what its router decides"
    encoder = config("bert")
    found = ActivationCounter(encoder, torch.float32, None, "fp32").of(checkpointing=False)
    assert isinstance(found, str) and found.startswith("it runs on padded rows")


def test_tensor_parallelism_divides_what_lies_in_heads_and_intermediate() -> None:
    made = config("llama", num_key_value_heads=10)
    counter = ActivationCounter(made, torch.float32, None, "fp32")
    one, two = (counter.of(checkpointing=True, tensor=n, on_gpu=False) for n in (1, 2))
    assert not isinstance(one, str) and not isinstance(two, str)
    divided = 20 * 160 + 16 * 416 + 4 * 10
    assert one.layer - two.layer == pytest.approx(divided / 2)
