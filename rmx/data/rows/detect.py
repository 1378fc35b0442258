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
from rmx.data.rows.columns import NAMES, RENAMED
from rmx.data.rows.drafts import Draft, RowOptions
from rmx.data.rows.gathering import Gathering
from rmx.data.rows.last_turn import last_turn
from rmx.data.rows.lists import FLAGS, LISTS, SCORES, choices, ranked
from rmx.data.rows.messages import is_dialogue
from rmx.data.rows.single import LABELS, RESPONSES, Points, pointwise
from rmx.data.rows.trees import Nested, OneByOne, message, tree
from rmx.data.rows.two_sides import find_sides, label_studio, scored, side_scores, strength, votes

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
    gather: Callable[[RowOptions], Gathering] | None = None  # where a row is not one comparison


# Parts that every format reads, and those of a pair of chosen and rejected.
COMMON = ("prompt", "input", "history", "context", "system", "tools", "weight", "id")
_PAIR = (
    *("chosen", "rejected", "margin", "target", "tie"),
    *("score_chosen", "score_rejected", "votes_chosen", "votes_rejected", "rating"),
)


def _reads_list(found: Mapping[str, Any]) -> Iterable[str]:
    """The first list of responses, and the first list of ranks or scores."""
    for names in (LISTS, _NUMBERS):
        yield from [name for name in names if name in found][:1]
    yield from ("annotations", "choice", "info")


def _reads_sides(*others: str) -> Callable[[Mapping[str, Any]], Iterable[str]]:
    def reads(found: Mapping[str, Any]) -> Iterable[str]:
        sides = find_sides(found)
        if sides is not None:
            yield from (sides.first, sides.second)
            for other in others:
                if other == "winner":
                    flags = ("winner_model_a", "winner_model_b", "winner_tie")
                    yield from (sides.winner,) if sides.winner else flags
                elif other == "scores":
                    yield from side_scores(found, sides) or ()
                else:
                    yield other

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
    values = [row[column] for row in rows if isinstance(row.get(column), list | dict)]
    if not values:
        return False
    if any(isinstance(row.get(name), list) for row in rows for name in _NUMBERS):
        return True
    if "choice" in found:
        return True
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    numbered = {"rank", "annotations", *SCORES, *FLAGS}
    beside = [item for row in rows if isinstance(row.get("annotations"), list) for item in row["annotations"]]
    return any(isinstance(item, dict) and not numbered.isdisjoint(item) for item in [*items, *beside])


_NUMBERS = ("scores", "ratings", "rating", "ranks", "rank")


def _has_choices(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    """Whether chosen or rejected are lists of responses, and not the messages of one."""
    if "chosen" not in found or "rejected" not in found:
        return False
    return sum(map(_holds_choices, rows)) * 2 > len(rows)


def _holds_choices(row: Row) -> bool:
    """Whether a side of a row is a list of texts, or of conversations, and not the answers to a list of prompts."""
    sides = [row[side] for side in ("chosen", "rejected") if isinstance(row.get(side), list)]
    several = (side and all(isinstance(item, str | list) for item in side) for side in sides)
    return any(several) and not isinstance(row.get("prompt"), list)


def _has_last_turn(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    """Whether there is a rejected response, and the chosen one is `response` or ends a conversation."""
    if "rejected" not in found or "chosen" in found:
        return False
    return any(row.get("response") is not None or isinstance(row.get("history"), list) for row in rows)


def _has_tree(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    return any(isinstance(row.get("prompt"), dict) and "replies" in row["prompt"] for row in rows)


def _has_task(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    return any(isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list) for row in rows)


def _has_sides(*columns: str) -> Callable[[Mapping[str, Any], Sequence[Row]], bool]:
    return lambda found, rows: find_sides(found) is not None and any(column in found for column in columns)


def _has_winner(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    sides = find_sides(found)
    return sides is not None and (sides.winner is not None or "winner_model_a" in found)


def _has_scores(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    sides = find_sides(found)
    return sides is not None and side_scores(found, sides) is not None


def _has_point(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    if any(name in found for name in RESPONSES):
        return any(name in found for name in (*SCORES, *LABELS))
    return "history" in found and any(name in found for name in LABELS)


def _reads_point(found: Mapping[str, Any]) -> Iterable[str]:
    for names in (RESPONSES, [name for name in (*SCORES, *LABELS) if name in found]):
        yield from [name for name in names if name in found][:1]


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
            "choices",
            "lists of chosen and of rejected responses",
            "chosen: [...], rejected: [...]",
            _has_choices,
            choices,
            ("chosen", "rejected"),
            lambda found: ("chosen", "rejected"),
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
        Format(
            "last_turn",
            "a rejected response beside the chosen one that ends the conversation",
            "messages, rejected_response (or response, rejected_response)",
            _has_last_turn,
            last_turn,
            ("rejected",),
            lambda found: (*_PAIR, "response"),
        ),
        Format(
            "tree",
            "trees of messages with ranked replies",
            "prompt: {text, role, replies: [{text, role, rank}]}",
            _has_tree,
            tree,
            ("prompt",),
            gather=Nested,
        ),
        Format(
            "messages",
            "messages of trees with ranked replies, one a row",
            "message_id, parent_id, text, role, rank",
            _has("message_id", "parent_id", "text", "role", "rank"),
            message,
            ("message_id", "parent_id", "text", "role", "rank"),
            lambda found: ("message_id", "parent_id", "text", "role", "rank", "deleted"),
            OneByOne,
        ),
        Format(
            "label_studio",
            "a Label Studio export of pairwise labels",
            "data, annotations",
            _has_task,
            label_studio,
            ("data", "annotations"),
            lambda found: ("data", "annotations"),
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
            reads=_reads_sides("winner", "scores"),
        ),
        Format(
            "scored",
            "two responses with scores",
            "response_a, response_b, score_a, score_b",
            _has_scores,
            scored,
            reads=_reads_sides("scores"),
        ),
        Format(
            "pointwise",
            "single responses with a score or a label",
            "prompt, response, score (or label)",
            _has_point,
            pointwise,
            reads=_reads_point,
            gather=Points,
        ),
    )
}


def detect(rows: Sequence[Row], formats: Mapping[str, Format] = FORMATS) -> tuple[Format, str] | None:
    """The format of some rows, and one sentence that says by what it was recognised; None when none of `formats` fits.

    >>> detect([{"prompt": "Hi", "chosen": "Hello", "rejected": "No"}])[1]
    'chosen and rejected responses, the prompt in column prompt (format=preference)'
    """
    columns = {column: True for row in rows for column in row}
    for entry in formats.values():
        if entry.fits(columns, rows):
            return entry, f"{_describe(entry, rows, columns)} (format={entry.name})"
    return None


def _describe(entry: Format, rows: Sequence[Row], columns: Mapping[str, Any]) -> str:
    if entry.name in {"sharegpt", "alpaca", "dialogue"}:
        return entry.title
    names = [name for part in ("prompt", "input", "history", "context") for name in NAMES[part]]
    given = [name for name in names if any(row.get(name) for row in rows)]
    # A column that was given the name of its part (messages: history) keeps its own name in the sentence.
    copies = {part for name in given if (part := RENAMED.get(name)) != name}
    given = [name for name in given if name not in copies]
    prompt = next((name for name in given if name != "prompt"), None) or next(iter(given), None)
    where = f"the prompt in column {prompt}" if prompt else "the shared beginning is the prompt"
    if entry.name == "preference" and any(isinstance(row.get("chosen"), list | dict) for row in rows):
        return f"chosen and rejected messages, {where}"
    sides = find_sides(columns) if entry.name in {"votes", "strength", "scored"} else None
    return f"{entry.title}{f' ({sides.first}, {sides.second})' if sides else ''}, {where}"
