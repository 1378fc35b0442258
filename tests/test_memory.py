"""How many tokens a micro-batch starts with: fixed on a CPU, what fits into free memory on a GPU."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tiny_models import save_base
from training_bench import make_trainer
from transformers import AutoConfig, AutoModelForSequenceClassification, TrainingArguments

from rmx.engine import Engine
from rmx.memory.activations import ActivationCounter, Activations
from rmx.memory.peak import Parts
from rmx.models import Adapter, RewardModelSource
from rmx.models.adapters import attach
from rmx.models.build import reward_config
from rmx.models.quantization import scales_of
from rmx.models.skeleton import blueprint, skeleton
from rmx.parallel import MeshSizes
from rmx.planning.gpus import DEVICES
from rmx.planning.parts import held_by_fullest, parts_of
from rmx.training.arguments import trainer_settings
from rmx.training.memory_use import bytes_of
from rmx.training.sharded import ShardedWeights
from rmx.training.strategies import OneProcess
from rmx.training.token_budget import (
    LARGEST,
    SMALLEST,
    budget_within,
    checkpoint_activations,
    guessed_bytes,
    process_parts,
    starting_budget,
    token_bytes,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
CUDA = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let arguments mean a GPU, with so many bytes free."""

    def with_free(free: float) -> None:
        monkeypatch.setattr(TrainingArguments, "device", CUDA)
        monkeypatch.setattr(TrainingArguments, "world_size", 1)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), 2 * int(free)))

    return with_free


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    return trainer_settings(use_cpu=True, **changes).training_arguments(folder, 0, evaluates=False)


def tiny(family: str = "llama", **changes: Any) -> Any:
    """Two layers of hidden 64, intermediate 96, 4 heads and 2 key heads of 16: a shape that is counted itself."""
    sizes: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 512,
    }  # fmt: skip
    config = AutoConfig.for_model(family, **{**sizes, **changes})
    reward_config(config, 0)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa").train()


def llama(precision: Any = "fp32") -> Engine:
    return Engine(tiny(num_key_value_heads=2), precision=precision)


# --- From bytes to tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "tokens"),
    [
        (1_650_000, 5120),  # 500,000 stay, 60,000 are gathered, 40,000 copied; 1,050,000 / 200 = 5250 tokens
        (1_623_999, 4096),  # 1,023,999 / 200 = 5119 tokens: one less than five times 1024
        (1_624_000, 5120),
        (700_000, SMALLEST),  # room for 500
        (100_000, SMALLEST),  # not even the weights fit: running out of memory will say so
        (1e9, LARGEST),
    ],
)
def test_tokens_are_what_fits_beside_the_rest_in_whole_thousands(memory: float, tokens: int) -> None:
    parts = Parts(
        weights=100_000, quantization=20_000, gradients=90_000, optimizer=200_000, buckets=90_000, gathered=60_000,
        copies=40_000, per_token=200.0,
    )  # fmt: skip
    assert budget_within(parts, memory) == tokens


def test_a_cpu_has_fixed_budgets(tmp_path: Path) -> None:
    assert starting_budget(llama("fp32"), arguments(tmp_path)) == 1024
    assert starting_budget(llama("bf16"), arguments(tmp_path)) == 2048


@pytest.mark.parametrize(("tokens", "expected"), [(5000, 4096), (100, 1024), (10_000_000, 65_536)])
def test_a_gpu_budget_fills_nine_tenths_of_what_is_free(gpu: Any, tokens: int, expected: int, tmp_path: Path) -> None:
    """Float32: 16 bytes a parameter (weights are still on the CPU, gradients, two moments) and a counter for each.

    A token by hand, as in tests/memory: a layer of hidden 64, query 64, keys 32, intermediate 96 and 4 heads keeps
    8 + 24 x 64 + 12 x 64 + 8 x 32 + 16 x 96 + 4 x 4 = 4120 bytes where nothing is left out. The last layer computes
    queries and MLP for the scored token alone and keeps 2 x (8 x 64 + 4) of its norms less; what is counted for both
    lies between one layer and two.
    """
    engine, args = llama(), arguments(tmp_path, optim="adamw_torch")
    parameters = list(engine.model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    counted = token_bytes(engine, args)
    assert isinstance(counted, Activations) and 4120 < counted.kept < 2 * 4120 + 4 * 64
    resident = sum(p.numel() for p in parameters) * 16 + 4 * len(trained)
    gpu((resident + (tokens + 0.5) * counted.at_peak) / 0.9)
    assert starting_budget(engine, args) == expected


def test_gradient_checkpointing_leaves_room_for_more_tokens(gpu: Any, tmp_path: Path) -> None:
    gpu(50e6)
    found = []
    for changes in ({}, {"gradient_checkpointing": True}):
        args, engine = arguments(tmp_path, **changes), llama("bf16")
        checkpoint_activations(engine.model, args)
        found.append(starting_budget(engine, args))
    assert SMALLEST < found[0] < found[1] < LARGEST


# --- What is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapter", "checkpointing"),
    [(None, True), (Adapter(r=4), False), (Adapter(kind="pissa", r=4, target_modules=["q_proj", "up_proj"]), True)],
    ids=["all weights", "LoRA", "PiSSA"],
)
def test_a_loaded_model_takes_what_is_planned_for_it(
    adapter: Adapter | None, checkpointing: bool, tmp_path: Path
) -> None:
    source = RewardModelSource(path=str(save_base("llama", tmp_path / "base", dtype=torch.bfloat16)))
    plan = blueprint(source, adapter)
    args = arguments(tmp_path, gradient_checkpointing=checkpointing)
    engine = Engine(source.load(adapter=adapter).model, precision="bf16")
    planned = ActivationCounter(plan.config, plan.dtype, adapter, "bf16").of(checkpointing=checkpointing)
    assert token_bytes(engine, args) == planned
    bare = skeleton(plan, source, adapter)
    assert process_parts(engine, args, planned) == parts_of(
        bare, args, planned, held=held_by_fullest(bare.model, args, None), sizes=None, processes=1, precision="bf16",
        checkpointing=checkpointing,
    )  # fmt: skip


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
def test_a_quantised_base_counts_as_it_is_packed(bits: Any, tmp_path: Path) -> None:
    """The same bytes of a token as on a base in bfloat16; a copy of the largest layer, 64 x 192 in two bytes."""
    pytest.importorskip("bitsandbytes")
    folder = save_base("llama", tmp_path, dtype=torch.bfloat16, hidden_size=64, intermediate_size=192, head_dim=16)
    source, args = RewardModelSource(path=str(folder), quantization=bits), arguments(tmp_path)
    model, _ = attach(source.load(trainable=False).model, Adapter(r=4))
    engine = Engine(model, precision="bf16")
    plan = blueprint(source, Adapter(r=4))
    planned = ActivationCounter(plan.config, plan.dtype, Adapter(r=4), "bf16").of(checkpointing=False)
    assert token_bytes(engine, args) == planned
    parts = process_parts(engine, args, planned)
    assert parts.weights == sum(p.numel() * p.element_size() for p in model.parameters())
    assert parts.copies == 2 * 64 * 192


@pytest.fixture
def four_processes() -> Iterator[None]:
    """The first of four processes that hear nothing of each other."""
    dist.init_process_group("fake", rank=0, world_size=4)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("four_processes")
@pytest.mark.parametrize("sizes", [MeshSizes(1, 4, 1), MeshSizes(2, 2, 1), MeshSizes(1, 2, 2)], ids=str)
@pytest.mark.parametrize("adapter", [None, Adapter(r=4)], ids=["all weights", "LoRA"])
def test_of_divided_weights_a_process_counts_its_part(
    adapter: Adapter | None, sizes: MeshSizes, tmp_path: Path
) -> None:
    source, args = RewardModelSource(), arguments(tmp_path)
    loaded, plan = source.load(adapter=adapter), blueprint(source, adapter)
    engine = Engine(loaded.model, precision="bf16")
    ShardedWeights(args, sizes).divide(loaded.model, {})
    found = token_bytes(engine, args)
    assert found == ActivationCounter(plan.config, plan.dtype, adapter, "bf16").of(
        checkpointing=False, tensor=sizes.tensor
    )
    bare = skeleton(plan, source, adapter)
    assert process_parts(engine, args, found) == parts_of(
        bare, args, found, held=held_by_fullest(bare.model, args, sizes), sizes=sizes, processes=4, precision="bf16",
        checkpointing=False,
    )  # fmt: skip


@pytest.mark.usefixtures("four_processes")
@pytest.mark.parametrize("sizes", [MeshSizes(1, 4, 1), MeshSizes(2, 2, 1)], ids=str)
def test_of_a_divided_4_bit_base_a_process_counts_its_part(sizes: MeshSizes, tmp_path: Path) -> None:
    """Packed weights in parts; scales are planned, and are no longer free when a process counts itself."""
    pytest.importorskip("bitsandbytes")
    folder = save_base("llama", tmp_path, dtype=torch.bfloat16, hidden_size=64, intermediate_size=192, head_dim=16)
    source, args, adapter = RewardModelSource(path=str(folder)), arguments(tmp_path), Adapter(kind="qlora", r=4)
    loaded, bare = source.load(adapter=adapter, divided=True), skeleton(blueprint(source, adapter), source, adapter)
    engine = Engine(loaded.model, precision="bf16")
    ShardedWeights(args, sizes).divide(loaded.model, loaded.unread)
    planned = parts_of(
        bare, args, "unknown", held=held_by_fullest(bare.model, args, sizes, bare.packed), sizes=sizes, processes=4,
        precision="bf16", checkpointing=False,
    )  # fmt: skip
    assert planned.quantization == bytes_of(scales_of(loaded.model))
    counted = process_parts(engine, args, "unknown")
    assert replace(counted, per_token=None) == replace(planned, quantization=0)


def test_several_processes_with_the_whole_model_copy_its_gradients(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine, args = llama(), arguments(tmp_path)
    alone = process_parts(engine, args, "unknown")
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    together = process_parts(engine, args, "unknown")
    assert (alone.buckets, together.buckets) == (0, alone.gradients)


def test_all_processes_take_the_smallest_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of 1024 here, and 512 in another process."""
    monkeypatch.setattr(OneProcess, "largest", lambda self, values: [max(value, -512) for value in values])
    assert make_trainer(tmp_path).first_budget == 512


def test_an_optimizer_that_is_not_known_counts_as_adam(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("not on meta")

    engine, args = llama(), arguments(tmp_path)
    monkeypatch.setattr("rmx.training.optimizer_use.make_optimizer", broken)
    parts, trained = process_parts(engine, args, "unknown"), [p for p in engine.model.parameters() if p.requires_grad]
    assert parts.optimizer == 8 * sum(p.numel() for p in trained) == 2 * parts.gradients


def test_one_layer_of_two_is_computed_again(tmp_path: Path) -> None:
    """Four layers, of which the first and the third are computed again: the other two keep what a layer keeps."""
    config = tiny(num_key_value_heads=2, num_hidden_layers=4).config
    counter = ActivationCounter(config, torch.float32, None, "fp32")
    every, second = (counter.of(checkpointing=True, every_n_layers=n) for n in (1, 2))
    assert isinstance(every, Activations) and isinstance(second, Activations)
    assert second.kept - every.kept == pytest.approx(2 * every.layer)


# --- What is not known ------------------------------------------------------------------------------------------------


def test_a_guess_by_hand() -> None:
    """Hidden 64, 2 layers. BERT: 3 x 200 x 64, a layer's worth for what is in flight; with checkpointing two inputs in
    float32 and one layer: 2 x 4 x 64 + 200 x 64. A mixture of experts: 300 for 200."""
    bert = Engine(tiny("bert"))
    assert (guessed_bytes(bert, False), guessed_bytes(bert, True)) == (38_400, 13_312)
    mixture = Engine(tiny("mixtral", num_key_value_heads=2, num_local_experts=4))
    assert guessed_bytes(mixture, False) == 57_600


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("bert", {}, "it runs on padded rows"),
        ("mixtral", {"num_key_value_heads": 2, "num_local_experts": 4}, "a mixture of experts keeps what its router"),
    ],
)
def test_the_log_says_when_bytes_are_guessed(
    family: str, changes: dict[str, Any], why: str, gpu: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gpu(200e6)
    with caplog.at_level("INFO", logger="rmx"):
        budget = starting_budget(Engine(tiny(family, **changes)), arguments(tmp_path))
    assert SMALLEST < budget < LARGEST
    assert f"auto is {budget} tokens" in caplog.text and f"a high guess, because {why}" in caplog.text


# --- The run around it ------------------------------------------------------------------------------------------------


def test_random_states_stay_as_they_are(gpu: Any, tmp_path: Path) -> None:
    engine, args = llama("bf16"), arguments(tmp_path)
    gpu(200e6)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    starting_budget(engine, args)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1] and np.array_equal(np.random.get_state()[1], before[2])


@pytest.mark.parametrize(
    ("name", "lora", "checkpointing"),
    [("Llama-3.2-1B-Instruct", False, False), ("Llama-3.2-1B-Instruct", True, False),
     ("Llama-3.1-8B-Instruct", True, True)],
    ids=["1B full", "1B LoRA", "8B LoRA checkpointing"],
)  # fmt: skip
def test_budgets_of_an_h100_fit_into_nine_tenths_of_it(
    name: str, lora: bool, checkpointing: bool, gpu: Any, tmp_path: Path
) -> None:
    """The plan's peaks are those of a real H100 within 3 per cent (tests/memory); a kilo-token more would not fit."""
    memory = DEVICES["h100"].memory
    args = arguments(tmp_path, gradient_checkpointing=checkpointing)
    source, adapter = RewardModelSource(path=f"meta-llama/{name}"), Adapter(r=16) if lora else None
    plan = blueprint(source, adapter)
    bare = skeleton(plan, source, adapter)
    held = held_by_fullest(bare.model, args, None)
    gpu(memory)
    budget = starting_budget(Engine(bare.model, precision="bf16"), args)
    parts = parts_of(
        bare, args, ActivationCounter(plan.config, plan.dtype, adapter, "bf16").of(checkpointing=checkpointing),
        held=held, sizes=None, processes=1, precision="bf16", checkpointing=checkpointing,
    )  # fmt: skip
    print(f"{name} {'LoRA' if lora else 'full'} {checkpointing}: {budget}, {parts.peak(budget) / 1e9:.1f} GB")
    assert parts.peak(budget) < 0.9 * memory
    assert budget == LARGEST or parts.peak(budget + 1024) > 0.9 * memory
