"""How many tokens fit into one micro-batch."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, TrainingArguments

__all__ = ["LARGEST", "SMALLEST", "asks_for_checkpointing", "checkpoint_activations", "starting_budget"]

# On a CPU larger micro-batches stop paying. Float32: 1024 tokens take the time of 2048, three quarters of the memory.
# bfloat16: every micro-batch casts the weights anew, and 1024 tokens take up to 10 % longer (3 M and 24 M bodies).
CPU_TOKENS = {"fp32": 1024, "bf16": 2048}
SMALLEST, LARGEST = 1024, 65_536


def checkpoint_activations(model: Any, args: TrainingArguments) -> None:
    """Keep fewer activations, and compute the others again in the backward pass, where `trainer.*` ask for it."""
    new_name = hasattr(model, "activation_checkpointing_enable")  # from transformers 5.2x on; the old name warns
    kind = "activation_checkpointing" if new_name else "gradient_checkpointing"
    if not asks_for_checkpointing(args):
        return
    options = dict(getattr(args, f"{kind}_kwargs") or {})
    own = {name: options.pop(name) for name in ("every_n_layers", "offload") if name in options}
    getattr(model, f"{kind}_enable")(**{f"{kind}_kwargs": options or None}, **own)


def asks_for_checkpointing(args: TrainingArguments) -> bool:
    """Whether `trainer.gradient_checkpointing` is on, under the name that transformers has for it."""
    new_name = hasattr(args, "activation_checkpointing")  # from transformers 5.2x on; the old name warns
    return bool(getattr(args, "activation_checkpointing" if new_name else "gradient_checkpointing"))


def starting_budget(model: PreTrainedModel, device: torch.device, precision: Literal["fp32", "bf16"]) -> int:
    """Return the tokens per micro-batch to start with; running out of memory halves it later.

    On a GPU: 70 % of what is free after gradients and Adam's two moments (12 bytes per trainable parameter),
    divided by the activations that a token keeps for the backward pass. Those are about 34 bytes × hidden per
    layer in 16 bit (Korthikanti et al. 2022, "Reducing activation recomputation", eq. 2, without the
    attention matrix, which flash attention does not keep), and 2 bytes × hidden with gradient checkpointing.
    """
    if device.type != "cuda":
        return CPU_TOKENS[precision]
    free, _ = torch.cuda.mem_get_info(device)
    trained = (p for p in model.parameters() if p.requires_grad)
    trainable = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in trained)  # this process's part
    config = model.config.get_text_config()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    new_name = hasattr(model, "is_activation_checkpointing")  # from transformers 5.2x on; the old name warns
    checkpointing = model.is_activation_checkpointing if new_name else model.is_gradient_checkpointing
    per_token = 34 * hidden + layers * hidden * (2 if checkpointing else 34)
    tokens = int(0.7 * (free - 12 * trainable) / per_token)
    return max(SMALLEST, min(LARGEST, tokens // SMALLEST * SMALLEST))
