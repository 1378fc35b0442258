"""The bytes of each process of a run, part by part, from a model without weights.

What stays is counted by the function that counts it in a running process (`rmx.training.memory_use.held_bytes`), on
a model on the meta device whose parameters have the shapes of the process's own parts and whose optimizer has made
one step there: so weights, gradients and optimizer state are those of the real run to the byte.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn
from transformers import TrainingArguments

from rmx.errors import ConfigError, first_line
from rmx.models import unwrap
from rmx.models.head import backbone_of
from rmx.models.skeleton import Skeleton
from rmx.parallel import MeshSizes
from rmx.planning.activations import Activations
from rmx.training.memory_use import held_bytes
from rmx.training.optimizers import make_optimizer
from rmx.training.sharded import layers_of

__all__ = ["Parts", "divide", "held_by_fullest", "parts_of"]


@dataclass(frozen=True)
class Parts:
    """Bytes of the fullest process of a run.

    Attributes:
        weights: parameters; in float32 where all are trained, and then they are the optimizer's masters as well.
        quantization: scales of quantised weights.
        gradients: of what is trained.
        optimizer: its state.
        buckets: DistributedDataParallel's copy of the gradients.
        gathered: whole weights of the layers at work, where weights are divided.
        copies: bfloat16 copies of float32 weights, or of quantised ones, that products are computed with.
        step: what the optimizer's step takes for its length.
        per_token: activations of one token; None where they are not known.
        host: bytes in the host's memory (parallel.cpu_offload).
    """

    weights: int
    quantization: int
    gradients: int
    optimizer: int
    buckets: int = 0
    gathered: int = 0
    copies: int = 0
    step: int = 0
    per_token: float | None = None
    host: int = 0

    @property
    def resident(self) -> int:
        """What is there from step to step, gradients counted."""
        return self.weights + self.quantization + self.gradients + self.optimizer + self.buckets

    def peak(self, tokens: int, *, several: bool = True) -> float:
        """Bytes at the fullest moment, with micro-batches of so many tokens.

        Args:
            tokens: of one micro-batch.
            several: whether a step has more than one of them; the first finds no gradients yet.

        >>> parts = Parts(100, 0, 100, 200, copies=50, per_token=2.0)
        >>> parts.peak(100), parts.peak(100, several=False), parts.peak(10, several=False)
        (650.0, 550.0, 400)
        """
        working = self.gathered + self.copies + (self.per_token or 0.0) * tokens
        forward = self.resident + working - (0 if several else self.gradients)
        return max(forward, self.resident + self.gathered, self.resident + self.step)

    def tokens_within(self, memory: float) -> int:
        """How many tokens a micro-batch may have; 0 where not even the rest fits, or it is not known.

        >>> Parts(100, 0, 100, 200, copies=50, per_token=2.0).tokens_within(650)
        100
        """
        left = memory - self.resident - self.gathered - self.copies
        if not self.per_token or left <= 0 or self.resident + self.step > memory:
            return 0
        return int(left / self.per_token)


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

    Raises:
        ConfigError: the division is not possible.
    """
    model, tensor = skeleton.model, 1 if sizes is None else sizes.tensor
    if skeleton.quantized and sizes is not None:
        raise ConfigError("parallel: quantised weights are not divided among processes; take parallel=ddp or peft=lora")
    weights, gradients, optimizer = held
    packed, scales = _quantised(skeleton)
    weights += packed
    gathered = _gathered(model, tensor) if sizes is not None and sizes.data > 1 else 0
    host = 0
    if cpu_offload:
        host, weights, gradients, optimizer = weights + gradients + optimizer, 0, 0, 0
    foreach = args.optim in ("adamw_torch", "adamw_hf") and not cpu_offload
    return Parts(
        weights=weights,
        quantization=scales,
        gradients=gradients,
        optimizer=optimizer,
        buckets=gradients if sizes is None and processes > 1 else 0,
        gathered=gathered,
        copies=_copies(skeleton, precision, checkpointing) // tensor,
        step=gradients if foreach else 0,
        per_token=None if isinstance(activations, str) else activations.at_peak,
        host=host,
    )


def held_by_fullest(model: Any, args: TrainingArguments, sizes: MeshSizes | None) -> list[int]:
    """Return the bytes of weights, gradients and optimizer state of the process that holds most: the first.

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
    part = divide(model, sizes)
    for parameter in part.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    name = str(getattr(args.optim, "value", args.optim))
    # Fused kernels refuse the meta device, and paged state lies wherever there is room: the bytes are the same.
    known = {"adamw_torch_fused": "adamw_torch"}.get(name, name.removeprefix("paged_"))
    try:
        optimizer = make_optimizer(part, dataclasses.replace(args, optim=known))
        optimizer.step()
    except (RuntimeError, NotImplementedError, AttributeError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"trainer.optim={name}: what its state takes is not known without a device ({first_line(error)}); plan "
            "with adamw_torch, adamw_8bit, adafactor or sgd"
        ) from error
    return held_bytes(part, optimizer)


def divide(model: Any, sizes: MeshSizes | None) -> Any:
    """Copy a model on the meta device, with the shapes of the first process's parts.

    `fully_shard` cuts the first dimension into pieces of ceil(rows / processes); tensor parallelism has divided the
    rows (colwise) or columns (rowwise) of the layers of transformers' plan before.

    Raises:
        ConfigError: transformers has no plan for the architecture.
    """
    part = copy.deepcopy(model)
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
    inner = unwrap(model)
    plan: dict[str, str] = getattr(inner.config.get_text_config(), "base_model_tp_plan", None) or {}
    if not plan or inner is not model:
        what = "transformers has no plan for it" if inner is model else "adapters are not divided by layers"
        raise ConfigError(f"parallel.tensor={size}: the model cannot be divided by layers ({what})")
    shapes: dict[int, list[int]] = {}
    for name, module in inner.base_model.named_modules():
        kind = next((kind for pattern, kind in plan.items() if fnmatchcase(name, pattern)), None)
        for part, parameter in module.named_parameters(recurse=False):
            dimension = {"colwise": 0, "rowwise": 1}.get(str(kind))
            if dimension is not None and dimension < parameter.dim() and not (kind == "rowwise" and part == "bias"):
                shape = list(parameter.shape)
                shape[dimension] = math.ceil(shape[dimension] / size)
                shapes[id(parameter)] = shape
    return shapes


def _gathered(model: Any, tensor: int) -> int:
    """What divided weights take when they are whole: the root's all the time, two layers', and a layer's gradient."""
    layers = layers_of(model)
    inside = {id(p) for layer in layers for p in layer.parameters()}
    root = sum(_size(p) for p in model.parameters() if id(p) not in inside)
    layer = max((sum(map(_size, stack.parameters())) for stack in layers), default=0)
    gradient = max((sum(_size(p) for p in stack.parameters() if p.requires_grad) for stack in layers), default=0)
    return root + (2 * layer + gradient) // tensor


def _copies(skeleton: Skeleton, precision: str, checkpointing: bool) -> int:
    """Weights in the dtype that products are computed in, where they are kept in another.

    Without checkpointing autograd keeps them all until the backward pass, with it those of one layer; quantised
    weights are unpacked for each product anew.
    """
    if skeleton.quantized:
        modules = dict(skeleton.model.named_modules())
        return max((2 * modules[name].weight.numel() for name in skeleton.quantized), default=0)
    if precision != "bf16":
        return 0
    model = skeleton.model
    stacks = layers_of(model) if checkpointing else [backbone_of(model)]
    return max((2 * sum(map(_multiplied, stack.modules())) for stack in stacks), default=0)


def _multiplied(module: nn.Module) -> int:
    """Weights of a linear layer in float32."""
    weight = getattr(module, "weight", None) if isinstance(module, nn.Linear) else None
    return weight.numel() if weight is not None and weight.dtype == torch.float32 else 0


def _quantised(skeleton: Skeleton) -> tuple[int, int]:
    """(what packing takes from the weights' bytes, the bytes of the scales): as bitsandbytes packs them.

    4 bits: two weights to a byte; for each 64 weights a scale in one byte, for each 256 scales one in four bytes, and
    two tables and an offset per layer (NF4 with double quantisation). 8 bits: a scale in four bytes for each row.
    """
    modules = dict(skeleton.model.named_modules())
    less = scales = 0
    for name in skeleton.quantized:
        weight = modules[name].weight
        if skeleton.blueprint.quantization is not None and skeleton.blueprint.quantization.bits == "4bit":
            blocks = math.ceil(weight.numel() / 64)
            less += math.ceil(weight.numel() / 2) - _size(weight)
            scales += blocks + 4 * math.ceil(blocks / 256) + 4 * (16 + 256 + 1)
        else:
            less += weight.numel() - _size(weight)
            scales += 4 * weight.shape[0]
    return less, scales


def _size(parameter: torch.Tensor) -> int:
    return parameter.numel() * parameter.element_size()
