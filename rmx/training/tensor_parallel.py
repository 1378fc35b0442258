"""Tensor parallelism: the linear layers of every block divided by columns and rows (Shoeybi et al. 2019, Megatron-LM).

transformers says for each architecture which layers go which way (`config.base_model_tp_plan`); torch does it.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, cast

from peft import PeftModel
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

__all__ = ["divide_layers", "division_plan"]

# A norm inside attention sees the heads of its process only: its gradient is the sum over all of them.
STYLES: dict[str, type[ParallelStyle]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "replicated_with_grad_allreduce": SequenceParallel,
}


def style_of(name: str) -> ParallelStyle:
    """Return what torch does for a name of transformers' plan; every module hands on plain tensors."""
    style = STYLES[name]
    return style(use_local_output=True) if style is SequenceParallel else style()


def divide_layers(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide the layers of a model among the processes of a one-dimensional mesh, in place.

    Raises:
        ConfigError: the architecture has no plan that is known here, its heads do not divide, or an adapter is on it.
        ModelError: a layer of the plan was not divided.
    """
    size, inner = mesh.size(), cast(Any, unwrap(model))
    plan = division_plan(model, size)
    body = inner.base_model
    parallelize_module(body, mesh, {pattern: style_of(style) for pattern, style in plan.items()})
    for name, module in body.named_modules():
        if any(fnmatchcase(name, pattern) for pattern in plan):
            for part, parameter in module.named_parameters(recurse=False):
                if not isinstance(parameter, DTensor):
                    raise ModelError(f"parallel.tensor={size}: {name}.{part} was not divided")


def division_plan(model: nn.Module, size: int) -> dict[str, str]:
    """Return the architecture's plan, pattern of modules → style, where `size` processes can share its layers.

    Raises:
        ConfigError: the architecture has no plan that is known here, its heads do not divide, or an adapter is on it.
    """
    if isinstance(model, PeftModel):
        raise ConfigError(f"parallel.tensor={size}: adapters are trained with parallel=fsdp, hsdp or ddp only")
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
    return plan
