"""The texts of pairs, read only when asked for: a report holds none by default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rmx.data.accounting import RowFault
from rmx.data.rows import asking
from rmx.data.rows.plan import Columns
from rmx.errors import DataError

__all__ = ["read_texts"]

_KEYS = asking.Keys("--")  # rmx report --columns
_HEAD = 64  # rows that a mapping is held against
_NONE: Mapping[str, str] = MappingProxyType({})
PARTS = ("prompt", "chosen", "rejected")


class _Texts(Mapping[str, Mapping[str, str]]):
    """Texts by id; a row without one is found by the line number at the end of the id that the run gave it."""

    def __init__(self, rows: dict[str, dict[str, str]]) -> None:
        self._rows = rows

    def __getitem__(self, key: str) -> Mapping[str, str]:
        line = f"line {key.rpartition(':')[2]}"
        return self._rows[key] if key in self._rows else self._rows[line]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def read_texts(path: Path | str, columns: Mapping[str, str] = _NONE) -> Mapping[str, Mapping[str, str]]:
    """Read `id`, `prompt`, `chosen` and `rejected` (strings or lists of messages) from a JSONL file.

    Args:
        path: the file.
        columns: rmx's column name → the file's.

    Raises:
        DataError: the file cannot be read, a line is not a JSON object with `chosen` and `rejected`, or no row has a
            column that `columns` names.
    """
    path = Path(path)
    found = list(_objects(path))
    head = [row for _, row in found[:_HEAD]]
    if mistake := asking.mapping_mistakes(path.name, _KEYS, columns, head):
        raise mistake
    as_ours = Columns(columns, (), head) if columns else None
    rows: dict[str, dict[str, str]] = {}
    for number, given in found:
        try:
            row = as_ours.adapt(given)[1] if as_ours is not None else given
        except RowFault as fault:
            raise DataError(f"{path}:{number}: {fault}") from None
        if not {"chosen", "rejected"} <= row.keys():
            which = asking.no_format(path.name, _KEYS, head, ["chosen, rejected, and id and prompt where it has them"])
            raise DataError(f"{path}:{number}: must be an object with chosen and rejected (and id, prompt)\n{which}")
        key = str(row["id"]) if row.get("id") not in (None, "") else f"line {number}"
        rows[key] = {part: _text(row[part]) for part in PARTS if part in row}
    return _Texts(rows)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of the file with their lines, from 1."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); --texts takes a JSONL file") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: is not JSON; --texts takes a JSONL file") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: must be an object with chosen and rejected (and id, prompt)")
        yield number, row


def _text(value: Any) -> str:
    """A string as it is, messages as "role: content"."""
    if isinstance(value, list):
        turns = [turn for turn in value if isinstance(turn, dict)]
        return "\n\n".join(f"{turn.get('role', '')}: {turn.get('content', '')}" for turn in turns)
    return str(value)
