from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import save_base
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaForSequenceClassification

from rmx.errors import ArtefactError, ModelError, OutputError
from rmx.models import (
    Adapter,
    LoadedModel,
    RewardModelSource,
    check_trainable,
    read_artefact,
    save_artefact,
    verify_artefact,
)

ROWS = [[5, 6, 7, 8, 99], [9, 10, 11, 12, 13, 14, 15, 99], [20, 99], [30, 31, 32, 33, 34, 99]]
KINDS = ["lora", "rslora", "dora", "pissa"]
CONTRACT = {"max_tokens": 64, "truncation": "keep_end", "precision": "fp32"}


def rewards(model: torch.nn.Module, rows: list[list[int]] = ROWS) -> list[float]:
    """One at a time, so that no padding is involved."""
    was, found = model.training, []
    model.eval()
    with torch.no_grad():
        for row in rows:
            found.append(model(input_ids=torch.tensor([row])).logits.item())
    model.train(was)
    return found


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Every weight is the same bit for bit, and so is each reward but for how memory is aligned (1e-7)."""
    one, other = first.state_dict(), second.state_dict()
    assert one.keys() == other.keys()
    close = rewards(first) == pytest.approx(rewards(second), abs=1e-6, rel=1e-6)
    used = [name for name in one if ".original_module." not in name]  # the random head under the trained copy
    return close and all(torch.equal(one[name], other[name]) for name in used)


def train(loaded: LoadedModel, steps: int = 3) -> None:
    """Move every trainable weight, the adapter's zero-initialised half included."""
    optimizer = torch.optim.SGD([p for p in loaded.model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        ids = torch.tensor([ROWS[0], ROWS[3][:5]])
        rewards_2 = loaded.model(input_ids=ids).logits[:, 0]
        torch.nn.functional.softplus(rewards_2[1] - rewards_2[0]).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_full_model_reloads_exactly(tmp_path: Path, template: Any) -> None:
    loaded = RewardModelSource(name="tiny").load(seed=1)
    train(loaded)
    expected = rewards(loaded.model)
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract=CONTRACT, card="# card\n")
    assert same(read_artefact(folder).model, loaded.model)
    assert same(AutoModelForSequenceClassification.from_pretrained(folder), loaded.model)
    assert verify_artefact(folder, ROWS, expected).max_difference < 1e-5
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md", "chat_template.jinja", "config.json", "model.safetensors", "reward_contract.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.get_tensor("score.weight").dtype == torch.float32 and "score.bias" not in list(file.keys())


def test_config_and_contract_say_what_downstream_reads(tmp_path: Path, template: Any) -> None:
    loaded = RewardModelSource(name="tiny").load()
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract=CONTRACT)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "reward"} and config["problem_type"] == "regression"
    assert config["value_head_prefix"] == "score" and config["use_cache"] is False and config["pad_token_id"] == 0
    contract = json.loads((folder / "reward_contract.json").read_text())
    assert contract["template"]["jinja"] == template.jinja and contract["max_tokens"] == 64
    assert contract["tokenization"]["scored_token"] == "<|im_end|>"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False).endswith("b<|im_end|>")
    artefact = read_artefact(tmp_path)  # the run folder will do
    assert artefact.max_tokens == 64 and artefact.contract["template"]["name"] == "chatml"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", ["tiny", "llama", "gpt2", "deberta-v2"])
def test_adapters_reload_exactly(kind: str, base: str, tmp_path: Path, template: Any) -> None:
    """Bit for bit for all kinds but a converted PiSSA, whose base is put together again from two parts."""
    path = None if base == "tiny" else str(save_base(base, tmp_path))
    loaded = RewardModelSource(name=base, path=path).load(adapter=Adapter(kind=kind, r=4, alpha=8), seed=1)
    check_trainable(loaded.model)
    before = rewards(loaded.model)
    train(loaded)
    expected = rewards(loaded.model)
    assert max(abs(a - b) for a, b in zip(before, expected, strict=True)) > 1e-3
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract=CONTRACT)
    again = read_artefact(folder).model
    if kind == "pissa" and base != "tiny":
        assert rewards(again) == pytest.approx(expected, abs=1e-4)
    else:
        assert same(again, loaded.model)
    assert verify_artefact(folder, ROWS, expected).max_difference < 1e-4
    assert (folder / "base").exists() == (base == "tiny")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["task_type"] == "SEQ_CLS" and settings["init_lora_weights"] is True
    stored = load_file(folder / "adapter_model.safetensors")
    assert any(name.endswith((".score.weight", ".classifier.weight")) for name in stored)
    assert {value.dtype for value in stored.values()} == {torch.float32}


def test_adapter_continues_and_is_not_stacked(tmp_path: Path, template: Any) -> None:
    loaded = RewardModelSource(name="tiny").load(adapter=Adapter(r=4), seed=1)
    train(loaded)
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract=CONTRACT)
    source = RewardModelSource(name="again", path=str(folder))
    again = source.load()
    check_trainable(again.model)
    assert again.trainable_parameters == loaded.trainable_parameters
    assert again.adapter is not None and (again.adapter.kind, again.adapter.r, again.adapter.alpha) == ("lora", 4, 32.0)
    assert same(again.model, loaded.model)
    with pytest.raises(ModelError, match="is an adapter already"):
        source.load(adapter=Adapter(r=4))


def test_an_artefact_saved_again_is_the_same(tmp_path: Path, template: Any) -> None:
    """Evaluation of a finished run writes model/ too: adapter, base and head survive the second writing."""
    loaded = RewardModelSource(name="tiny").load(adapter=Adapter(r=4), seed=1)
    train(loaded)
    first = save_artefact(loaded, tmp_path / "a", template=template, contract=CONTRACT)
    again = read_artefact(first)
    second = save_artefact(again.loaded, tmp_path / "b", template=template, contract=CONTRACT)
    assert same(read_artefact(second).model, loaded.model)


def test_half_precision_base_under_an_adapter(tmp_path: Path, template: Any) -> None:
    folder = save_base("llama", tmp_path, dtype=torch.bfloat16)
    loaded = RewardModelSource(name="l", path=str(folder)).load(adapter=Adapter(r=4), seed=1)
    assert loaded.dtype == "bfloat16" and loaded.head.weight.dtype == torch.float32
    train(loaded)
    expected = rewards(loaded.model)
    saved = save_artefact(loaded, tmp_path / "model", template=template, contract=CONTRACT)
    assert same(read_artefact(saved).model, loaded.model)
    assert verify_artefact(saved, ROWS, expected).tolerance == 0.05


def test_half_precision_model_keeps_a_float32_head(tmp_path: Path, template: Any) -> None:
    loaded = RewardModelSource(name="tiny", dtype="bfloat16").load(seed=1)
    train(loaded)
    expected = rewards(loaded.model)
    saved = save_artefact(loaded, tmp_path / "model", template=template, contract=CONTRACT)
    with safe_open(saved / "model.safetensors", "pt") as file:
        assert file.get_tensor("score.weight").dtype == torch.float32
        assert file.get_tensor("model.norm.weight").dtype == torch.bfloat16
    assert same(read_artefact(saved).model, loaded.model)
    checked = verify_artefact(saved, ROWS, expected)
    assert (checked.dtype, checked.tolerance) == ("float32", 0.05)


def test_verify_finds_a_wrong_head_and_a_wrong_weight(tmp_path: Path, template: Any) -> None:
    loaded = RewardModelSource(name="tiny").load(seed=1)
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract=CONTRACT)
    expected = rewards(loaded.model)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.01
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtefactError, match="where the run scored"):
        verify_artefact(folder, ROWS, expected)
    tensors["score.weight"] = tensors["score.weight"] + 1e-6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtefactError, match="the head on disk is not the trained one"):
        verify_artefact(folder, ROWS, expected)
    with pytest.raises(ModelError, match="weights and contract come from two models"):
        read_artefact(folder)
    with pytest.raises(ArtefactError, match="where the run scored nan"):
        verify_artefact(save_artefact(loaded, folder, template=template, contract={}), ROWS[:1], [float("nan")])


def test_saving_replaces_a_whole_folder_or_nothing(tmp_path: Path, template: Any) -> None:
    loaded = RewardModelSource(name="tiny").load(seed=1)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "stale.bin").write_text("old")
    save_artefact(loaded, folder, template=template, contract=CONTRACT)
    assert not (folder / "stale.bin").exists()
    kept = (folder / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(ValueError, match="JSON compliant"):
        save_artefact(loaded, folder, template=template, contract={"reward_mean": float("nan")})
    assert (folder / "model.safetensors").stat().st_mtime_ns == kept
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(OutputError, match=r"output_dir: .* cannot be written"):
        save_artefact(loaded, blocker / "model", template=template, contract=CONTRACT)


def test_base_model_is_no_artefact(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no trained scalar head"):
        read_artefact(save_base("llama", tmp_path))


def test_the_check_counts_its_tokens(tmp_path: Path, template: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 8, 6, 5 and 2 tokens in batches of at most 12 positions: 8; 6 and 5, padded to 6; 2; then one alone."""
    loaded = RewardModelSource(name="tiny").load(seed=1)
    expected = rewards(loaded.model)
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract=CONTRACT)
    shapes: list[tuple[int, ...]] = []
    forward = LlamaForSequenceClassification.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForSequenceClassification, "forward", counted)
    assert verify_artefact(folder, ROWS, expected, max_tokens_per_batch=12).max_difference < 1e-5
    assert shapes == [(1, 8), (2, 6), (1, 2), (1, 5)]
