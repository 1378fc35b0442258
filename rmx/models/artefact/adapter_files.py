"""Writing an adapter: the update and the head, and the base below it where that is nowhere else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from rmx.errors import ModelError
from rmx.models.head import unwrap
from rmx.models.loaded import LoadedModel
from rmx.models.stored import BASE, adapter_names
from rmx.models.streaming import Fetch, save_pretrained
from rmx.models.tiny import TINY

__all__ = ["base_state", "write_adapter"]


def write_adapter(loaded: LoadedModel, staging: Path, final: Path, fetch: Fetch | None = None) -> None:
    """Write adapter_config.json and adapter_model.safetensors, the head among them.

    An adapter is worth what its base is. Where the base is the embedded model, or was changed when it was loaded
    (a merged language-model adapter, a grown embedding), it is written to base/ as well.

    Args:
        loaded: the model, its adapter around it.
        staging: where to.
        final: the name that the folder gets.
        fetch: returns a weight that the model does not have itself, by its name.
    """
    model: Any = loaded.model
    if not isinstance(model, PeftModel):
        raise ModelError(f"{type(model).__name__} carries no adapter")
    settings: Any = copy.deepcopy(model.peft_config["default"])
    state = adapter_state(model, fetch)
    keep_base = loaded.base_changed or loaded.base_path == TINY
    if loaded.initial_adapter is not None:
        if not keep_base:
            state = _without_initial(state, loaded.initial_adapter)
            settings.r *= 2
            settings.lora_alpha *= 2  # the scale alpha / r stays
        settings.init_lora_weights = True  # loading must not take the principal part out of the base again
    settings.base_model_name_or_path = str(final / BASE) if keep_base else loaded.base_path
    settings.revision = None if keep_base else loaded.revision
    settings.inference_mode = True
    settings.save_pretrained(str(staging))
    tensors = {_readable(name): value.detach().cpu().contiguous().clone() for name, value in state.items()}
    save_file(tensors, staging / "adapter_model.safetensors", metadata={"format": "pt"})
    if keep_base:
        _write_base(model, staging / BASE, fetch)


def adapter_state(model: Any, fetch: Fetch | None) -> dict[str, torch.Tensor]:
    """Return what is saved of an adapter, the head with it, by the names that PEFT saves it under."""
    if fetch is None:
        return get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: fetch(inside) for name, inside in adapter_names(model).items()}


def _readable(name: str) -> str:
    """A DoRA magnitude's name with the suffix that both loaders understand.

    peft 0.21 saves `lora_magnitude_vector`, which transformers 5.23's own adapter loading (AutoModel on an adapter
    folder) does not find: the magnitudes stay at their start and every score is wrong, with no error.
    """
    return f"{name}.weight" if name.endswith("lora_magnitude_vector") else name


def base_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights below an adapter, under the names that they have without one."""
    state = model.state_dict()
    return {name: state[inside] for name, inside in base_names(model).items()}


def base_names(model: torch.nn.Module) -> dict[str, str]:
    """Where the weights below an adapter are: the names that they have without one, and with it."""
    inner = unwrap(model)
    prefix = next(f"{name}." if name else "" for name, module in model.named_modules() if module is inner)
    found = {}
    for name in inner.state_dict():
        if ".lora_" in name or ".modules_to_save." in name:
            continue
        found[name.replace(".base_layer.", ".").replace(".original_module.", ".")] = prefix + name
    return found


def _write_base(model: torch.nn.Module, folder: Path, fetch: Fetch | None) -> None:
    inner = unwrap(model)
    with torch.device("meta"):
        plain = type(inner)(inner.config)
    plain.load_state_dict(base_state(model), assign=True)
    if fetch is None:
        plain.save_pretrained(folder)
        return
    plain.tie_weights()  # by the config: without memory, nothing else says which weights are one
    names = base_names(model)
    save_pretrained(plain, folder, lambda name: fetch(names[name]))


def _without_initial(state: dict[str, torch.Tensor], initial: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Turn a PiSSA adapter on the residual base into a LoRA of twice the rank on the original base.

    W = W_res + s B0 A0, and training leads to W_res + s B A = W + s [B | -B0] [A ; A0] (PiSSA, section 3.3).
    """
    joined = {}
    for name, value in state.items():
        if name not in initial:
            joined[name] = value
        elif "lora_A" in name:
            joined[name] = torch.cat([value, initial[name].to(value.device)], dim=0)
        else:
            joined[name] = torch.cat([value, -initial[name].to(value.device)], dim=1)
    return joined
