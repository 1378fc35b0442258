"""The bytes of each process of a run, part by part, from a model without weights.

What stays is counted by the function that counts it in a running process (`rmx.training.memory_use.held_bytes`), on
a model on the meta device whose parameters have the shapes of the process's own parts and whose optimizer has made
one step there: so weights, gradients and optimizer state are those of the real run to the byte.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from transformers import TrainingArguments

from rmx.errors import ConfigError
from rmx.memory.activations import Activations
from rmx.memory.peak import Parts, copied_bytes, gathered_bytes
from rmx.models import unwrap
from rmx.models.quantization import BLOCK, Bits, Quantization, packed_shape, refuse_divided
from rmx.models.skeleton import Skeleton
from rmx.parallel import MeshSizes
from rmx.training.optimizer_use import held_after_step, step_bytes
from rmx.training.tensor_parallel import layer_styles
from rmx.training.token_budget import checkpointed_every
from rmx.training.zero_memory import bucket_bytes

__all__ = ["divide", "held_by_fullest", "parts_of"]


def parts_of(
    skeleton: Skeleton,
    args: TrainingArguments,
    activations: Activations | str,
    *,
    held: list[int],
    sizes: MeshSizes | None,
    processes: int,
    precision: Literal["fp32", "bf16"],
    checkpointing: bool,
    cpu_offload: bool = False,
    zero: int | None = None,
) -> Parts:
    """Return the bytes of the fullest process.

    Args:
        skeleton: the model; it is left as it is.
        args: the arguments of transformers: which optimizer.
        activations: of one token.
        held: what `held_by_fullest` found for these sizes.
        sizes: the mesh that weights are divided over; None where every process holds them whole.
        processes: how many there are.
        precision: of the backbone's products.
        checkpointing: whether layers are computed again in the backward pass.
        cpu_offload: whether the parts wait in the host's memory.
        zero: stage of DeepSpeed; None where torch divides.

    Raises:
        ConfigError: the division is not possible.
    """
    model, tensor = skeleton.model, 1 if sizes is None else sizes.tensor
    if skeleton.packed and zero:
        raise ConfigError("parallel: DeepSpeed does not divide quantised weights; take parallel=fsdp or ddp")
    weights, gradients, optimizer = held
    gathers = zero == 3 or (sizes is not None and sizes.data > 1)
    buckets = bucket_bytes(model) if zero else gradients if sizes is None and processes > 1 else 0
    one_layer = checkpointing and checkpointed_every(args) == 1  # else others keep their copies
    host = 0
    if cpu_offload:
        host, weights, gradients, optimizer = weights + gradients + optimizer, 0, 0, 0
    return Parts(
        weights=weights,
        quantization=_scales(skeleton),
        gradients=gradients,
        optimizer=optimizer,
        buckets=buckets,
        gathered=gathered_bytes(divide(model, None, skeleton.packed), tensor) if gathers else 0,
        copies=copied_bytes(model, skeleton.quantized, precision, one_layer) // tensor,
        step=0 if cpu_offload else step_bytes(gradients, args),
        per_token=None if isinstance(activations, str) else activations.at_peak,
        host=host,
    )


def held_by_fullest(
    model: Any, args: TrainingArguments, sizes: MeshSizes | None, packed: Mapping[str, Bits] | None = None
) -> list[int]:
    """Return the bytes of weights, gradients and optimizer state of the process that holds most: the first.

    Args:
        model: on the meta device.
        args: the arguments of transformers.
        sizes: the mesh that weights are divided over; None where every process holds them whole.
        packed: bits of its layers that are quantised (`Skeleton.packed`).

    Raises:
        ConfigError: the division is not possible, or the optimizer's state is not known without a device.

    >>> from transformers import TrainingArguments
    >>> layer = torch.nn.Linear(64, 10, device="meta")
    >>> args = TrainingArguments("run", optim="adamw_torch", use_cpu=True, report_to="none")
    >>> held_by_fullest(layer, args, None)  # 650 numbers of 4 bytes; two moments of each, and two step counters
    [2600, 2600, 5208]
    >>> held_by_fullest(layer, args, MeshSizes(replicate=1, shard=4, tensor=1))  # 3 of 10 rows, 3 of 10 biases
    [780, 780, 1568]
    """
    return held_after_step(divide(model, sizes, packed), args)


def divide(model: Any, sizes: MeshSizes | None, packed: Mapping[str, Bits] | None = None) -> Any:
    """Copy a model on the meta device, with its layers packed, and with the shapes of the first process's parts.

    `fully_shard` cuts the first dimension into pieces of ceil(rows / processes); tensor parallelism has divided the
    rows (colwise) or columns (rowwise) of the layers of transformers' plan before.

    Raises:
        ConfigError: the architecture or its adapter cannot be divided by layers, or its packed weights at all.
    """
    part = copy.deepcopy(model)
    for name, bits in (packed or {}).items():
        if sizes is not None:
            refuse_divided(Quantization(bits), sizes.tensor)
        layer = part.get_submodule(name)
        kind = torch.uint8 if bits == "4bit" else torch.int8
        bytes_ = torch.empty(packed_shape(layer.weight, bits), dtype=kind, device="meta")
        layer.weight = nn.Parameter(bytes_, requires_grad=False)
    if sizes is None:
        return part
    divided = _by_tensor(part, sizes.tensor)
    for module in part.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            shape = list(divided.get(id(parameter), parameter.shape))
            if sizes.data > 1 and shape:
                shape[0] = math.ceil(shape[0] / sizes.shard)
            new = nn.Parameter(
                torch.empty(shape, dtype=parameter.dtype, device="meta"), requires_grad=parameter.requires_grad
            )
            setattr(module, name, new)
    return part


def _by_tensor(model: Any, size: int) -> dict[int, list[int]]:
    """The shapes that tensor parallelism leaves of the parameters it divides, by their ids."""
    if size == 1:
        return {}
    shapes: dict[int, list[int]] = {}
    body: nn.Module = unwrap(model).base_model
    for name, kind in layer_styles(model, size).items():
        for part, parameter in body.get_submodule(name).named_parameters(recurse=False):
            dimension = {"colwise": 0, "rowwise": 1}.get(kind)
            if dimension is not None and dimension < parameter.dim() and not (kind == "rowwise" and part == "bias"):
                shape = list(parameter.shape)
                shape[dimension] = math.ceil(shape[dimension] / size)
                shapes[id(parameter)] = shape
    return shapes


def _scales(skeleton: Skeleton) -> int:
    """The bytes of the scales of quantised weights, as bitsandbytes has them; every process holds them whole.

    4 bits: for each 64 weights a scale in one byte, for each 256 scales one in four bytes, and two tables and an offset
    per layer (NF4 with double quantisation). 8 bits: a scale in four bytes for each row.
    """
    modules, scales = dict(skeleton.model.named_modules()), 0
    for name, bits in skeleton.packed.items():
        weight = modules[name].weight
        blocks = math.ceil(weight.numel() / BLOCK)
        scales += blocks + 4 * math.ceil(blocks / 256) + 4 * (16 + 256 + 1) if bits == "4bit" else 4 * weight.shape[0]
    return scales
