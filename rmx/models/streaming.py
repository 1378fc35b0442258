"""Saving a model whose weights are whole nowhere: what `save_pretrained` writes, with one tensor in memory at a time.

    transformers plans      names, ties, types and the limits of the files, from tensors on the meta device that stand
                            for the weights; its files have a number in the place of each
    each file is filled     a number's weight is fetched, written to its place, and let go

safetensors writes a file from all of its tensors at once, and transformers puts up to 50 GB into one. So the last step
is done here, by the format's description (https://huggingface.co/docs/safetensors): the length of a header, the header
in JSON, and the bytes of every tensor at the offsets that it names.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.logging import tqdm

from rmx.errors import ModelError
from rmx.models.quiet import quiet

__all__ = ["Fetch", "renamed", "save_pretrained"]

log = logging.getLogger(__name__)

Fetch = Callable[[str], Tensor]  # a weight's name in the model's state_dict → the whole of it, on the CPU

ALIGNMENT = 8  # bytes: the tensors of a file begin at a multiple


class ConvertedError(Exception):
    """What is to be saved is computed from a weight; its number does not say how."""


class StandIn(Tensor):
    """A weight's shape and type on the meta device; what transformers writes for it is empty, and carries its number.

    >>> StandIn.of(torch.empty(3, 4, device="meta"), 17).contiguous().shape
    torch.Size([0, 17])
    """

    number: int | None = None  # None: a library has computed it from others

    @classmethod
    def of(cls, tensor: Tensor, number: int) -> StandIn:
        """Stand for a tensor."""
        made = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta").as_subclass(cls)
        made.number = number
        return made

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        """Return what is written in the weight's place.

        Raises:
            ConvertedError: it stands for no weight.
        """
        if self.number is None:
            raise ConvertedError
        return torch.empty((0, self.number), dtype=self.dtype)


def save_pretrained(model: PreTrainedModel, folder: Path, fetch: Fetch | None = None, **options: Any) -> None:
    """Write a model as its own `save_pretrained` does; with `fetch`, without having its weights.

    Weights that transformers converts while it saves them (experts that are one tensor in memory and many in the
    file) are fetched before, all of them; the log says so.

    Args:
        model: with `fetch`, its parameters may be on the meta device.
        folder: an empty one.
        fetch: returns a weight of `model.state_dict()`; None takes those that the model has.
        options: of `PreTrainedModel.save_pretrained`.

    Raises:
        ModelError: what was fetched is not of the model's shape and type.
    """
    if fetch is None:
        model.save_pretrained(folder, **options)
        return
    state = model.state_dict()
    names = list(state)
    try:
        with quiet():
            model.save_pretrained(folder, state_dict=stand_ins(state), **options)
    except ConvertedError:
        log.info(
            "%s: transformers converts its weights while they are saved, so the first process holds all of them for it",
            type(model).__name__,
        )
        model.save_pretrained(folder, state_dict=_all_weights(model, fetch), **options)
        return
    for file in tqdm(sorted(folder.glob("*.safetensors")), desc="Writing model shards"):
        write_planned(file, state, lambda number: fetch(names[number]))


def stand_ins(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a stand-in for each tensor, numbered in their order."""
    return {name: StandIn.of(tensor, number) for number, (name, tensor) in enumerate(state.items())}


def renamed(state: Mapping[str, Tensor], chosen: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> dict[str, str]:
    """Return which weights a function chooses, and what it calls them: its names, and those in the model.

    Args:
        state: all weights of a model, perhaps without memory.
        chosen: name in the model → tensor, to new name → tensor.

    Raises:
        ModelError: it does not choose, but computes.

    >>> state = {"a": torch.zeros(2, device="meta"), "b": torch.zeros(2, device="meta")}
    >>> renamed(state, lambda tensors: {"new": tensors["b"]})
    {'new': 'b'}
    """
    names, found = list(state), {}
    for name, tensor in chosen(stand_ins(state)).items():
        number = getattr(tensor, "number", None)
        if number is None:
            raise ModelError(f"{name} is computed while it is saved, and no weight of the model")
        found[name] = names[number]
    return found


def _all_weights(model: nn.Module, fetch: Fetch) -> dict[str, Tensor]:
    """Fetch everything; what is one tensor in the model under several names is one here."""
    whole: dict[int, Tensor] = {}
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in whole:
            whole[id(tensor)] = fetch(name)
        state[name] = whole[id(tensor)]
    return state


def write_planned(file: Path, state: Mapping[str, Tensor], fetch: Callable[[int], Tensor]) -> None:
    """Write a planned file anew, with the weights that its numbers stand for.

    Args:
        file: of stand-ins.
        state: shape and type of every weight, in the order of their numbers.
        fetch: returns a weight by its number.
    """
    shapes, planned = list(state.values()), read_header(file)
    header, numbers, end = {}, [], 0
    for name, entry in planned.items():
        if name == "__metadata__":
            header[name] = entry
            continue
        number = entry["shape"][1]
        start, end = end, end + shapes[number].numel() * shapes[number].element_size()
        header[name] = entry | {"shape": list(shapes[number].shape), "data_offsets": [start, end]}
        numbers.append(number)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for number in numbers:
            out.write(content(fetch(number), like=shapes[number]))


def read_header(file: Path) -> dict[str, Any]:
    """Return what a safetensors file says of its tensors, in their order."""
    with file.open("rb") as stored:
        return json.loads(stored.read(int.from_bytes(stored.read(8), "little")))


def content(tensor: Tensor, like: Tensor) -> memoryview:
    """Return a tensor's bytes, row by row, without a copy where they lie so.

    Raises:
        ModelError: it is of another shape or type than was planned.
    """
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise ModelError(f"a weight of {like.dtype} {list(like.shape)} was gathered as {tensor.dtype} {tensor.shape}")
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
