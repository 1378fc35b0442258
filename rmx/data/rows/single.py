"""Rows with one response each and what was thought of it → one comparison per prompt.

pointwise   {"prompt": "2+2?", "response": "4", "score": 9}                a score; more is better
            {"prompt": "2+2?", "completion": "4", "label": true}           a label: good or not (KTO)
            {"messages": [user, assistant], "label": false}                the last turn is the response

The rows of one prompt are compared with each other, wherever they stand in the file. Scores are graded: differences
count for `min_gap`, `margin_from_scores` and ties. Labels are not: every good response beats every other one. A
prompt whose rows make no pair (one row, one kind of label, equal scores) is left out and its rows are counted.

The texts of all rows are held in memory until the last row is read, with `data.streaming`, too: only then is it known
which rows belong together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from rmx.data.accounting import RowFault
from rmx.data.rows.columns import NAMES
from rmx.data.rows.drafts import Draft, Row, RowOptions, make_draft, needed, number, prompt_messages, prompt_of
from rmx.data.rows.gathering import Joined, Place
from rmx.data.rows.lists import SCORES, rank, response_of, yes_or_no
from rmx.data.rows.messages import to_messages
from rmx.records import Message, Pair

__all__ = ["LABELS", "RESPONSES", "Points", "pointwise", "score_of"]

RESPONSES = NAMES["response"]
LABELS = ("label", "kto_tag", "is_safe")


def pointwise(row: Row, options: RowOptions) -> Draft:
    """The prompt and the one response of a row; `Points` compares the rows of one prompt.

    >>> draft = pointwise({"prompt": "2+2?", "completion": "4", "label": True}, RowOptions())
    >>> draft.prompt[0]["content"], draft.responses[0][0]["content"]
    ('2+2?', '4')

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    score_of(row)
    column = next((name for name in RESPONSES if row.get(name) is not None), None)
    if column is None:
        prompt, response = _last_turn(row)
    else:
        prompt, response = prompt_messages(prompt_of(row), "prompt"), response_of(row[column], column)
    return make_draft(row, options, prompt, [response], (Pair(0, 0),))


def score_of(row: Row) -> tuple[float, bool]:
    """What was thought of the response: a number, more is better, and whether it is a score or only a label.

    >>> score_of({"score": 9}), score_of({"label": "undesirable"})
    ((9.0, True), (0.0, False))

    Raises:
        RowFault: not given, or not usable.
    """
    column = next((name for name in SCORES if row.get(name) is not None), None)
    if column is not None:
        return number(row[column], column), True
    column = next((name for name in LABELS if row.get(name) is not None), None)
    label = None if column is None else yes_or_no(row[column], column)
    if label is None:
        raise RowFault("missing column", "neither a score nor a label is given")
    return float(label), False


def _last_turn(row: Row) -> tuple[list[Message], list[Message]]:
    """A conversation that ends with the response: what the assistant said since the user's last turn."""
    turns = to_messages(needed(row, "history"), "history")
    n = len(turns)
    while n and turns[n - 1]["role"] != "user":
        n -= 1
    return turns[:n], turns[n:]


class _Point(NamedTuple):
    response: list[Message]
    value: float
    graded: bool
    weight: float
    own_id: object
    place: Place


class Points:
    """Single responses on their way to one comparison per prompt; all are held until the last row."""

    def __init__(self, options: RowOptions) -> None:
        self.options = options
        self.groups: dict[str, tuple[Draft, list[_Point]]] = {}

    def add(self, row: Row, draft: Draft, place: Place) -> tuple[Joined, ...]:
        """Take in one row."""
        key = json.dumps([draft.prompt, draft.tools], sort_keys=True)
        value, graded = score_of(row)
        weight = 1.0 if row.get("weight") is None else number(row["weight"], "weight", low=0.0)
        point = _Point(draft.responses[0], value, graded, weight, row.get("id"), place)
        self.groups.setdefault(key, (draft, []))[1].append(point)
        return ()

    def rest(self) -> Iterator[Joined]:
        """One comparison per prompt, in the order of first appearance."""
        for first, points in self.groups.values():
            yield Joined(self._compared(first, points), points[0].own_id, points[0].place, len(points))

    def _compared(self, first: Draft, points: list[_Point]) -> Draft | None:
        responses, values = [point.response for point in points], [point.value for point in points]
        row: dict[str, Any] = {}
        graded = all(point.graded for point in points)
        try:
            draft = rank(
                row, self.options, first.prompt, responses, values, graded=graded, weights=[p.weight for p in points]
            )
        except RowFault:  # one response, equal ones, or scores too close: good rows, but nothing to compare
            return None
        return draft._replace(tools=first.tools)
