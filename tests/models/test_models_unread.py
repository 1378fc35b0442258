"""A model that is read in parts is the model that is read whole, an adapter and its base too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_base
from torch import nn

from rmx.errors import ModelError
from rmx.models import Adapter, RewardModelSource, save_artefact
from rmx.models.loaded import LoadedModel
from rmx.models.unread import ReadWholeError, stored_tensors
from rmx.training.sharded import fill


def artefact(folder: Path, template: Any, family: str = "llama", **adapter: Any) -> Path:
    """A reward model whose adapter does something."""
    base = save_base(family, folder)
    spec = Adapter(r=4, alpha=8.0, **adapter) if adapter else None
    loaded = RewardModelSource(path=str(base)).load(adapter=spec, seed=3)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(5))
    return save_artefact(loaded, folder / "model", template=template, contract={"max_tokens": 64})


def read_in_parts(folder: Path) -> LoadedModel:
    """What a strategy does with a model that it divides, in one process, which gets all of every part."""
    loaded = RewardModelSource(path=str(folder)).load(trainable=False, divided=True, parts_only=True)
    model: nn.Module = loaded.model
    named = (*model.named_parameters(), *model.named_buffers())
    assert loaded.unread.keys() == {name for name, tensor in named if tensor.is_meta}
    here = {name: tensor.detach().clone() for name, tensor in named if not tensor.is_meta}
    model.to_empty(device="cpu")
    fill(model, (*here.items(), *stored_tensors(loaded.unread)))
    return loaded


@pytest.mark.parametrize("adapter", [{}, {"kind": "lora"}, {"kind": "rslora"}, {"kind": "dora"}], ids=str)
def test_the_same_rewards(adapter: dict[str, Any], template: Any, tmp_path: Path) -> None:
    folder = artefact(tmp_path, template, **adapter)
    whole, parts = RewardModelSource(path=str(folder)).load(trainable=False), read_in_parts(folder)
    ids = torch.arange(5, 45).view(2, 20)
    with torch.no_grad():
        assert torch.equal(parts.model(input_ids=ids).logits, whole.model(input_ids=ids).logits)
    layers = 2 * 9 + 2  # two Llama layers, the embedding, the norm
    assert len(parts.unread) == layers + {"": 0, "dora": 2 * 7 * 3}.get(adapter.get("kind", ""), 2 * 7 * 2)


def test_what_would_be_read_whole_is_refused(template: Any, tmp_path: Path) -> None:
    encoder = artefact(tmp_path / "encoder", template, "bert")
    with pytest.raises(ReadWholeError, match="it is an encoder"):
        RewardModelSource(path=str(encoder)).load(trainable=False, divided=True, parts_only=True)
    for key, value, text in (
        ("peft_type", "IA3", r"of another kind than LoRA \(IA3\)"),
        ("init_lora_weights", "pissa", "init_lora_weights=pissa"),
        ("task_type", "CAUSAL_LM", "a language model's adapter is merged into it"),
    ):
        folder = artefact(tmp_path / key, template, kind="lora")
        settings = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(settings | {key: value}))
        with pytest.raises(ReadWholeError, match=text):
            RewardModelSource(path=str(folder)).load(trainable=False, divided=True, parts_only=True)


def test_an_adapter_without_one_of_its_weights_is_refused(template: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = artefact(tmp_path, template, kind="lora")
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_A" in name)
    save_file({key: value for key, value in weights.items() if key != name}, folder / "adapter_model.safetensors")
    with (
        pytest.warns(UserWarning, match="Found missing adapter keys"),
        pytest.raises(ModelError, match=r"the adapter has no .*lora_A"),
    ):
        RewardModelSource(path=str(folder)).load(trainable=False, divided=True)
