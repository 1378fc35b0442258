"""The weights of a checkpoint: written in the format of transformers or PEFT, read back into the model in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from rmx.checkpoints.shards import has_shards, load_shards, shard_names
from rmx.errors import CheckpointError
from rmx.models.quiet import quiet
from rmx.models.streaming import Fetch, save_pretrained
from rmx.training.memory_use import whole_shape

__all__ = [
    "WEIGHTS",
    "checkpoint_files",
    "kept_weights",
    "load_parts",
    "load_weights",
    "save_weights",
    "saved_bytes",
    "saved_tensors",
]

WEIGHTS = "model."  # what the names of weights begin with where optimizer state stands beside them
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def save_weights(model: Any, folder: Path, copies: dict[str, Tensor] | None = None, fetch: Fetch | None = None) -> None:
    """Write a model, or the adapter alone of one that has an adapter, with its config.

    Args:
        model: the model, without any wrapper.
        folder: where to.
        copies: what is written in place of the model's own tensors: what `saved_tensors` named, as it was.
        fetch: returns a weight that the model does not have itself, by its name.
    """
    with quiet():
        if isinstance(model, PeftModel):
            if fetch is not None:  # an adapter is small
                copies = {name: fetch(name) for name in saved_tensors(model)}
            model.save_pretrained(str(folder), state_dict=copies)
        else:  # the names that the model has in memory, where transformers would store others (experts, fused layers)
            options = {} if copies is None else {"state_dict": copies}
            save_pretrained(model, folder, fetch, save_original_format=False, **options)


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that `save_weights` writes, by their names in the model."""
    state = model.state_dict()
    if not isinstance(model, PeftModel):
        return state
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in state.items() if name in trained}


def saved_bytes(model: nn.Module) -> int:
    """Return how many bytes of weights `save_weights` writes."""
    only_trained = isinstance(model, PeftModel)
    saved = (p for p in model.parameters() if p.requires_grad or not only_trained)
    return sum(whole_shape(p).numel() * p.element_size() for p in saved)


def checkpoint_files(folder: Path) -> list[str]:
    """Return the names of the files that hold a model's weights."""
    if not (folder / _INDEX).exists():
        return [_WHOLE]
    return sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))


def load_weights(model: Any, folder: Path) -> None:
    """Give a model the weights that it had when `save_weights` wrote them.

    Raises:
        CheckpointError: the files are those of another model.
    """
    if has_shards(folder):
        load_parts(kept_weights(model), folder)
        return
    with quiet():
        if isinstance(model, PeftModel):
            result: Any = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
            unknown = result.unexpected_keys
            lacking: list[str] = []  # the base's are not written
        else:
            files = checkpoint_files(folder)
            unknown, read = [], set()
            memory = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
            for file in files:  # one at a time: the largest is all that is held besides the model
                weights = load_file(folder / file)
                unknown += model.load_state_dict(weights, strict=False).unexpected_keys
                read |= {memory[name] for name in weights if name in memory}  # tied weights have several names
            lacking = [name for name, parameter in model.named_parameters() if parameter.data_ptr() not in read]
    if unknown or lacking:
        what = f"{unknown[0]} is not a weight of this model" if unknown else f"{lacking[0]} is missing"
        raise CheckpointError(
            f"{folder}: its weights are those of another model ({what}); take model and peft back, or start anew "
            "with resume=never"
        )


def kept_weights(model: nn.Module, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the tensors that a checkpoint keeps, by name; of a model with an adapter, those of the adapter.

    Args:
        model: whole or divided.
        state: its tensors by their names in the model; its `state_dict()` by default.
    """
    if isinstance(model, PeftModel):
        return get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    return model.state_dict() if state is None else state


def load_parts(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Fill weights, whole or divided, from a checkpoint that was written in parts.

    Args:
        weights: all that a checkpoint of their model keeps, by name (`kept_weights`).
        folder: of the checkpoint.

    Raises:
        CheckpointError: the files are those of another model.
    """
    targets = {f"{WEIGHTS}{name}": tensor for name, tensor in weights.items()}
    stored = {f"{WEIGHTS}{name}" for name in shard_names(folder, WEIGHTS)}
    if unlike := sorted(stored ^ targets.keys()):
        what = "missing" if unlike[0] in targets else "not a weight of this model"
        raise CheckpointError(
            f"{folder}: its weights are those of another model ({unlike[0].removeprefix(WEIGHTS)} is {what}); take "
            "model and peft back, or start anew with resume=never"
        )
    load_shards(targets, folder)
