"""Checkpoints that try to run code, or are damaged: refused with one message, and nothing runs."""

from __future__ import annotations

import builtins
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_base

from rmx.errors import ModelError
from rmx.models import RewardModelSource


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


@pytest.fixture(autouse=True)
def no_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError("a prompt on stdin")

    monkeypatch.setattr(builtins, "input", refuse)


def load(folder: Path, **knobs: Any) -> None:
    RewardModelSource(name="x", path=str(folder), **knobs).load()


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("model_type", ["llama", "of_my_own"])
def test_code_in_a_checkpoint_does_not_run(model_type: str, tmp_path: Path) -> None:
    folder, marker = save_base("llama", tmp_path), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass C: pass\n")
    names = {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.C", "AutoTokenizer": ["evil.C", None]}
    edit_config(folder, auto_map=names, model_type=model_type)
    if model_type == "llama":
        load(folder)  # transformers has this class itself
    else:
        with pytest.raises(ModelError, match=r"brings its own code, which is not run.*--trust-remote-code"):
            load(folder)
    assert not marker.exists()


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    folder, marker = save_base("llama", tmp_path), tmp_path / "ran"
    for file in folder.glob("*.safetensors"):
        file.unlink()
    for name in ("pytorch_model.bin", "value_head.bin", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ModelError, match=r"has no \*\.safetensors \(only pytorch_model.bin, training_args.bin"):
        load(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load(folder)
    assert not marker.exists()


def test_damaged_files(tmp_path: Path) -> None:
    folder = save_base("llama", tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load(folder)
    (folder / "model.safetensors").write_bytes(whole)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing \(model.layers.1.mlp.up_proj.weight\)"):
        load(folder)
    (folder / "model.safetensors").write_bytes(whole)
    edit_config(folder, intermediate_size=40)
    with pytest.raises(ModelError, match=r"weights have another shape \(model.layers.0.mlp.down_proj.weight"):
        load(folder)
    (folder / "config.json").write_text("{not json")
    with pytest.raises(ModelError, match=r"the config of .* cannot be used"):
        load(folder)


def test_an_index_cannot_point_elsewhere(tmp_path: Path) -> None:
    folder = save_base("llama", tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="which is not in"):
        load(folder)


def test_missing_tokenizer(tmp_path: Path) -> None:
    folder = save_base("llama", tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"no tokenizer can be loaded from .* give one with model.tokenizer_path"):
        load(folder)
    other = save_base("llama", tmp_path / "other")
    load(folder, tokenizer_path=str(other))


def test_a_kept_head_must_be_whole(tmp_path: Path) -> None:
    """OpenRLHF names its head in the config; a head of another width is refused."""
    folder = save_base("llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    head = torch.arange(32.0).reshape(1, 32)
    edit_config(folder, value_head_prefix="value_head")
    save_file({**weights, "value_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = RewardModelSource(name="x", path=str(folder)).load()
    assert loaded.head_was_kept and loaded.head.weight.equal(head)
    save_file({**weights, "score.weight": head[:, :16]}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model.path"):
        load(folder)
