"""How many tokens fit into one micro-batch."""

from __future__ import annotations

import logging
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments

from rmx.engine import Engine
from rmx.errors import ConfigError
from rmx.files import readable_bytes
from rmx.memory import HEADROOM
from rmx.memory.activations import ActivationCounter, Activations, routes
from rmx.memory.peak import Parts, copied_bytes, gathered_bytes
from rmx.models.adapters import QUANTIZED_LINEARS
from rmx.training.memory_use import bytes_of
from rmx.training.optimizer_use import held_after_step, step_bytes
from rmx.training.zero_memory import bucket_bytes, held_by_zero

__all__ = [
    "LARGEST",
    "SMALLEST",
    "asks_for_checkpointing",
    "budget_within",
    "checkpoint_activations",
    "checkpointed_every",
    "guessed_bytes",
    "process_parts",
    "starting_budget",
    "token_bytes",
]

log = logging.getLogger(__name__)

# On a CPU larger micro-batches stop paying. Float32: 1024 tokens take the time of 2048, three quarters of the memory.
# bfloat16: every micro-batch casts the weights anew, and 1024 tokens take up to 10 % longer (3 M and 24 M bodies).
CPU_TOKENS = {"fp32": 1024, "bf16": 2048}
SMALLEST, LARGEST = 1024, 65_536
GUESSED, GUESSED_MIXTURE = 200, 300  # bytes per token, layer and unit of the hidden size


def checkpoint_activations(model: Any, args: TrainingArguments) -> None:
    """Keep fewer activations, and compute the others again in the backward pass, where `trainer.*` ask for it."""
    new_name = hasattr(model, "activation_checkpointing_enable")  # from transformers 5.2x on; the old name warns
    kind = "activation_checkpointing" if new_name else "gradient_checkpointing"
    if not asks_for_checkpointing(args):
        return
    options = _checkpointing_options(args)
    own = {name: options.pop(name) for name in ("every_n_layers", "offload") if name in options}
    getattr(model, f"{kind}_enable")(**{f"{kind}_kwargs": options or None}, **own)


def asks_for_checkpointing(args: TrainingArguments) -> bool:
    """Whether `trainer.gradient_checkpointing` is on, under the name that transformers has for it."""
    new_name = hasattr(args, "activation_checkpointing")  # from transformers 5.2x on; the old name warns
    return bool(getattr(args, "activation_checkpointing" if new_name else "gradient_checkpointing"))


def checkpointed_every(args: TrainingArguments) -> int:
    """Of how many layers one is computed again (`every_n_layers`); 1 too where checkpointing is not asked for."""
    return int(_checkpointing_options(args).get("every_n_layers", 1)) if asks_for_checkpointing(args) else 1


def _checkpointing_options(args: TrainingArguments) -> dict[str, Any]:
    new_name = hasattr(args, "activation_checkpointing")  # as above
    return dict(getattr(args, "activation_checkpointing_kwargs" if new_name else "gradient_checkpointing_kwargs") or {})


def starting_budget(engine: Engine, args: TrainingArguments) -> int:
    """Return the tokens per micro-batch to start with; running out of memory halves it later.

    On a CPU it is fixed. On a GPU it is what fits beside weights, gradients and optimizer state into what is free, with
    `rmx.memory.HEADROOM` of it left alone; of each process by itself. A token takes what `ActivationCounter` counts
    for the model's class, and a high guess where that is not known. The random state stays as it is.

    Args:
        engine: the model as it is trained; its weights may still be on the way to the device.
        args: the arguments of transformers: device, optimizer, number of processes.
    """
    if args.device.type != "cuda":
        return CPU_TOKENS[engine.precision]
    activations = token_bytes(engine, args)
    parts = process_parts(engine, args, activations)
    torch.cuda.empty_cache()  # what earlier work has given back counts as free
    free, _ = torch.cuda.mem_get_info(args.device)
    here = bytes_of(p for p in engine.wrapper.parameters() if p.device.type == "cuda")
    tokens = budget_within(parts, (1 - HEADROOM) * (free + here))
    log.info(
        "trainer.max_tokens_per_micro_batch: auto is %d tokens: %s are free, of which %s go to gradients, optimizer "
        "and working copies; a token takes %s (%s)",
        tokens,
        readable_bytes(free),
        readable_bytes(parts.resident - parts.weights + parts.gathered + parts.copies),
        readable_bytes(int(parts.per_token or 0)),
        f"a high guess, because {activations}" if isinstance(activations, str) else "counted for this model",
    )
    return tokens


def budget_within(parts: Parts, memory: float) -> int:
    """Return the whole thousands (1024) of tokens that fit into so many bytes, from `SMALLEST` to `LARGEST`.

    >>> parts = Parts(weights=100_000, quantization=0, gradients=100_000, optimizer=200_000, per_token=50.0)
    >>> budget_within(parts, 600_000), budget_within(parts, 390_000), budget_within(parts, 1e9)  # 4000 tokens fit
    (3072, 1024, 65536)
    """
    return max(SMALLEST, min(LARGEST, parts.tokens_within(memory) // SMALLEST * SMALLEST))


def token_bytes(engine: Engine, args: TrainingArguments) -> Activations | str:
    """Return the bytes of a token in this model, or in half a sentence why they are not known."""
    if engine.encoding == "padded":
        return f"it runs on padded rows ({engine.reason})"
    model: Any = engine.wrapper
    adapters = list(model.peft_config.values()) if isinstance(model, PeftModel) else [None]
    if len(adapters) > 1:
        return "it has several adapters"
    counter = ActivationCounter(engine.model.config, engine.model.dtype, adapters[0], engine.precision)
    return counter.of(
        checkpointing=asks_for_checkpointing(args),
        every_n_layers=checkpointed_every(args),
        tensor=_mesh_size(model, "tensor"),
    )


def process_parts(engine: Engine, args: TrainingArguments, activations: Activations | str) -> Parts:
    """Return the bytes of this process, as `rmx.planning` has them of a model without weights.

    Args:
        engine: the model, whole or divided.
        args: the arguments of transformers.
        activations: of one token; a string where they are not known.
    """
    model = engine.wrapper
    divided = any(isinstance(p, DTensor) for p in model.parameters())
    offloaded = divided and all(p.device.type == "cpu" for p in model.parameters()) and args.device.type != "cpu"
    tensor, again = _mesh_size(model, "tensor"), asks_for_checkpointing(args)
    zero = any(hasattr(p, "ds_shape") for p in model.parameters())  # DeepSpeed has divided the weights
    held = held_by_zero(model, args, 3, args.world_size) if zero else _held(model, args)
    weights, gradients, optimizer = (0, 0, 0) if offloaded else held
    quantized = [name for name, module in model.named_modules() if type(module).__name__ in QUANTIZED_LINEARS]
    one_layer = again and checkpointed_every(args) == 1
    gathers = divided and max(_mesh_size(model, "shard"), _mesh_size(model, "replicate")) > 1
    return Parts(
        weights=weights,
        quantization=0,  # scales lie on the device since the weights were read: they are not free
        gradients=gradients,
        optimizer=optimizer,
        buckets=bucket_bytes(model) if zero else gradients if args.world_size > 1 and not divided else 0,
        gathered=gathered_bytes(model, tensor) if gathers or zero else 0,
        copies=copied_bytes(model, quantized, engine.precision, one_layer) // tensor,
        step=0 if offloaded else step_bytes(gradients, args),
        per_token=guessed_bytes(engine, one_layer) if isinstance(activations, str) else activations.at_peak,
    )


def guessed_bytes(engine: Engine, checkpointing: bool) -> float:
    """Return bytes per token that are more than any model of a class takes whose bytes are not known.

    Counted of small models in float32, per layer and unit of the hidden size: BERT 64, ModernBERT 89, DeBERTa 160
    (and its attention matrices); mixtures of experts 166 (Mixtral) to 281 (gpt-oss). With checkpointing a layer keeps
    its input in float32, and one of them all the rest.
    """
    text = engine.model.config.get_text_config()
    layer = text.hidden_size * (GUESSED_MIXTURE if routes(text) else GUESSED)
    layers = text.num_hidden_layers
    return float(layers * 4 * text.hidden_size + layer if checkpointing else (layers + 1) * layer)


def _held(model: Any, args: TrainingArguments) -> list[int]:
    """Bytes of weights, gradients and optimizer state; of Adam's two moments where the optimizer's are not known."""
    locals_ = [(p.to_local() if isinstance(p, DTensor) else p, p.requires_grad) for p in model.parameters()]
    part = nn.ParameterList(
        nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"), requires_grad=trained)
        for p, trained in locals_
    )
    try:
        return held_after_step(part, args)
    except ConfigError:
        gradients = bytes_of(p for p, trained in locals_ if trained)
        return [bytes_of(p for p, _ in locals_), gradients, 8 * sum(p.numel() for p, trained in locals_ if trained)]


def _mesh_size(model: nn.Module, dimension: str) -> int:
    """Processes along a dimension of the mesh that the weights are divided over; 1 where it has none of the name."""
    meshes = (p.device_mesh for p in model.parameters() if isinstance(p, DTensor))
    named = (dict(zip(mesh.mesh_dim_names or (), mesh.shape, strict=False)) for mesh in meshes)
    return max((sizes.get(dimension, 1) for sizes in named), default=1)
