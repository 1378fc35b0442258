"""Rows that are to be scored: the shapes of training, and those that name no winner.

candidates   {"prompt": "2+2?", "responses": ["4", "5"]}                  K responses, in the order of the row
two_sides    {"prompt": "2+2?", "response_a": "4", "response_b": "5"}
single       {"prompt": "2+2?", "response": "4"}
             {"messages": [user, assistant]}                              the last turn is the response
             ... and the preference pairs of training: chosen is response 0, rejected is response 1

Labels, ranks and scores beside the responses are not read: what is asked for is the model's own opinion. Trees, and
single responses that belong together, are rows of their own here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rmx.data.accounting import RowFault
from rmx.data.rows.columns import NAMES
from rmx.data.rows.detect import FORMATS, Format
from rmx.data.rows.drafts import Draft, Row, RowOptions, make_draft, needed, prompt_messages, prompt_of
from rmx.data.rows.lists import LISTS, records, response_of
from rmx.data.rows.messages import to_messages
from rmx.data.rows.single import RESPONSES
from rmx.data.rows.two_sides import find_sides
from rmx.records import Message

__all__ = ["SCORABLE", "listed_candidates", "single", "split_conversation"]


def listed_candidates(row: Row, options: RowOptions) -> Draft:
    """All responses of a list, in its order; equal ones stay.

    >>> draft = listed_candidates({"prompt": "2+2?", "responses": ["4", {"text": "5"}]}, RowOptions())
    >>> [response[0]["content"] for response in draft.responses], draft.pairs
    (['4', '5'], ())

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    column = next((name for name in LISTS if isinstance(row.get(name), list | dict)), None)
    if column is None:
        raise RowFault("missing column", "responses")
    responses = [response_of(item, f"{column} {k}") for k, item in enumerate(records(row[column]), 1)]
    if not responses:
        raise RowFault("empty response", f"{column} is an empty list")
    return make_draft(row, options, prompt_messages(prompt_of(row), "prompt"), responses, ())


def two_sides(row: Row, options: RowOptions) -> Draft:
    """Both responses of a row with two sides, whoever won."""
    sides = find_sides(row)
    if sides is None:
        raise RowFault("missing column", "two responses")
    responses = [response_of(needed(row, side), side) for side in (sides.first, sides.second)]
    return make_draft(row, options, prompt_messages(prompt_of(row), "prompt"), responses, ())


def single(row: Row, options: RowOptions) -> Draft:
    """The one response of a row: beside a prompt, or the end of a conversation.

    >>> draft = single({"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
    ...                 "history": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]},
    ...                RowOptions())
    >>> draft.prompt[-1]["content"], draft.responses[0][0]["content"]
    ('2+2?', '4')

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    column = next((name for name in RESPONSES if row.get(name) is not None), None)
    if column is None:
        prompt, response = split_conversation(to_messages(needed(row, "history"), "history"))
    else:
        prompt, response = prompt_messages(prompt_of(row), "prompt"), response_of(row[column], column)
    return make_draft(row, options, prompt, [response], ())


def split_conversation(turns: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """The turns up to the user's last one, and what the assistant (with its tools) said since.

    >>> split_conversation([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    ([{'role': 'user', 'content': 'Hi'}], [{'role': 'assistant', 'content': 'Hello'}])
    """
    end = len(turns)
    while end and turns[end - 1]["role"] != "user":
        end -= 1
    return list(turns[:end]), list(turns[end:])


def _has_list(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    return any(isinstance(row.get(name), list | dict) for row in rows for name in LISTS)


def _has_single(found: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    if any(name in found for name in RESPONSES):
        return True
    return any(isinstance(row.get(name), list) for row in rows for name in NAMES["history"])


def _reads_first(*groups: Sequence[str]) -> Any:
    def reads(found: Mapping[str, Any]) -> Iterable[str]:
        for names in groups:
            yield from [name for name in names if name in found][:1]

    return reads


def _reads_sides(found: Mapping[str, Any]) -> Iterable[str]:
    sides = find_sides(found)
    return () if sides is None else (sides.first, sides.second)


_PAIRS = ("sharegpt", "alpaca", "choices", "dialogue", "preference", "last_turn")

SCORABLE: dict[str, Format] = {
    **{name: FORMATS[name] for name in _PAIRS},
    "candidates": Format(
        "candidates",
        "a prompt with candidates",
        "prompt, responses: [...]",
        _has_list,
        listed_candidates,
        reads=_reads_first(LISTS),
    ),
    "two_sides": Format(
        "two_sides",
        "two responses side by side",
        "response_a, response_b",
        lambda found, rows: find_sides(found) is not None,
        two_sides,
        reads=_reads_sides,
    ),
    "single": Format(
        "single",
        "single responses",
        "prompt, response (or messages)",
        _has_single,
        single,
        reads=_reads_first(RESPONSES),
    ),
}
