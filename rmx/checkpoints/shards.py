"""Tensors that processes hold parts of, in one folder: every process writes its own parts, and any number reads them.

torch's distributed checkpoint says which process reads which bytes; the files are safetensors that carry the place of
every part in their headers. So nothing is gathered, nothing is a pickle, and the processes that read may be more or
fewer than those that wrote, or divide the tensors another way.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, HuggingFaceStorageWriter

from rmx.checkpoints.tensors import join_state, split_state
from rmx.errors import CheckpointError, OutputError, first_line

__all__ = [
    "has_shards",
    "load_sharded_state",
    "load_shards",
    "save_shards",
    "shard_names",
    "start_saving_shards",
    "structure_of",
]

FOLDER = "shards"
Size = tuple[torch.Size, torch.dtype]


def has_shards(checkpoint: Path) -> bool:
    """Whether a checkpoint was written by processes that divide the weights among them."""
    return (checkpoint / FOLDER).is_dir()


def save_shards(tensors: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Write this process's part of every tensor; every process has to call it, with the same names.

    Raises:
        OutputError: one of the processes could not write, or does not see the folder.
    """
    with _told(checkpoint):
        dcp.save(dict(tensors), storage_writer=_writer(checkpoint))


def start_saving_shards(
    tensors: Mapping[str, Tensor], checkpoint: Path, group: dist.ProcessGroup
) -> Callable[[], None]:
    """As `save_shards`, but return when the tensors are copied to the host's memory.

    Args:
        tensors: whole or divided.
        checkpoint: the folder that is written into.
        group: all processes, with messages of their own.

    Returns:
        a call that returns when every process has written its parts, and raises OutputError where one could not.
    """
    started = dcp.async_save(dict(tensors), storage_writer=_writer(checkpoint), process_group=group)

    def wait() -> None:
        with _told(checkpoint):
            cast("Future[Any]", started).result()

    return wait


def _writer(checkpoint: Path) -> HuggingFaceStorageWriter:
    """Return what writes into a folder that every process sees.

    Raises:
        OutputError: one of them does not.
    """
    seen: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(seen, checkpoint.is_dir())
    if not all(seen):
        raise OutputError(
            f"output_dir: process {seen.index(False)} does not see {checkpoint.parent}, where the first process "
            "writes; with parallel=fsdp and its kin the folder has to be one that all nodes share"
        )
    return HuggingFaceStorageWriter(str(checkpoint / FOLDER), save_distributed=True)


@contextmanager
def _told(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointException as error:
        raise OutputError(f"output_dir: {checkpoint} cannot be written: {_reason(error)}") from error


def stored_sizes(checkpoint: Path) -> dict[str, Size]:
    """Return shape and type of every tensor in a checkpoint."""
    stored = HuggingFaceStorageReader(str(checkpoint / FOLDER)).read_metadata().state_dict_metadata
    return {name: (entry.size, entry.properties.dtype) for name, entry in stored.items()}  # type: ignore[union-attr]


def shard_names(checkpoint: Path, prefix: str) -> set[str]:
    """Return the names of a checkpoint's tensors that begin with a prefix, without it."""
    return {name.removeprefix(prefix) for name in stored_sizes(checkpoint) if name.startswith(prefix)}


def load_shards(targets: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Fill tensors, whole or divided, in place; every process has to call it, with the same names.

    Raises:
        CheckpointError: a tensor is not there, or has another shape.
    """
    reader = HuggingFaceStorageReader(str(checkpoint / FOLDER))
    alone = not dist.is_initialized()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # so it is
            dcp.load(dict(targets), storage_reader=reader, no_dist=alone)
    except CheckpointException as error:
        raise CheckpointError(
            f"{checkpoint}: its parts do not fit this model: {_reason(error)}; start anew with resume=never"
        ) from error


def structure_of(state: Any, checkpoint: Path, name: str, *, write: bool) -> dict[str, Tensor]:
    """Return the tensors of a state by name; with `write`, put what is not a tensor into `<name>.json`."""
    structure, tensors = split_state(state, name)
    if write:
        (checkpoint / f"{name}.json").write_text(json.dumps(structure, allow_nan=False) + "\n", encoding="utf-8")
    return tensors


def load_sharded_state(checkpoint: Path, name: str, empty: Callable[[str, torch.Size, torch.dtype], Tensor]) -> Any:
    """Read a state that was written by `save_shards` and `structure_of`.

    Args:
        checkpoint: its folder.
        name: of the state: `optimizer`.
        empty: makes the tensor that is filled, from its name, shape and type; divided as its process wants it.

    Raises:
        CheckpointError: the files do not belong together.
    """
    structure = json.loads((checkpoint / f"{name}.json").read_text(encoding="utf-8"))
    sizes = {key: size for key, size in stored_sizes(checkpoint).items() if key.startswith(f"{name}.")}
    tensors = {key: empty(key, *size) for key, size in sizes.items()}
    if tensors:
        load_shards(tensors, checkpoint)
    try:
        return join_state(structure, tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint}: {name}.json does not fit its parts") from error


def _reason(error: BaseException) -> str:
    """The first line of the first process's own error: torch's covers all of them."""
    failures = getattr(error, "failures", {})
    causes = [failure[0] for failure in failures.values()] if failures else [error]
    return first_line(causes[0])
