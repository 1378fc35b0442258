"""Exporters: the layouts that other trainers load, each from a finished artefact; more in openrlhf.py and int8.py.

llamafactory   a causal model (or its adapter) and value_head.safetensors, for LLaMA-Factory's PPO
merged         <Arch>ForSequenceClassification with the adapter merged in: TRL, OpenRLHF, vLLM, RewardBench
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from rmx.errors import ModelError, OutputError
from rmx.files import new_folder, writing
from rmx.models.artefact.save import CONTRACT, Artefact, head_hash, read_artefact
from rmx.models.head import head_of, linear_of, unwrap
from rmx.models.quiet import quiet
from rmx.models.source import RewardModelSource
from rmx.models.stored import BASE
from rmx.models.tensor_files import VALUE_HEAD, json_object

__all__ = ["export_merged", "export_value_head", "merge", "new_export"]


def export_value_head(folder: str | Path, out: str | Path) -> Path:
    """Write the layout of LLaMA-Factory: backbone files that `AutoModelForCausalLM` loads, and the head beside.

    value_head.safetensors holds `v_head.summary.weight` [1, H] and `v_head.summary.bias` [1], which is 0: both keys
    are read. The language-model head, which a reward model has none of, is tied to the embedding. An adapter stays
    one, with the task type of LLaMA-Factory's own adapters (`reward_model_type: lora`).

    Raises:
        ModelError: The folder is no artefact, or an encoder, which LLaMA-Factory cannot load.
        OutputError: `out` exists and is not empty.
    """
    out = free_folder(out)
    artefact = read_artefact(folder)
    if artefact.loaded.is_encoder:
        raise ModelError(f"{folder} is an encoder: LLaMA-Factory's value head needs a causal language model")
    adapter_stands_alone = (artefact.folder / "adapter_config.json").exists() and not (artefact.folder / BASE).exists()
    with new_export(out) as made, quiet():
        if adapter_stands_alone:
            _write_adapter(artefact.folder, made)
        else:
            _write_causal(artefact, made)
        artefact.tokenizer.save_pretrained(made)
        weight = linear_of(head_of(artefact.model).module).weight.detach().float().cpu().contiguous()
        save_file(
            {"v_head.summary.weight": weight, "v_head.summary.bias": torch.zeros(1)},
            made / VALUE_HEAD,
            metadata={"format": "pt"},
        )
    return out


def export_merged(folder: str | Path, out: str | Path) -> Path:
    """Write the artefact with its adapter merged into the weights; the contract goes with it.

    Raises:
        ModelError: The folder is no artefact.
        OutputError: `out` exists and is not empty.
    """
    folder, out = Path(folder), free_folder(out)
    artefact = read_artefact(folder)
    model = _merged_as_stored(artefact)
    with new_export(out) as made:
        with quiet():
            model.save_pretrained(made)
            artefact.tokenizer.save_pretrained(made)
        if artefact.contract:
            text = json.dumps(_merged_contract(artefact, model), indent=2, ensure_ascii=False, allow_nan=False)
            (made / CONTRACT).write_text(text + "\n", encoding="utf-8")
        card = artefact.folder / "README.md"
        if card.exists():
            text = card.read_text(encoding="utf-8")
            text = text.replace("\nlibrary_name: peft\n", "\nlibrary_name: transformers\n", 1)
            (made / "README.md").write_text(text, encoding="utf-8")
    return out


def _merged_as_stored(artefact: Artefact) -> PreTrainedModel:
    """The model with its adapter merged, its backbone in the precision that the base is stored in."""
    half = artefact.loaded.dtype
    quantized = artefact.loaded.quantization is not None
    if (quantized or half != "float32") and (artefact.folder / "adapter_config.json").exists():
        # Merging in half precision rounds twice: merge in float32, then round to what the base is stored in.
        source = RewardModelSource(name="merge", path=str(artefact.folder), dtype="float32", quantization="none")
        artefact = Artefact(artefact.folder, source.load(trainable=False), artefact.contract)
    model = merge(artefact.model)
    if half != "float32":
        parts = [child for name, child in model.named_children() if name == model.base_model_prefix]
        parts[0].to(getattr(torch, half))
        model.config.dtype = getattr(torch, half)
    return model


def _merged_contract(artefact: Artefact, model: PreTrainedModel) -> dict[str, Any]:
    """The contract of the merged model: another head file, no adapter."""
    contract = dict(artefact.contract)
    contract["head"] = {**contract.get("head", {}), "sha256": head_hash(model)}
    changed = {"adapter": None, "quantization": None, "merged_from": str(artefact.folder)}
    contract["model"] = {**contract.get("model", {}), **changed}
    return contract


def merge(model: Any) -> PreTrainedModel:
    """Merge an adapter into the weights, in place; a model without one is returned as it is."""
    from peft import PeftModel

    merged = model.merge_and_unload() if isinstance(model, PeftModel) else model
    inner = unwrap(merged)
    inner._hf_peft_config_loaded = False  # otherwise save_pretrained looks for the adapter that is gone
    return inner


# --- LLaMA-Factory ---


def _write_causal(artefact: Artefact, out: Path) -> None:
    model = merge(artefact.model)
    config = model.config
    causal_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if causal_class is None:
        raise ModelError(f"transformers has no causal language model for {config.model_type}")
    config.get_text_config().tie_word_embeddings = True
    config.tie_word_embeddings = True
    for name in ("id2label", "label2id", "problem_type", "num_labels"):
        vars(config).pop(name, None)
    with torch.device("meta"):
        causal = causal_class(config)
    backbone = {
        name: value for name, value in model.state_dict().items() if name.startswith(f"{model.base_model_prefix}.")
    }
    causal.load_state_dict(backbone, strict=False, assign=True)
    causal.tie_weights()
    left = [name for name, value in causal.state_dict().items() if value.is_meta]
    if left:
        raise ModelError(f"the causal language model of {config.model_type} has other weights: {', '.join(left[:3])}")
    causal.save_pretrained(out)


def _write_adapter(folder: Path, out: Path) -> None:
    settings = json_object(folder / "adapter_config.json")
    settings.update(task_type="CAUSAL_LM", modules_to_save=None, exclude_modules=None)
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    stored = load_file(folder / "adapter_model.safetensors")
    update = {name: value for name, value in stored.items() if ".lora_" in name}
    save_file(update, out / "adapter_model.safetensors", metadata={"format": "pt"})


def free_folder(out: str | Path) -> Path:
    """Return the path of an export, which is free; nothing is made, so that a model that is refused leaves nothing.

    Raises:
        OutputError: there is a file, or a folder that is not empty or cannot be read.
    """
    out = Path(out)
    try:
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out} is a file; give a new folder")
        if out.exists() and any(out.iterdir()):
            raise OutputError(f"{out} is not empty; give a new folder")
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from None
    return out


@contextmanager
def new_export(out: str | Path) -> Iterator[Path]:
    """Yield a folder to write an export into; it becomes `out` when the block ends without an error.

    A failure, also of what the block measures after writing, leaves nothing at `out` and nothing beside it.

    Raises:
        OutputError: `out` is not empty, or cannot be written.
    """
    out = free_folder(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(writing(out))
            yield stack.enter_context(new_folder(out))
    except PermissionError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from None
