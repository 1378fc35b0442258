from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import save_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from rmx.errors import ConfigError, ModelError
from rmx.models import Adapter, RewardModelSource, check_trainable, head_of, save_artefact
from rmx.models.quiet import quiet

TINY = RewardModelSource(name="tiny")


def lora(**arguments: Any) -> torch.nn.Module:
    with quiet():
        return get_peft_model(TINY.load().model, LoraConfig(**arguments))


def test_good_models_pass() -> None:
    check_trainable(TINY.load().model)
    for kind in ("lora", "rslora", "dora", "pissa"):
        loaded = TINY.load(adapter=Adapter(kind=kind, r=2))
        check_trainable(loaded.model)
        assert head_of(loaded.model).name == "score"
        assert 0 < loaded.trainable_parameters < loaded.parameters / 5


def test_a_frozen_head_is_refused() -> None:
    model = TINY.load().model
    model.score.requires_grad_(False)
    with pytest.raises(ModelError, match="the head score is frozen"):
        check_trainable(model)
    with pytest.raises(ModelError, match="the head score is frozen"):
        check_trainable(TINY.load(trainable=False).model)


def test_lora_without_task_type_is_refused() -> None:
    """peft's own default: the head is random, frozen and not saved."""
    with pytest.raises(ModelError, match="task_type is None: it must be SEQ_CLS"):
        check_trainable(lora(target_modules=["q_proj"]))


def test_lora_on_the_head_is_refused() -> None:
    with pytest.raises(ModelError, match="the adapter targets the head score"):
        check_trainable(lora(target_modules=["q_proj", "score"], task_type=None))


def test_a_head_part_that_is_not_saved_is_refused(tmp_path: Path) -> None:
    """DeBERTa's pooler is random in a base checkpoint: an adapter that leaves it out loses it."""
    source = RewardModelSource(name="d", path=str(save_base("deberta-v2", tmp_path)))
    with quiet():
        model = get_peft_model(
            source.load().model,
            LoraConfig(target_modules=["query_proj"], task_type="SEQ_CLS", modules_to_save=["classifier"]),
        )
    with pytest.raises(ModelError, match="the adapter does not save pooler"):
        check_trainable(model)
    check_trainable(source.load(adapter=Adapter(r=2)).model)


def test_model_without_a_head() -> None:
    from transformers import LlamaModel

    from rmx.models import tiny_config

    with pytest.raises(ModelError, match="LlamaModel has no scalar head"):
        check_trainable(LlamaModel(tiny_config()))


def test_auto_targets_every_linear_layer_of_the_backbone_and_nothing_else(tmp_path: Path) -> None:
    for family, expected in {
        "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        "gpt2": {"c_attn", "c_proj", "c_fc"},
        "gpt_neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
        "modernbert": {"Wqkv", "Wo", "Wi"},
    }.items():
        model = RewardModelSource(name=family, path=str(save_base(family, tmp_path))).load(adapter=Adapter(r=2)).model
        wrapped = {name.split(".")[-2] for name, _ in model.named_modules() if name.endswith(".lora_A")}
        assert wrapped == expected, family
        outside = [name for name, _ in model.named_modules() if "lora_A" in name and ".layers." not in name]
        assert not [name for name in outside if any(part in name for part in (".score", ".head", ".classifier"))]


def test_dropout_is_the_adapters_own() -> None:
    model = TINY.load(adapter=Adapter(r=2, dropout=0.25)).model
    assert model.training
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}


def test_the_same_seed_gives_the_same_adapter() -> None:
    first, second = (TINY.load(adapter=Adapter(r=2), seed=7).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_pissa_starts_where_the_base_is() -> None:
    """W_res + B A = W, so the first reward is the base's, up to float32 rounding."""
    ids = torch.tensor([[5, 6, 7]])
    base = TINY.load(seed=3, trainable=False).model(input_ids=ids).logits.item()
    pissa = TINY.load(adapter=Adapter(kind="pissa", r=4), seed=3).model
    with torch.no_grad():
        assert pissa.eval()(input_ids=ids).logits.item() == pytest.approx(base, abs=1e-5)


def test_pissa_keeps_a_half_precision_base_in_float32(tmp_path: Path) -> None:
    source = RewardModelSource(name="l", path=str(save_base("llama", tmp_path, dtype=torch.bfloat16)))
    assert source.load(adapter=Adapter(kind="pissa", r=2)).dtype == "float32"
    assert source.load(adapter=Adapter(r=2)).dtype == "bfloat16"


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError) as caught:
        Adapter(kind="lroa", r=0, alpha=0, dropout=1.0, target_modules=[], extra={"task_type": "x", "use_dora": True})
    assert str(caught.value).splitlines() == [
        "peft.kind: 'lroa' is not one of lora, rslora, dora, pissa, qlora; did you mean lora?",
        "peft.r: 0 is not an integer from 1 up",
        "peft.alpha: 0 is not a number above 0",
        "peft.dropout: 1.0 is not a number from 0 to below 1",
        "peft.target_modules: [] is not text (not empty) or a list [...] (not empty)",
        "peft.extra.task_type: rmx decides this; drop it",
        "peft.extra.use_dora: rmx decides this; use peft=dora",
    ]
    with pytest.raises(
        ConfigError, match=r"peft.target_modules: 'Wqkv' fits no linear layer; this model has down_proj"
    ):
        TINY.load(adapter=Adapter(target_modules=["q_proj", "Wqkv"]))
    with pytest.raises(ConfigError, match=r"peft.target_modules: 'all-linear' is called auto here"):
        TINY.load(adapter=Adapter(target_modules="all-linear"))
    with pytest.raises(ConfigError, match=r"peft.extra: .*'lora_rank'"):
        TINY.load(adapter=Adapter(extra={"lora_rank": 3}))
    with pytest.raises(ConfigError, match=r"model.freeze_layers: an adapter freezes all layers already"):
        RewardModelSource(name="tiny", freeze_layers=1).load(adapter=Adapter())


def test_a_lost_head_is_found_when_the_adapter_is_opened(tmp_path: Path, template: Any) -> None:
    from safetensors.torch import load_file, save_file

    loaded = TINY.load(adapter=Adapter(r=2))
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={})
    stored = load_file(folder / "adapter_model.safetensors")
    save_file({n: v for n, v in stored.items() if "score" not in n}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="was saved without score: its head is lost"):
        RewardModelSource(name="x", path=str(folder)).load()


def test_a_merged_language_model_adapter_can_be_trained_in_full(tmp_path: Path) -> None:
    """Without an adapter of its own the run trains every weight, in float32: the merged one leaves nothing frozen."""
    base = save_base("llama", tmp_path, dtype=torch.bfloat16)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(base)
        get_peft_model(
            model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
        ).save_pretrained(tmp_path / "adapter")  # fmt: skip
        AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "adapter")
    source = RewardModelSource(name="m", path=str(tmp_path / "adapter"))
    loaded = source.load()
    check_trainable(loaded.model)
    assert loaded.trainable_parameters == loaded.parameters
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert source.load(trainable=False).trainable_parameters == 0
    assert 0 < source.load(adapter=Adapter(kind="lora", r=2)).trainable_parameters < loaded.parameters
