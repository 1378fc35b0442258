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
from rmx.data.rows.chosen_rejected import alpaca, dialogue, preference, sharegpt
from rmx.data.rows.drafts import PROMPT_COLUMNS, Draft, RowOptions
from rmx.data.rows.messages import is_dialogue
from rmx.data.rows.ranked import LISTS, SCORES, find_sides, pointwise, ranked, scored, strength, votes
from rmx.errors import DataError

__all__ = ["FORMATS", "Format", "detect", "renamed"]

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """One row shape."""

    name: str
    title: str  # for the message of what was detected
    needs: str  # the columns it is recognised by, in words
    fits: Callable[[Mapping[str, Any], Sequence[Row]], bool]  # columns found, first rows
    convert: Callable[[Row, RowOptions], Draft]
    columns: tuple[str, ...] = ()  # those that at least one row must have


def _has(*columns: str) -> Callable[[Mapping[str, Any], Sequence[Row]], bool]:
    return lambda found, rows: all(column in found for column in columns)


def _mostly_dialogues(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    """Whether the rows that have texts hold whole HH-RLHF dialogues."""
    if "chosen" not in found or "rejected" not in found:
        return False
    texts = [row["chosen"] for row in rows if isinstance(row.get("chosen"), str)]
    return bool(texts) and sum(map(is_dialogue, texts)) * 2 > len(texts)


def _has_ranks(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    """Whether there is a list of responses with numbers beside or inside it."""
    column = next((name for name in LISTS if name in found), None)
    if column is None:
        return False
    if any(name in found for name in ("ranks", "rank", "scores", "ratings")):
        return True
    items = [item for row in rows if isinstance(row.get(column), list) for item in row[column]]
    return any(isinstance(item, dict) and ("rank" in item or any(name in item for name in SCORES)) for item in items)


def _has_sides(*columns: str) -> Callable[[Mapping[str, Any], Sequence[Row]], bool]:
    return lambda found, rows: find_sides(found) is not None and any(column in found for column in columns)


def _has_winner(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    sides = find_sides(found)
    return sides is not None and (sides.winner is not None or "winner_model_a" in found)


def _has_point(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    return "response" in found and any(name in found for name in SCORES)


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            "sharegpt",
            "ShareGPT ranking",
            "conversations, chosen, rejected",
            _has("conversations", "chosen", "rejected"),
            sharegpt,
            ("conversations", "chosen", "rejected"),
        ),
        Format(
            "alpaca",
            "alpaca ranking",
            "instruction, chosen, rejected",
            _has("instruction", "chosen", "rejected"),
            alpaca,
            ("instruction", "chosen", "rejected"),
        ),
        Format(
            "dialogue",
            "HH-RLHF dialogues",
            "chosen, rejected, each '\\n\\nHuman: ... \\n\\nAssistant: ...'",
            _mostly_dialogues,
            dialogue,
            ("chosen", "rejected"),
        ),
        Format(
            "preference",
            "chosen and rejected responses",
            "chosen, rejected (and prompt)",
            _has("chosen", "rejected"),
            preference,
            ("chosen", "rejected"),
        ),
        Format("ranked", "ranked responses", "responses and ranks or scores", _has_ranks, ranked),
        Format(
            "strength",
            "two responses and a signed strength",
            "response_1, response_2, preference_strength",
            _has_sides("preference_strength", "overall_preference"),
            strength,
        ),
        Format("votes", "two responses and a winner", "response_a, response_b, winner", _has_winner, votes),
        Format(
            "scored",
            "two responses with scores",
            "response_a, response_b, score_a, score_b",
            _has_sides("score_a", "score_A", "score_0", "score_1"),
            scored,
        ),
        Format("pointwise", "scored single responses", "prompt, response, score", _has_point, pointwise, ("response",)),
    )
}


def detect(rows: Sequence[Row], name: str) -> tuple[Format, str]:
    """The format of some rows, and one sentence that says by what it was recognised.

    >>> detect([{"prompt": "Hi", "chosen": "Hello", "rejected": "No"}], "x")[1]
    'chosen and rejected responses, the prompt in column prompt (format=preference)'

    Raises:
        DataError: no format fits; names the columns found.
    """
    columns = {column: True for row in rows for column in row}
    for entry in FORMATS.values():
        if entry.fits(columns, rows):
            return entry, f"{_describe(entry, rows, columns)} (format={entry.name})"
    found = ", ".join(sorted(columns)) or "none"
    known = "; ".join(f"{entry.name} ({entry.needs})" for entry in FORMATS.values())
    raise DataError(
        f"data {name}: no known format has the columns found: {found}. Known: {known}. "
        "Name the columns that play these parts, for example data.columns={chosen: better, rejected: worse}"
    )


def _describe(entry: Format, rows: Sequence[Row], columns: Mapping[str, Any]) -> str:
    if entry.name in {"sharegpt", "alpaca", "dialogue"}:
        return entry.title
    prompt = next((column for column in PROMPT_COLUMNS if column in columns), None)
    where = f"the prompt in column {prompt}" if prompt else "the shared beginning is the prompt"
    if entry.name == "preference" and any(isinstance(row.get("chosen"), list | dict) for row in rows):
        return f"chosen and rejected messages, {where}"
    sides = find_sides(columns) if entry.name in {"votes", "strength", "scored"} else None
    return f"{entry.title}{f' ({sides.first}, {sides.second})' if sides else ''}, {where}"


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
