"""A reward model without its weights: every parameter has its shape and dtype, on the meta device, and no memory.

What a plan has to know of a model stands in its config alone, so no weights are read or downloaded. The config is
that of `model.path` where it is at hand; of the models that conf/ names, the public shapes are in shapes.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig

from rmx.errors import ModelError, first_line
from rmx.models.adapters import attach
from rmx.models.build import attention_of, config_of, reward_config
from rmx.models.head import head_parts, in_float32, text_backbone, unwrap
from rmx.models.load import set_trainable
from rmx.models.quantization import Bits, Quantization
from rmx.models.resolve import Resolved, resolve, trust_remote_code
from rmx.models.tensor_files import half_precision, tensors
from rmx.models.tiny import tiny_config

if TYPE_CHECKING:
    from rmx.models.adapters import Adapter
    from rmx.models.source import RewardModelSource

__all__ = ["Blueprint", "Skeleton", "blueprint", "known_shapes", "skeleton"]


@dataclass(frozen=True)
class Blueprint:
    """What is known of a model before its weights are there.

    Attributes:
        config: the reward model's.
        dtype: of the weights as they are loaded (`model.dtype`).
        quantization: of the frozen base's linear layers, if any.
        origin: where the config was found, in words.
    """

    config: PreTrainedConfig
    dtype: torch.dtype
    quantization: Quantization | None
    origin: str


@dataclass(frozen=True)
class Skeleton:
    """A model on the meta device, with its head, its adapter and what of it is trained.

    `quantized` names the linear layers that are loaded in 4 or 8 bits; here they have the shape of plain ones.
    """

    model: Any
    blueprint: Blueprint
    quantized: tuple[str, ...] = ()

    @property
    def packed(self) -> dict[str, Bits]:
        """Name of a quantised layer → its bits."""
        found = self.blueprint.quantization
        return {} if found is None else dict.fromkeys(self.quantized, found.bits)


@cache
def known_shapes() -> dict[str, dict[str, Any]]:
    """Return the shapes that rmx knows by heart: hub id → the entries of its public config.json that decide them.

    >>> known_shapes()["meta-llama/Llama-3.1-8B-Instruct"]["hidden_size"]
    4096
    """
    return json.loads((Path(__file__).parent / "shapes.json").read_text(encoding="utf-8"))


def blueprint(source: RewardModelSource, adapter: Adapter | None) -> Blueprint:
    """Find the config of a model, and how its weights are loaded; neither weights nor a network are needed.

    Args:
        source: what `model=` says.
        adapter: what `peft=` says.

    Raises:
        ModelError: there is no config here, and the model is none of `known_shapes`.
    """
    config, origin, stored = _config(source)
    bits = source.quantization or ("4bit" if adapter is not None and adapter.kind == "qlora" else None)
    if bits is not None and adapter is None:
        raise ModelError(f"model.quantization: {bits} weights cannot be trained themselves; train an adapter")
    if source.dtype != "auto":
        dtype = getattr(torch, source.dtype)
    elif adapter is None or adapter.kind == "pissa":
        dtype = torch.float32
    else:
        dtype = stored
    compute = "bfloat16" if source.dtype == "auto" else source.dtype
    quantization = None if bits in (None, "none") else Quantization(bits, compute)  # type: ignore[arg-type]
    pad = getattr(config.get_text_config(), "pad_token_id", None)
    reward_config(config, 0 if pad is None else pad, keep_dropout=source.dropout)
    return Blueprint(config, dtype, quantization, origin)


def skeleton(plan: Blueprint, source: RewardModelSource, adapter: Adapter | None) -> Skeleton:
    """Build the model that training would start from, on the meta device.

    Raises:
        ModelError: the architecture carries no scalar head, or the config does not fit together.
        ConfigError: the adapter fits no layer of it.
    """
    try:
        with torch.device("meta"):
            model: Any = AutoModelForSequenceClassification.from_config(
                plan.config,
                dtype=plan.dtype,
                attn_implementation=attention_of(replace(source, attn_implementation="auto"), plan.config),
                trust_remote_code=trust_remote_code(),
            )
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        raise ModelError(f"model.path: {plan.origin} cannot be built: {first_line(error)}") from None
    in_float32(model)
    if adapter is not None:
        model, _ = attach(model, _without_decomposition(adapter))
    set_trainable(model, source, True)
    return Skeleton(model, plan, _quantized(model) if plan.quantization is not None else ())


def _without_decomposition(adapter: Adapter) -> Adapter:
    """PiSSA factorises the weights, of which there are none: its adapter has the shape of a LoRA's."""
    return replace(adapter, kind="lora") if adapter.kind == "pissa" else adapter


def _quantized(model: Any) -> tuple[str, ...]:
    """The linear layers of the frozen base that bitsandbytes replaces: all but the head's and the adapter's."""
    backbone = text_backbone(model)
    inside = {id(module) for module in backbone.modules()}
    heads = {id(m) for name in head_parts(model) for m in unwrap(model).get_submodule(name).modules()}
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and id(module) in inside
        and id(module) not in heads
        and "lora_" not in name
    )


# --- The config -------------------------------------------------------------------------------------------------------


def _config(source: RewardModelSource) -> tuple[PreTrainedConfig, str, torch.dtype]:
    """The config, where it is from, and the dtype in which the checkpoint is stored."""
    if source.embedded:
        return tiny_config(), "the embedded model", torch.float32
    path = str(source.path)
    place = _here(path, source.revision)
    if place is None and (shape := known_shapes().get(path)) is not None:
        values = dict(shape)
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        return config, f"the public shape of {path}", _dtype_of(config)
    if place is None:
        try:
            place = resolve(path, source.revision, weights=False)
        except ModelError as error:
            known = ", ".join(sorted(known_shapes()))
            raise ModelError(
                f"{error}. A plan needs the model's config.json alone: a folder that holds it will do (model.path="
                f"FOLDER), and of these models rmx knows the shape without it: {known}"
            ) from None
    if not (place.folder / "config.json").exists():
        raise ModelError(f"model.path: {path} has no config.json; a plan of an adapter is that of its base (peft=lora)")
    config = config_of(place)
    half = half_precision(tensors(place.folder)) if any(place.folder.glob("*.safetensors")) else None
    stored = getattr(torch, half) if half else _dtype_of(config.get_text_config())
    return config, f"config.json of {path}", stored


def _dtype_of(config: PreTrainedConfig) -> torch.dtype:
    """In which dtype the checkpoint is stored, as its config says."""
    said: Any = config.dtype or torch.float32
    return getattr(torch, said) if isinstance(said, str) else said


def _here(path: str, revision: str | None) -> Resolved | None:
    """The folder of a model's config where no network is needed to have it."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(path).expanduser()
    if folder.is_dir():
        return resolve(path, revision, weights=False)
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        return None
    found = try_to_load_from_cache(path, "config.json", revision=revision)
    return Resolved(Path(found).parent, path, Path(found).parent.name) if isinstance(found, str) else None
