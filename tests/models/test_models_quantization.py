"""4-bit and 8-bit bases: trained under an adapter, and read back as what they were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_models_artefact import CONTRACT, ROWS, rewards, train
from tiny_models import save_base

from rmx.errors import ArtefactError, ConfigError, ModelError
from rmx.models import Adapter, RewardModelSource, export_merged, read_artefact, save_artefact, verify_artefact
from rmx.models.quantization import is_packed, pack, scales_of
from rmx.models.unread import stored_tensors

SIZE = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32}  # bitsandbytes packs blocks of 64
QLORA = Adapter(kind="qlora", r=4, alpha=8)


def source(folder: Path, **changes: Any) -> RewardModelSource:
    return RewardModelSource(name="m", path=str(folder), dtype="float32", **changes)


@pytest.fixture
def trained(tmp_path: Path, template: Any) -> tuple[Path, list[float]]:
    """A QLoRA run's artefact on a tiny Llama, and its rewards in memory."""
    folder = save_base("llama", tmp_path, **SIZE)
    loaded = source(folder).load(adapter=QLORA, seed=1, device="cpu")
    kinds = {type(module).__name__ for module in loaded.model.modules()}
    assert "Linear4bit" in kinds  # it really is in 4 bits
    train(loaded)
    return save_artefact(loaded, tmp_path / "model", template=template, contract=CONTRACT), rewards(loaded.model)


def test_an_adapter_is_read_back_on_the_base_it_was_trained_on(trained: tuple[Path, list[float]]) -> None:
    """The same base in full precision is another model: its rewards differ by more than float32 rounding can."""
    folder, expected = trained
    contract = json.loads((folder / "reward_contract.json").read_text())
    assert contract["model"]["quantization"] == {"bits": "4bit", "compute_dtype": "float32"}
    assert rewards(read_artefact(folder).model) == pytest.approx(expected, abs=1e-5)
    assert verify_artefact(folder, ROWS, expected).max_difference < 1e-4
    plain = rewards(source(folder, quantization="none").load(trainable=False).model)
    assert max(abs(a - b) for a, b in zip(plain, expected, strict=True)) > 1e-3


def test_the_check_still_finds_a_wrong_head(trained: tuple[Path, list[float]]) -> None:
    folder, expected = trained
    with pytest.raises(ArtefactError, match="loaded afresh"):
        verify_artefact(folder, ROWS, [reward + 1 for reward in expected])


def test_training_goes_on_with_the_same_base(trained: tuple[Path, list[float]]) -> None:
    loaded = source(trained[0]).load(seed=2, device="cpu")
    assert loaded.quantization is not None and loaded.quantization.bits == "4bit"
    loaded.model(input_ids=torch.tensor([ROWS[0]])).logits.sum().backward()
    gradients = {name: p.grad.abs().max() for name, p in loaded.model.named_parameters() if p.grad is not None}
    assert sum("lora_" in name and float(value) > 0 for name, value in gradients.items()) == 28  # 2 layers x 7 x 2


def test_merging_takes_the_base_as_it_is_stored(trained: tuple[Path, list[float]], tmp_path: Path) -> None:
    out = export_merged(trained[0], tmp_path / "merged")
    plain = rewards(source(trained[0], quantization="none").load(trainable=False).model)
    assert rewards(read_artefact(out).model) == pytest.approx(plain, abs=1e-5)


def test_an_evaluation_changes_nothing(tmp_path: Path) -> None:
    """Rewards and gradients are those of the weights as they are stored, on a CPU that would round them as well."""
    model = source(save_base("llama", tmp_path, **SIZE)).load(adapter=QLORA, seed=1, device="cpu").model

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model.train()
        model(input_ids=torch.tensor([ROWS[0]])).logits.sum().backward()
        found = [p.grad for name, p in model.named_parameters() if "layers.0.mlp.down_proj.lora_B" in name]
        assert len(found) == 1 and found[0] is not None and found[0].norm() > 0
        return found[0].clone()

    before, training = gradient(), float(model(input_ids=torch.tensor([ROWS[0]])).logits.detach())
    assert rewards(model.eval())[0] == pytest.approx(training, abs=1e-6)
    assert torch.equal(gradient(), before)


def test_weights_are_packed_one_by_one_as_they_are_when_the_model_is_read(tmp_path: Path) -> None:
    """The same bytes, scales, types and adapter, with and without reading the model whole."""
    folder = save_base("qwen2", tmp_path, dtype=torch.bfloat16, hidden_size=128, intermediate_size=128)
    there = RewardModelSource(path=str(folder)).load(adapter=QLORA, seed=1, device="cpu").model
    unread = RewardModelSource(path=str(folder)).load(adapter=QLORA, seed=1, divided=True)
    here = dict(unread.model.named_parameters())
    real = {name: (tuple(p.shape), p.dtype, p.requires_grad) for name, p in there.named_parameters()}
    assert {name: (tuple(p.shape), p.dtype, p.requires_grad) for name, p in here.items()} == real
    assert {name for name, p in here.items() if p.is_meta} == set(unread.unread)
    count = 0
    for name, tensor in stored_tensors(unread.unread):
        weight, layer = there.get_parameter(name), unread.model.get_submodule(name.rpartition(".")[0])
        if is_packed(weight):
            assert torch.equal(pack(layer, tensor, torch.device("cpu")), weight)
            count += 1
    assert count == 14 and all(map(torch.equal, scales_of(unread.model), scales_of(there)))
    for name, p in here.items():
        assert p.is_meta or torch.equal(p, there.get_parameter(name))


def test_what_is_stored_transposed_is_read_whole(tmp_path: Path) -> None:
    """GPT-2 keeps its weights as [in, out]; transformers turns them before they are quantised."""
    loaded = source(save_base("gpt2", tmp_path, n_embd=128)).load(adapter=QLORA, divided=True, device="cpu")
    assert not loaded.unread
    assert any("before it is divided: its layer" in note and "is stored transposed" in note for note in loaded.notes)


def test_eight_bits(tmp_path: Path) -> None:
    loaded = source(save_base("llama", tmp_path, **SIZE), quantization="8bit").load(trainable=False)
    assert "Linear8bitLt" in {type(module).__name__ for module in loaded.model.modules()}
    assert all(torch.isfinite(torch.tensor(rewards(loaded.model))))


def test_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_base("llama", tmp_path, **SIZE)
    with pytest.raises(ConfigError, match="cannot be trained themselves"):
        source(folder, quantization="4bit").load()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match="training on 8bit weights needs a CUDA device"):
        source(folder, quantization="8bit").load(adapter=Adapter())
    with pytest.raises(ConfigError, match=r"model\.quantization=8bit: bitsandbytes keeps 8-bit weights outside"):
        source(folder, quantization="8bit").load(trainable=False, divided=True)
    grown = save_base("gpt2", tmp_path / "grown", vocab_size=257, n_embd=128)
    with pytest.raises(ModelError, match=r"is changed when it is read .*257 to 258.* cannot be saved with the adapter"):
        source(grown).load(adapter=QLORA, device="cpu")
    with pytest.raises(ModelError, match="peft=qlora: the embedded tiny model has no stored weights"):
        RewardModelSource(name="tiny").load(adapter=QLORA)
    monkeypatch.setattr("rmx.models.quantization.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="peft=qlora: 4bit weights need bitsandbytes; pip install"):
        source(folder).load(adapter=QLORA)


@pytest.mark.parametrize("how", ["zero", "normal"])
def test_a_stored_adapter_gets_the_head_that_is_asked_for(how: str, tmp_path: Path, template: Any) -> None:
    """A zero head scores 0 whatever the adapter is; a normal one depends on the seed."""
    loaded = RewardModelSource(name="tiny").load(adapter=Adapter(r=4, alpha=8), seed=1)
    train(loaded)
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract=CONTRACT)
    again = source(folder, head_init=how).load(seed=3)
    assert not again.head_was_kept and f"a new head (model.head_init={how})" in again.notes[0]
    found = rewards(again.model)
    if how == "zero":
        assert found == [0.0] * len(ROWS)
    else:
        assert found != pytest.approx(rewards(loaded.model), abs=1e-2)
        assert found == pytest.approx(rewards(source(folder, head_init=how).load(seed=3).model), abs=1e-6)
