"""Which format a file has, and how its rows become comparisons.

A format is a row shape: the columns it needs, and one function row → `Draft`. `detect` looks at the columns of the
first rows only, takes the first format of the table whose columns are all there, and says what it saw; `data.format=`
overrules it, and `data.columns={chosen: better_answer}` names columns that are called something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmx.data.accounting import RowFault
from rmx.data.messages import is_dialogue
from rmx.data.pairwise import Draft, RowOptions, alpaca, dialogue, preference, sharegpt
from rmx.errors import DataError

__all__ = ["FORMATS", "Format", "detect", "renamed"]

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """One row shape."""

    name: str
    columns: tuple[str, ...]  # needed, after `columns` has renamed
    title: str  # for the message of what was detected
    convert: Callable[[Row, RowOptions], Draft]


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("sharegpt", ("conversations", "chosen", "rejected"), "ShareGPT ranking", sharegpt),
        Format("alpaca", ("instruction", "chosen", "rejected"), "alpaca ranking", alpaca),
        Format("dialogue", ("chosen", "rejected"), "HH-RLHF dialogues", dialogue),
        Format("preference", ("chosen", "rejected"), "chosen and rejected responses", preference),
    )
}


def detect(rows: Sequence[Row], name: str) -> tuple[Format, str]:
    """The format of some rows, and one sentence that says by what it was recognised.

    >>> detect([{"prompt": "Hi", "chosen": "Hello", "rejected": "No"}], "x")[1]
    'chosen and rejected responses, prompt in its own column (format=preference)'

    Raises:
        DataError: no format fits; names the columns found.
    """
    columns: dict[str, int] = {}
    for row in rows:
        for column in row:
            columns[column] = columns.get(column, 0) + 1
    for entry in FORMATS.values():
        if not all(column in columns for column in entry.columns):
            continue
        if entry.name == "dialogue" and not _mostly_dialogues(rows):
            continue
        return entry, f"{_describe(entry, rows, columns)} (format={entry.name})"
    found = ", ".join(sorted(columns)) or "none"
    known = "; ".join(f"{entry.name}: {' + '.join(entry.columns)}" for entry in FORMATS.values())
    raise DataError(
        f"data {name}: no known format has the columns found: {found}. Known: {known}. "
        "Name the columns that play these parts, for example data.columns={chosen: better, rejected: worse}"
    )


def _mostly_dialogues(rows: Sequence[Row]) -> bool:
    """Whether the rows that have texts hold whole HH-RLHF dialogues."""
    texts = [row["chosen"] for row in rows if isinstance(row.get("chosen"), str)]
    return bool(texts) and sum(map(is_dialogue, texts)) * 2 > len(texts)


def _describe(entry: Format, rows: Sequence[Row], columns: Mapping[str, int]) -> str:
    if entry.name != "preference":
        return entry.title
    shape = "messages" if any(isinstance(row.get("chosen"), list | dict) for row in rows) else "responses"
    prompt = "prompt in its own column" if "prompt" in columns else "the shared beginning is the prompt"
    return f"chosen and rejected {shape}, {prompt}"


def renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with rmx's names for the columns that `columns` maps; `a.b.0` reaches into objects and lists.

    >>> renamed({"better": "4", "meta": {"id": 7}}, {"chosen": "better", "id": "meta.id"})
    {'better': '4', 'meta': {'id': 7}, 'chosen': '4', 'id': 7}
    """
    out = dict(row)
    for ours, theirs in columns.items():
        if theirs in row:
            out[ours] = row[theirs]
        elif "." in theirs:
            out[ours] = _reach(row, theirs)
    return out


def _reach(row: Any, path: str) -> Any:
    value = row
    for step in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.lstrip("-").isdigit() and -len(value) <= int(step) < len(value):
            value = value[int(step)]
        else:
            raise RowFault("missing column", path)
    return value
