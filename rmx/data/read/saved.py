"""Folders written by `datasets.save_to_disk`, read through `datasets`, which is imported only here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmx.data.read.raw import RawRow
from rmx.data.read.splits import Choice, choose_split
from rmx.data.read.tables import ROWS_PER_CHUNK, rows_of
from rmx.errors import DataError

__all__ = ["choose_saved", "is_saved", "read_saved"]


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def choose_saved(folder: Path, split: str | None) -> Choice:
    """The splits of a saved folder to read; one without splits is named `.`.

    Raises:
        DataError: the folder cannot be loaded, has no such split, or one has to be named.
    """
    loaded = _load(folder)
    by_split: dict[str | None, list[str]] = {name: [name] for name in loaded} if _has_splits(loaded) else {None: ["."]}
    return choose_split(by_split, split, str(folder))


def read_saved(folder: Path, split: str) -> Iterator[RawRow]:
    """Rows of one split of a saved folder, numbered, in memory that does not grow with it."""
    loaded = _load(folder)
    rows = loaded[split] if _has_splits(loaded) else loaded
    number = 0
    for batch in rows.with_format("arrow").iter(batch_size=ROWS_PER_CHUNK):
        yield from rows_of(batch, number + 1, str(folder))
        number += batch.num_rows


def _load(folder: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"data.path: {folder} cannot be loaded as saved by datasets ({type(error).__name__})"
        ) from error


def _has_splits(loaded: Any) -> bool:
    import datasets

    return isinstance(loaded, datasets.DatasetDict)
