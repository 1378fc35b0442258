"""Tensor parallelism: the linear layers of every block divided by columns and rows (Shoeybi et al. 2019, Megatron-LM).

transformers says for each architecture which layers go which way (`config.base_model_tp_plan`); torch does it. Of a
LoRA, the side that the layer divides is divided with it, and every process holds the other one whole:

    by columns   y = W x + B A x     x is whole, y this process's part: so is B's output
    by rows      y = W x + B A x     x is this process's part: A's products are summed, as W's are
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from rmx.errors import ConfigError, ModelError
from rmx.models import unwrap
from rmx.models.quantization import Quantization, refuse_divided

__all__ = ["divide_layers", "layer_styles"]

# A norm inside attention sees the heads of its process only: its gradient is the sum over all of them.
STYLES: dict[str, type[ParallelStyle]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "replicated_with_grad_allreduce": SequenceParallel,
}
LORA_SIDE = {"colwise": "lora_B", "rowwise": "lora_A"}  # is divided as its layer is; the other one is not


def style_of(name: str) -> ParallelStyle:
    """Return what torch does for a name of transformers' plan; every module hands on plain tensors."""
    style = STYLES[name]
    return style(use_local_output=True) if style is SequenceParallel else style()


def layer_styles(model: nn.Module, size: int) -> dict[str, str]:
    """Return which modules `size` processes divide, and how: name inside the body → a name of `STYLES`.

    Raises:
        ConfigError: the architecture has no plan that is known here, its heads do not divide, or an adapter is on it
            that is not known to be right when it is divided.
    """
    inner: Any = unwrap(model)
    config = inner.config.get_text_config()
    plan: dict[str, str] = getattr(config, "base_model_tp_plan", None) or {}
    if not plan or (unknown := sorted(set(plan.values()) - set(STYLES))):
        why = f"its plan has {', '.join(unknown)}" if plan else "transformers has no plan for it"
        raise ConfigError(f"parallel.tensor={size}: {config.model_type} models cannot be divided by layers ({why})")
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, name, None) or size
        if heads % size:
            raise ConfigError(f"parallel.tensor={size}: does not divide the model's {name}={heads}; take a divisor")
    if isinstance(model, PeftModel):
        refuse_adapters(model, size)
    styles: dict[str, str] = {}
    for name, module in inner.base_model.named_modules():
        style = next((style for pattern, style in plan.items() if fnmatchcase(name, pattern)), None)
        if style is not None and isinstance(module, LoraLayer):
            side = LORA_SIDE[style]
            styles[f"{name}.base_layer"] = style
            styles |= {f"{name}.{side}.{adapter}": style for adapter in getattr(module, side)}
        elif style is not None:
            styles[name] = style
    return styles


def refuse_adapters(model: PeftModel, size: int) -> None:
    """Stop where an adapter needs more of a layer than its parts.

    Raises:
        ConfigError: it is none of LoRA's plain forms, draws dropout, or lies on quantised weights.
    """
    otherwise = "take parallel=fsdp, hsdp or ddp"
    if getattr(unwrap(model), "quantization_method", None) is not None:
        refuse_divided(Quantization("4bit"), size)
    for config in model.peft_config.values():
        settings: Any = config
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if kind != "LORA" or settings.use_dora:
            what = "DoRA norms whole columns of a weight" if kind == "LORA" else f"{kind} adapters are not divided"
            raise ConfigError(f"parallel.tensor={size}: {what}; {otherwise}, or peft=lora")
        if settings.lora_dropout:
            raise ConfigError(
                f"parallel.tensor={size}: peft.dropout={settings.lora_dropout} would be drawn alike for different "
                f"columns; set peft.dropout=0, or {otherwise}"
            )
        if settings.bias != "none":
            raise ConfigError(f"parallel.tensor={size}: peft.extra.bias={settings.bias} is not divided; {otherwise}")


def divide_layers(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide the layers of a model among the processes of a one-dimensional mesh, in place.

    Raises:
        ConfigError: see `layer_styles`.
        ModelError: a layer of the plan was not divided.
    """
    size = mesh.size()
    styles = layer_styles(model, size)
    body: nn.Module = unwrap(model).base_model
    frozen = [name for name, parameter in body.named_parameters() if not parameter.requires_grad]
    parallelize_module(body, mesh, {name: style_of(style) for name, style in styles.items()})
    for name in frozen:  # torch makes the weights of a divided norm trainable
        body.get_parameter(name).requires_grad_(False)
    for name in styles:
        for part, parameter in body.get_submodule(name).named_parameters(recurse=False):
            if not isinstance(parameter, DTensor):
                raise ModelError(f"parallel.tensor={size}: {name}.{part} was not divided")
