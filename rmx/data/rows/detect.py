"""Which format a file has, and how its rows become comparisons.

A format is a row shape: the columns it needs, and one function row → `Draft`. `detect` looks at the columns of the
first rows only, takes the first format of the table whose columns are all there, and says what it saw; `data.format=`
overrules it, and `data.columns={chosen: better_answer}` names columns that are called something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmx.data.rows.chosen_rejected import alpaca, dialogue, preference, sharegpt
from rmx.data.rows.columns import NAMES
from rmx.data.rows.drafts import Draft, RowOptions
from rmx.data.rows.messages import is_dialogue
from rmx.data.rows.ranked import LISTS, SCORES, find_sides, pointwise, ranked, scored, strength, votes

__all__ = ["COMMON", "FORMATS", "Format", "detect"]

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
    reads: Callable[[Mapping[str, Any]], Iterable[str]] = lambda found: ()  # what is read besides `COMMON`


# Parts that every format reads, and those of a pair of chosen and rejected.
COMMON = ("prompt", "input", "history", "context", "system", "tools", "weight", "id")
_PAIR = (
    *("chosen", "rejected", "margin", "target", "tie"),
    *("score_chosen", "score_rejected", "votes_chosen", "votes_rejected"),
)


def _reads_list(found: Mapping[str, Any]) -> Iterable[str]:
    """The first list of responses, and the first list of ranks or scores."""
    for names in (LISTS, ("scores", "ratings", "ranks", "rank")):
        yield from [name for name in names if name in found][:1]


def _reads_sides(*others: str) -> Callable[[Mapping[str, Any]], Iterable[str]]:
    def reads(found: Mapping[str, Any]) -> Iterable[str]:
        sides = find_sides(found)
        if sides is not None:
            yield from (sides.first, sides.second)
            for other in others:
                if other == "winner":
                    flags = ("winner_model_a", "winner_model_b", "winner_tie")
                    yield from (sides.winner,) if sides.winner else flags
                else:
                    yield from (other.format(end) for end in sides.ends)

    return reads


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
            lambda found: _PAIR,
        ),
        Format(
            "alpaca",
            "alpaca ranking",
            "instruction, chosen, rejected",
            _has("instruction", "chosen", "rejected"),
            alpaca,
            ("instruction", "chosen", "rejected"),
            lambda found: _PAIR,
        ),
        Format(
            "dialogue",
            "HH-RLHF dialogues",
            "chosen, rejected, each '\\n\\nHuman: ... \\n\\nAssistant: ...'",
            _mostly_dialogues,
            dialogue,
            ("chosen", "rejected"),
            lambda found: _PAIR,
        ),
        Format(
            "preference",
            "chosen and rejected responses",
            "chosen, rejected (and prompt)",
            _has("chosen", "rejected"),
            preference,
            ("chosen", "rejected"),
            lambda found: _PAIR,
        ),
        Format("ranked", "ranked responses", "responses and ranks or scores", _has_ranks, ranked, reads=_reads_list),
        Format(
            "strength",
            "two responses and a signed strength",
            "response_1, response_2, preference_strength",
            _has_sides("preference_strength", "overall_preference"),
            strength,
            reads=_reads_sides("preference_strength", "overall_preference"),
        ),
        Format(
            "votes",
            "two responses and a winner",
            "response_a, response_b, winner",
            _has_winner,
            votes,
            reads=_reads_sides("winner"),
        ),
        Format(
            "scored",
            "two responses with scores",
            "response_a, response_b, score_a, score_b",
            _has_sides("score_a", "score_A", "score_0", "score_1"),
            scored,
            reads=_reads_sides("score_{}"),
        ),
        Format(
            "pointwise",
            "scored single responses",
            "prompt, response, score",
            _has_point,
            pointwise,
            ("response",),
            lambda found: ("response", *[name for name in SCORES if name in found][:1]),
        ),
    )
}


def detect(rows: Sequence[Row]) -> tuple[Format, str] | None:
    """The format of some rows, and one sentence that says by what it was recognised; None when none fits.

    >>> detect([{"prompt": "Hi", "chosen": "Hello", "rejected": "No"}])[1]
    'chosen and rejected responses, the prompt in column prompt (format=preference)'
    """
    columns = {column: True for row in rows for column in row}
    for entry in FORMATS.values():
        if entry.fits(columns, rows):
            return entry, f"{_describe(entry, rows, columns)} (format={entry.name})"
    return None


def _describe(entry: Format, rows: Sequence[Row], columns: Mapping[str, Any]) -> str:
    if entry.name in {"sharegpt", "alpaca", "dialogue"}:
        return entry.title
    names = [name for part in ("prompt", "input", "history", "context") for name in NAMES[part]]
    given = [name for name in names if any(row.get(name) for row in rows)]
    # A column that was given the name of its part keeps its own name in the sentence.
    prompt = next((name for name in given if name != "prompt" or len(given) == 1), None) or next(iter(given), None)
    where = f"the prompt in column {prompt}" if prompt else "the shared beginning is the prompt"
    if entry.name == "preference" and any(isinstance(row.get("chosen"), list | dict) for row in rows):
        return f"chosen and rejected messages, {where}"
    sides = find_sides(columns) if entry.name in {"votes", "strength", "scored"} else None
    return f"{entry.title}{f' ({sides.first}, {sides.second})' if sides else ''}, {where}"
