"""Looking into safetensors files without loading them: which tensors, of which shape and type, and one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from rmx.errors import ModelError

__all__ = ["StoredTensor", "half_precision", "json_object", "read_tensor", "tensors"]

VALUE_HEAD = "value_head.safetensors"  # LLaMA-Factory's head, beside the backbone's files


class StoredTensor(NamedTuple):
    """Where a tensor lies, its shape, and its type as safetensors writes it ("F32", "BF16", ...)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def tensors(folder: Path, prefix: str = "model") -> dict[str, StoredTensor]:
    """All tensors of a folder's `<prefix>*.safetensors`, from the headers alone.

    An index file decides which shards count; without one, all files with the prefix do.

    Raises:
        ModelError: A file is no safetensors file or is cut off, or a shard of the index is missing.
    """
    index = folder / f"{prefix}.safetensors.index.json"
    if index.exists():
        files = [folder / name for name in sorted(set(json_object(index).get("weight_map", {}).values()))]
    else:
        files = sorted(folder.glob(f"{prefix}*.safetensors"))
    found = {}
    for file in files:
        if file.parent != folder or not file.is_file():
            raise ModelError(f"{index.name} names {file.name}, which is not in {folder}; the checkpoint is incomplete")
        try:
            with safe_open(file, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118 (safe_open is no mapping)
                    header = stored.get_slice(name)
                    found[name] = StoredTensor(file, tuple(header.get_shape()), header.get_dtype())
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read as safetensors ({error}); fetch or save it again") from None
    return found


def read_tensor(stored: dict[str, StoredTensor], name: str) -> torch.Tensor:
    """Load one tensor, as it is stored."""
    with safe_open(stored[name].file, framework="pt") as file:
        return file.get_tensor(name)


def half_precision(stored: dict[str, StoredTensor]) -> str | None:
    """The backbone's half precision: that of the largest tensor, or None where it is stored in float32.

    >>> file = Path("model.safetensors")
    >>> half_precision({"a": StoredTensor(file, (2, 2), "BF16"), "score.weight": StoredTensor(file, (1, 2), "F32")})
    'bfloat16'
    """
    if not stored:
        return None
    largest = max(stored.values(), key=lambda tensor: torch.Size(tensor.shape).numel())
    return {"BF16": "bfloat16", "F16": "float16"}.get(largest.dtype)


def json_object(file: Path) -> dict:
    """A JSON object from a file.

    Raises:
        ModelError: It is no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds no JSON object")
    return content
