"""The scalar head: where it is, how it starts, and that it computes in float32.

A `<Arch>ForSequenceClassification` is a backbone and, outside of it, a head. Decoders have one linear layer
`score`; encoders end in `classifier` with a pooling block before it. Everything outside the backbone is trained
and saved with the head, because a base checkpoint brings none of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from rmx.errors import ModelError
from rmx.models.tensor_files import VALUE_HEAD, StoredTensor, read_tensor, tensors

ScoredPosition = Literal["last", "first", "all"]

__all__ = [
    "HEADS",
    "Head",
    "StoredHead",
    "backbone_of",
    "embedding_of",
    "find_head",
    "head_of",
    "head_parts",
    "in_float32",
    "init_head",
    "linear_of",
    "restore_head",
    "text_backbone",
    "unwrap",
]

HEADS = ("score", "classifier")  # the names that transformers gives the head


class Head(NamedTuple):
    """The last linear layer: the name it has in the model, and the module to call."""

    name: str
    module: nn.Module


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The `<Arch>ForSequenceClassification` inside an adapter, DDP or compile wrapper."""
    while not isinstance(model, PreTrainedModel):
        children = dict(model.named_children())
        found = next(
            (children[name] for name in ("module", "_orig_mod", "base_model", "model") if name in children), None
        )
        if found is None:
            raise ModelError(f"{type(model).__name__} is no transformers model with a backbone and a head")
        model = found
    return model


def head_of(model: nn.Module) -> Head:
    """The scalar head of a model, under an adapter too (then the trained copy is what the module calls).

    Raises:
        ModelError: There is no head, or it has more than one output.
    """
    inner = unwrap(model)
    children = dict(inner.named_children())
    for name in HEADS:
        if name in children:
            linear_of(children[name])
            return Head(name, children[name])
    raise ModelError(f"{type(inner).__name__} has no scalar head; its parts are {', '.join(children)}")


def backbone_of(model: nn.Module) -> nn.Module:
    """The transformer below the head: ids in, hidden states out."""
    inner = unwrap(model)
    return getattr(inner, inner.base_model_prefix)


def text_backbone(model: nn.Module) -> nn.Module:
    """The part of the backbone that reads text: all of it, but for models that also have a vision tower."""
    backbone = backbone_of(model)
    return dict(backbone.named_children()).get("language_model", backbone)


def embedding_of(model: nn.Module) -> nn.Embedding:
    """The token embedding."""
    embedding = unwrap(model).get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise ModelError(f"{type(unwrap(model)).__name__} has no plain token embedding: {type(embedding).__name__}")
    return embedding


def head_parts(model: nn.Module) -> list[str]:
    """Names of everything with weights outside the backbone: ["score"], or an encoder's pooling and classifier."""
    inner = unwrap(model)
    parts = [name for name, module in inner.named_children() if name != inner.base_model_prefix]
    if "pooler" in dict(backbone_of(inner).named_children()):  # BERT keeps its pooling inside
        parts.insert(0, f"{inner.base_model_prefix}.pooler")
    return [name for name in parts if any(True for _ in inner.get_submodule(name).parameters())]


def scored_position(model: nn.Module) -> ScoredPosition:
    """Where the reward is read: at the `last` token, at the `first` one (encoders), or over `all` of them."""
    if head_parts(model) == ["score"]:
        return "last"
    return "all" if getattr(unwrap(model).config, "classifier_pooling", "cls") == "mean" else "first"


def init_head(model: nn.Module, how: Literal["normal", "zero"], seed: int) -> None:
    """Draw a new head from its own generator, so that it depends on `seed` and the hidden size alone.

    weight ~ N(0, 1/(H+1)): a hidden state of unit-variance entries gives rewards of variance about 1 (the
    initialisation of OpenRLHF and of Stiennon et al. 2020, appendix B.1). A bias starts at 0: preferences say
    nothing about it, r + b ranks as r does.
    """
    linear = linear_of(head_of(model).module)
    hidden = linear.in_features
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, hidden, generator=generator, dtype=torch.float32) / math.sqrt(hidden + 1)
    with torch.no_grad():
        linear.weight.copy_(weight if how == "normal" else torch.zeros_like(weight))
        if linear.bias is not None:
            linear.bias.zero_()


def in_float32(model: nn.Module) -> None:
    """Keep everything outside the backbone in float32 and feed it float32, whatever the backbone computes in."""
    inner = unwrap(model)
    for name in head_parts(model):
        part = inner.get_submodule(name)
        part.float()
        part.register_forward_pre_hook(_float32_input)


def _float32_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg.float() if isinstance(arg, torch.Tensor) and arg.is_floating_point() else arg for arg in args)


def linear_of(module: nn.Module) -> nn.Linear:
    """The linear layer itself: where an adapter keeps a trained copy of the head, that copy.

    Raises:
        ModelError: There is none with one output.
    """
    if isinstance(module, ModulesToSaveWrapper):
        active = [name for name in module.active_adapters if name in module.modules_to_save]
        module = module.modules_to_save[active[0]] if active else module.original_module
    # RoBERTa's classifier is a small network that ends in out_proj.
    last = [part for part in module.modules() if isinstance(part, nn.Linear)][-1:]
    if not last or last[0].out_features != 1:
        raise ModelError(f"the head does not end in a linear layer with one output: {module}")
    return last[0]


# --- A head that a checkpoint brings ---


@dataclass(frozen=True)
class StoredHead:
    """The last linear layer in a checkpoint, under whatever name it was saved."""

    file: Path
    weight: str
    bias: str | None
    outputs: int
    names: dict[str, StoredTensor] = field(repr=False)


def find_head(folder: Path, stored: dict[str, StoredTensor], config: PreTrainedConfig) -> StoredHead | None:
    """The head in a checkpoint: transformers' name, OpenRLHF's configured one, or LLaMA-Factory's side file."""
    side = tensors(folder, VALUE_HEAD.removesuffix(".safetensors")) if (folder / VALUE_HEAD).exists() else {}
    prefix = vars(config).get("value_head_prefix", "score")
    for names, candidates in ((stored, (*HEADS, "classifier.out_proj", str(prefix))), (side, ("v_head.summary",))):
        for name in candidates:
            if f"{name}.weight" in names:
                found = names[f"{name}.weight"]
                bias = f"{name}.bias" if f"{name}.bias" in names else None
                return StoredHead(found.file, f"{name}.weight", bias, found.shape[0], names)
    return None


def restore_head(model: nn.Module, head: StoredHead) -> list[str]:
    """Put a stored head into the model with the precision it has on disk; returns a sentence for the log.

    Raises:
        ModelError: It is of another width than the model.
    """
    linear = linear_of(head_of(model).module)
    weight = read_tensor(head.names, head.weight).float()
    if weight.shape != linear.weight.shape:
        raise ModelError(
            f"model.path: the head {head.weight} has the shape {tuple(weight.shape)}, the model needs "
            f"{tuple(linear.weight.shape)}; model.head_init=normal draws a new one"
        )
    linear.float()
    notes = [f"the checkpoint is a reward model; its head {head.weight} is kept"]
    with torch.no_grad():
        linear.weight.copy_(weight)
        if head.bias is not None:
            bias = read_tensor(head.names, head.bias).float()
            if linear.bias is not None:
                linear.bias.copy_(bias)
            elif bias.abs().max() > 0:
                notes.append(f"its bias {bias.item():.4f} is left out: all rewards are lower by it, no order changes")
    return notes
