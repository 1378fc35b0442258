"""Datasets of the Hugging Face hub and `save_to_disk` folders, through the `datasets` library, imported only here."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rmx.errors import DataError

if TYPE_CHECKING:
    from rmx.data.read.json_files import RawRow

__all__ = ["read_disk", "read_hub"]

_SECONDS_TO_CONNECT = 5.0


def read_hub(path: str, config: str | None, split: str | None, revision: str | None) -> Iterator[RawRow]:
    """Rows of one split of a hub dataset (default: train); the line is the row's number from 1.

    Raises:
        DataError: no such dataset or split, or neither network nor cached copy, with what to do.
    """
    offline = os.environ.get("HF_HUB_OFFLINE", "") in {"1", "true", "True"} or not _reachable()
    if offline:
        # Read by the libraries when they are imported: without it, each of their retries waits for the network.
        os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        loaded = datasets.load_dataset(path, config, split=split or "train", revision=revision)
    except (OSError, ValueError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        if offline:
            raise DataError(
                f"data.path: {path} is no file here, and as a dataset of the hub it cannot be loaded: no network "
                "and no copy in the cache. Give a local file or folder, or fetch it once where there is a network: "
                f"hf download --repo-type dataset {path}"
            ) from error
        raise DataError(f"data.path: {path} cannot be loaded from the hub: {str(error).splitlines()[0]}") from error
    for number, row in enumerate(loaded, 1):
        yield number, row, None


def read_disk(folder: str, split: str | None) -> Iterator[RawRow]:
    """Rows of a folder written by `datasets.save_to_disk`.

    Raises:
        DataError: the folder cannot be loaded, or has no such split.
    """
    import datasets

    try:
        loaded: Any = datasets.load_from_disk(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"data.path: {folder} cannot be loaded ({type(error).__name__})") from error
    if isinstance(loaded, datasets.DatasetDict):
        wanted = split or "train"
        if wanted not in loaded:
            raise DataError(f"data.split: {wanted!r} is not a split of {folder}; it has: {', '.join(loaded)}")
        loaded = loaded[wanted]
    for number, row in enumerate(loaded, 1):
        yield number, row, None


def _reachable() -> bool:
    """Whether the hub (or the mirror in HF_ENDPOINT) answers at all."""
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").split("://")[-1].split("/")[0]
    name, _, port = host.partition(":")
    try:
        with socket.create_connection((name, int(port or 443)), timeout=_SECONDS_TO_CONNECT):
            return True
    except (OSError, ValueError):
        return False
