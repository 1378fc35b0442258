from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_models import save_base
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from rmx.errors import InputError, OutputError
from rmx.models import (
    Adapter,
    LoadedModel,
    RewardModelSource,
    export_merged,
    export_value_head,
    read_artefact,
    save_artefact,
    verify_artefact,
)
from rmx.models.artefact.export import main
from rmx.models.quiet import quiet

ROWS = [[5, 6, 7, 8, 99], [9, 10, 11, 12, 13, 14, 15, 99], [20, 99]]


def rewards(model: torch.nn.Module) -> list[float]:
    with torch.no_grad():
        return [model.eval()(input_ids=torch.tensor([row])).logits.item() for row in ROWS]


def shaken(loaded: LoadedModel) -> LoadedModel:
    """Move all trainable weights, so that the adapter is not the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return loaded


def llama_factory_rewards(folder: Path, base: Path | None = None) -> list[float]:
    """LLaMA-Factory's rule: causal model, load_valuehead_params, value of the last hidden state at the last token."""
    model: Any = AutoModelForCausalLM.from_pretrained(base or folder)
    if base is not None:
        with quiet():
            model = PeftModel.from_pretrained(model, str(folder))
    params = load_file(folder / "value_head.safetensors")
    summary = torch.nn.Linear(model.config.hidden_size, 1)
    summary.weight.data, summary.bias.data = params["v_head.summary.weight"], params["v_head.summary.bias"]
    found = []
    for row in ROWS:
        with torch.no_grad():
            hidden = model.eval()(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[-1]
            found.append(float(summary(hidden.float())[0, -1, 0]))
    return found


def openrlhf_rewards(folder: Path) -> list[float]:
    """OpenRLHF's rule: the base class of the architecture, a linear layer named by value_head_prefix, no bias."""
    config = AutoConfig.from_pretrained(folder)
    base_class = AutoModel._model_mapping[type(config)]
    pretrained = base_class.__bases__[0]

    class RewardModel(pretrained):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            setattr(self, self.base_model_prefix, base_class(config))
            setattr(self, config.value_head_prefix, torch.nn.Linear(config.hidden_size, 1, bias=False))
            self.post_init()

        def forward(self, row: list[int]) -> float:
            hidden = getattr(self, self.base_model_prefix)(torch.tensor([row])).last_hidden_state
            return float(getattr(self, self.config.value_head_prefix)(hidden)[0, -1, 0])

    assert issubclass(pretrained, PreTrainedModel)
    model, info = RewardModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        return [model.eval()(row) for row in ROWS]


@pytest.mark.parametrize("base", ["tiny", "qwen3", "gpt2"])
def test_full_model_for_llama_factory_and_back(base: str, tmp_path: Path, template: Any) -> None:
    path = None if base == "tiny" else str(save_base(base, tmp_path))
    loaded = shaken(RewardModelSource(name=base, path=path).load(seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={})
    out = export_value_head(folder, tmp_path / "lf")
    head = load_file(out / "value_head.safetensors")
    assert head["v_head.summary.weight"].equal(loaded.head.weight.detach())
    assert head["v_head.summary.bias"].tolist() == [0.0]
    expected = rewards(loaded.model)
    assert llama_factory_rewards(out) == pytest.approx(expected, abs=1e-6)
    again = RewardModelSource(name="lf", path=str(out)).load(trainable=False)
    assert again.head_was_kept and again.base_changed
    assert again.head.weight.equal(loaded.head.weight.detach())
    assert rewards(again.model) == pytest.approx(expected, abs=1e-6)


def test_adapter_for_llama_factory_and_back(tmp_path: Path, template: Any) -> None:
    base = save_base("llama", tmp_path)
    loaded = shaken(RewardModelSource(name="l", path=str(base)).load(adapter=Adapter(r=4), seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={})
    out = export_value_head(folder, tmp_path / "lf")
    assert json.loads((out / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    expected = rewards(loaded.model)
    assert llama_factory_rewards(out, base) == pytest.approx(expected, abs=1e-6)
    again = RewardModelSource(name="lf", path=str(out)).load(trainable=False)
    assert again.head_was_kept
    assert rewards(again.model) == pytest.approx(expected, abs=1e-5)


def test_a_bias_of_llama_factory_only_shifts(tmp_path: Path, template: Any) -> None:
    loaded = shaken(RewardModelSource(name="tiny").load(seed=1))
    out = export_value_head(save_artefact(loaded, tmp_path / "model", template=template, contract={}), tmp_path / "lf")
    head = load_file(out / "value_head.safetensors")
    head["v_head.summary.bias"] = torch.tensor([0.25])
    save_file(head, out / "value_head.safetensors")
    again = RewardModelSource(name="lf", path=str(out)).load(trainable=False)
    assert any("bias 0.2500 is left out" in note for note in again.notes)
    assert [value - 0.25 for value in llama_factory_rewards(out)] == pytest.approx(rewards(again.model), abs=1e-6)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "pissa"])
@pytest.mark.parametrize("base", ["tiny", "llama", "gpt2"])
def test_merged_model_scores_the_same(base: str, kind: str, tmp_path: Path, template: Any) -> None:
    path = None if base == "tiny" else str(save_base(base, tmp_path))
    loaded = shaken(RewardModelSource(name=base, path=path).load(adapter=Adapter(kind=kind, r=4), seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={"max_tokens": 64}, card="# card\n")
    out = export_merged(folder, tmp_path / "model-merged")
    expected = rewards(loaded.model)
    assert rewards(AutoModelForSequenceClassification.from_pretrained(out)) == pytest.approx(expected, abs=1e-4)
    assert verify_artefact(out, ROWS, expected).max_difference < 1e-4
    merged = read_artefact(out)
    assert merged.max_tokens == 64 and merged.contract["model"]["adapter"] is None
    assert merged.loaded.adapter is None and not list(out.glob("adapter*"))
    assert openrlhf_rewards(out) == pytest.approx(expected, abs=1e-4)


def test_half_precision_is_merged_in_float32(tmp_path: Path, template: Any) -> None:
    base = save_base("llama", tmp_path, dtype=torch.bfloat16)
    loaded = shaken(RewardModelSource(name="l", path=str(base)).load(adapter=Adapter(r=4), seed=1))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={})
    out = export_merged(folder, tmp_path / "out")
    stored = load_file(out / "model.safetensors")
    assert stored["score.weight"].dtype == torch.float32
    assert stored["model.norm.weight"].dtype == torch.bfloat16
    assert verify_artefact(out, ROWS, rewards(loaded.model)).tolerance == 0.05


def test_command(tmp_path: Path, template: Any, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = RewardModelSource(name="tiny").load(seed=1)
    save_artefact(loaded, tmp_path / "run" / "model", template=template, contract={})
    assert main([str(tmp_path / "run"), "--format", "llamafactory", str(tmp_path / "lf")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "lf")
    with pytest.raises(OutputError, match="is not empty"):
        main([str(tmp_path / "run"), "--format", "merged", str(tmp_path / "lf")])
    with pytest.raises(InputError):
        main([str(tmp_path / "nothing"), "--format", "merged", str(tmp_path / "x")])
