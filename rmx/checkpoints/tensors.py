"""Optimizer and scheduler state without pickle: tensors in safetensors, everything else in JSON.

`torch.save` writes a pickle, and a pickle can run code when it is read. A state dict is tensors and plain values,
so two files without any code hold it as well: `<name>.safetensors` and `<name>.json`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from rmx.errors import CheckpointError, ModelError

__all__ = ["join_state", "load_state", "restore_optimizer", "save_state", "split_state", "state_bytes"]

_PLAIN = (str, bool, int, type(None))


def save_state(state: Any, folder: Path, name: str) -> None:
    """Write a state dict to `<name>.safetensors` and `<name>.json` in `folder`.

    Raises:
        ModelError: the state holds something that is neither tensor nor plain value.
    """
    structure, tensors = split_state(state, name)
    save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(structure, allow_nan=False) + "\n", encoding="utf-8")


def load_state(folder: Path, name: str) -> Any:
    """Read what `save_state` wrote; tensors come back on the CPU.

    Raises:
        CheckpointError: the files do not belong together.
    """
    tensors = load_file(folder / f"{name}.safetensors", device="cpu")
    structure = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    try:
        return join_state(structure, tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: {name}.json does not fit {name}.safetensors") from error


def split_state(state: Any, name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return a state as JSON, and its tensors by the names that stand there in their places.

    >>> split_state({"lr": 0.1, "steps": [torch.ones(())]}, "state")
    ({'dict': [['lr', 0.1], ['steps', {'list': [{'tensor': 'state.steps.0'}]}]]}, {'state.steps.0': tensor(1.)})

    Raises:
        ModelError: the state holds something that is neither tensor nor plain value.
    """
    tensors: dict[str, torch.Tensor] = {}
    return _split(state, tensors, set(), name), tensors


def state_bytes(state: Any) -> int:
    """Return how many bytes the tensors of a state take on disk."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(state_bytes(value) for value in state.values())
    if isinstance(state, list | tuple):
        return sum(state_bytes(value) for value in state)
    return 0


def restore_optimizer(optimizer: Any, scheduler: Any, checkpoint: Path) -> None:
    """Give optimizer and schedule the state they had at a checkpoint.

    A learning rate that differs (it was allowed to) is followed from here on; else everything is as it was.

    Raises:
        CheckpointError: the state is that of another kind of optimizer or schedule.
    """
    rates = list(getattr(scheduler, "base_lrs", []))
    try:
        optimizer.load_state_dict(load_state(checkpoint, "optimizer"))
        scheduler.load_state_dict(load_state(checkpoint, "scheduler"))
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{checkpoint}: its optimizer or schedule is of another kind ({error}); take trainer.optim and "
            "trainer.lr_scheduler_type back, or start anew with resume=never"
        ) from error
    if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR) and scheduler.base_lrs != rates:
        scheduler.base_lrs = list(rates)
        for group, rate, shape in zip(optimizer.param_groups, rates, scheduler.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = rate, rate * shape(scheduler.last_epoch)


def _split(value: Any, tensors: dict[str, torch.Tensor], storages: set[int], path: str) -> Any:
    """Return `value` as JSON, with tensors replaced by their names in `tensors`."""
    if isinstance(value, torch.Tensor):
        plain = value.detach().contiguous()
        own = plain.to_local() if isinstance(plain, DTensor) else plain
        storage = own.untyped_storage().data_ptr()
        tensors[path] = plain.clone() if storage in storages else plain  # safetensors refuses shared memory
        storages.add(storage)
        return {"tensor": path}
    if isinstance(value, dict):
        items = []
        for key, item in value.items():
            if not isinstance(key, str | int):
                raise ModelError(f"{path}: a state with keys of type {type(key).__name__} cannot be stored")
            items.append([key, _split(item, tensors, storages, f"{path}.{key}")])
        return {"dict": items}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_split(item, tensors, storages, f"{path}.{i}") for i, item in enumerate(value)]}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, _PLAIN):
        return value
    raise ModelError(
        f"{path}: a {type(value).__name__} cannot be stored without pickle; choose another trainer.optim "
        "or trainer.lr_scheduler_type"
    )


def join_state(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Put together what `split_state` took apart."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: join_state(item, tensors) for key, item in content}
    if kind == "list":
        return [join_state(item, tensors) for item in content]
    if kind == "tuple":
        return tuple(join_state(item, tensors) for item in content)
    if kind == "float":
        return float(content)
    raise ValueError(kind)
