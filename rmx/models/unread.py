"""A model whose weights are still in its files: built on the meta device, for processes that each read their part.

    transformers builds it without memory     names, shapes and types; buffers and the scalar head are real
    a strategy divides it                     (`rmx.training.sharded`)
    every process copies its part             tensor by tensor, mapped from the file

No process and no host holds the whole. It works where the names in the files are the names in memory; transformers
converts some architectures on the way in (fused experts, old names), and those are read whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from rmx.errors import ModelError
from rmx.models.head import head_parts
from rmx.models.quantization import Quantization, is_packed, prepare_packed
from rmx.models.tensor_files import StoredTensor

__all__ = ["ReadWholeError", "Unread", "build_unread", "in_model", "stored_tensors"]


class ReadWholeError(ModelError):
    """A model's weights would have to be read whole where that was not wanted; half a sentence on why."""


class Unread(NamedTuple):
    """Where a weight lies."""

    file: Path
    name: str  # in the file
    dtype: torch.dtype | None = None  # it is read in; a weight that is quantised then is unpacked to it


def build_unread(
    config: PreTrainedConfig,
    stored: Mapping[str, StoredTensor],
    *,
    attention: str,
    dtype: torch.dtype,
    remote: bool,
    quantization: Quantization | None = None,
) -> tuple[PreTrainedModel, list[tuple[nn.Parameter, Unread]]] | str:
    """Build a `<Arch>ForSequenceClassification` without reading its weights.

    Args:
        config: of a reward model (`reward_config`).
        stored: the tensors of the checkpoint's files.
        attention: name of the attention implementation.
        dtype: of the weights once they are read.
        remote: whether code of the checkpoint may run.
        quantization: of its linear layers, while they are read.

    Returns:
        the model, its head on the CPU and not drawn yet, and where each other weight is stored; or, as half a
        sentence, the reason why its weights have to be read whole.
    """
    with init_empty_weights(include_buffers=False):
        model = AutoModelForSequenceClassification.from_config(
            config, attn_implementation=attention, dtype=dtype, trust_remote_code=remote
        )
    if head_parts(model) != ["score"]:
        return "it is an encoder, whose pooling is drawn when it is read"
    model.score.to_empty(device="cpu")
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if quantization is not None and (why := prepare_packed(model, quantization)) is not None:
        return why
    found = []
    for name, parameter in model.named_parameters():
        if not parameter.is_meta:
            continue
        there = name if name in stored else name.removeprefix(f"{model.base_model_prefix}.")  # of a bare backbone
        if there not in stored:
            return f"its files do not have {name} under this name"
        if stored[there].shape != shapes[name]:
            return f"its files have {name} in another shape"
        found.append((parameter, Unread(stored[there].file, there, dtype if is_packed(parameter) else None)))
    if other := [name for name, buffer in model.named_buffers() if buffer.is_meta]:
        return f"it computes {other[0]} when it is read"
    return model, found


def stored_tensors(unread: Mapping[str, Unread]) -> Iterator[tuple[str, Tensor]]:
    """Yield (name in the model, tensor), each mapped from the disk.

    A file is opened for every tensor anew: what of a mapping was read counts as the process's memory until its end.
    """
    for name, where in sorted(unread.items(), key=lambda item: item[1][:2]):
        with safe_open(where.file, framework="pt") as stored:
            tensor = stored.get_tensor(where.name)
            yield name, tensor if where.dtype is None else tensor.to(where.dtype)


def in_model(model: nn.Module, unread: Iterable[tuple[nn.Parameter, Unread]]) -> dict[str, Unread]:
    """Return where weights lie, by the names that they have in the model, with whatever adapter is around it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: where for parameter, where in unread}
