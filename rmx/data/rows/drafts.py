"""What every row format shares: the parts of a comparison, checks of its turns, and the numbers beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rmx.data.accounting import RowFault
from rmx.data.rows.messages import check_prompt, check_response, dialogue_messages, to_messages
from rmx.data.rows.tools import tools_in_one_spelling
from rmx.records import Message, Pair

__all__ = [
    "PROMPT_COLUMNS",
    "Cell",
    "Draft",
    "Row",
    "RowOptions",
    "answer",
    "finish",
    "kind",
    "needed",
    "number",
    "prompt_messages",
    "prompt_of",
    "same",
    "split_shared",
]

Row = Mapping[str, Any]

# Where a prompt may stand when it has no column named `prompt`; the first one found counts.
PROMPT_COLUMNS = ("prompt", "question", "query", "instruction", "context", "history")


class Cell(str):
    """A CSV cell: text that may stand for a number, because a CSV file has no types."""

    __slots__ = ()


class Draft(NamedTuple):
    """What one row says, before it has an id."""

    prompt: list[Message]
    responses: list[list[Message]]
    pairs: tuple[Pair, ...]
    tools: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class RowOptions:
    """The choices a conversion leaves to the user; explained at `PreferenceData`."""

    ties: Literal["drop", "keep"] = "drop"
    min_gap: float = 0.0
    margin_from_scores: float = 0.0
    pair_weighting: Literal["each", "per_prompt"] = "each"
    repeated_roles: Literal["keep", "merge", "reject"] = "keep"


def finish(
    row: Row,
    options: RowOptions,
    prompt: list[Message],
    responses: list[list[Message]],
    pairs: tuple[Pair, ...] | None = None,
) -> Draft:
    """Check the turns, add system message and tools, and read what the row says about the pair."""
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        if prompt and prompt[0]["role"] == "system":
            raise RowFault("wrong order", "a system column beside a system message")
        prompt = [{"role": "system", "content": str(system)}, *prompt]
    if options.repeated_roles != "keep":
        prompt = _join_repeated(prompt, options, "prompt")
        responses = [_join_repeated(r, options, f"response {k}") for k, r in enumerate(responses, 1)]
    check_prompt(prompt)
    names = ("chosen", "rejected") if pairs is None else tuple(f"response {k}" for k in range(1, len(responses) + 1))
    for side, response in zip(names, responses, strict=True):
        check_response(response, side)
    if pairs is None:
        if same(responses[0], responses[1]):
            raise RowFault("identical responses")
        pairs = (_pair(row, options),)
    return Draft(prompt, responses, pairs, tools_in_one_spelling(row.get("tools")))


def split_shared(a: list[Message], b: list[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The shared beginning of two conversations by message, and what follows it on each side.

    The cut goes back to a place where the assistant has the word on both sides, so that a response is all that the
    assistant (and its tools) did from there. When a *user* turn follows the cut, the sides answer different prompts.

    Raises:
        RowFault: the two sides are the same, or answer different prompts.
    """
    if a == b:
        raise RowFault("identical responses" if a and a[-1]["content"].strip() else "empty response")
    for name, side in (("chosen", a), ("rejected", b)):
        if side[-1]["role"] != "assistant":
            raise RowFault("wrong order", f"{name} ends with the {side[-1]['role']}'s turn")
    shortest, n = min(len(a), len(b)), 0
    while n < shortest - 1 and a[n] == b[n]:
        n += 1
    while n and not (a[n]["role"] == b[n]["role"] == "assistant" != a[n - 1]["role"]):
        n -= 1
    for side in (a, b):
        for number, message in enumerate(side[n:], n + 1):
            if message["role"] in {"user", "system"}:
                raise RowFault("prompts differ", f"the sides part at message {n + 1}; message {number} is the user's")
    return a[:n], [a[n:], b[n:]]


def prompt_of(row: Row) -> Any:
    """The prompt of a row, from the first of `PROMPT_COLUMNS` that has one."""
    for column in PROMPT_COLUMNS:
        value = row.get(column)
        if value is not None:
            return value
    return None


def needed(row: Row, column: str) -> Any:
    """The value of a column that a row must have.

    Raises:
        RowFault: absent or null.
    """
    value = row.get(column)
    if value is None:
        raise RowFault("missing column", f"{column} is {'null' if column in row else 'absent'}")
    return value


def answer(text: Any, side: str) -> list[Message]:
    """One response given as text."""
    if not isinstance(text, str):
        raise RowFault("wrong type", f"{side} is a {kind(text)}, not text")
    return [{"role": "assistant", "content": str(text)}]  # a cell of a table becomes plain text


def prompt_messages(value: Any, column: str) -> list[Message]:
    """A prompt as text, dialogue or messages; null and absent are an empty prompt."""
    if value is None:
        return []
    if isinstance(value, str):
        if value.lstrip().startswith("Human:") and "\n\nAssistant:" in value:
            turns = dialogue_messages(value)
            return turns[:-1] if turns[-1]["role"] == "assistant" and not turns[-1]["content"] else turns
        return [{"role": "user", "content": str(value)}]
    if isinstance(value, list | dict):
        return to_messages(value, column)
    raise RowFault("wrong type", f"{column} is a {kind(value)}, neither text nor messages")


def number(value: Any, column: str, low: float = -1e6, high: float = 1e6) -> float:
    """A finite number within [low, high]; a CSV cell may spell it.

    Raises:
        RowFault: null, text, NaN, infinite or out of range.
    """
    if isinstance(value, Cell):
        try:
            value = float(value)
        except ValueError:
            raise RowFault("number not usable", f"{column} is no number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowFault("number not usable", f"{column} is {'null' if value is None else 'a ' + kind(value)}")
    if (isinstance(value, int) and abs(value) > 1e18) or not math.isfinite(value) or not low <= value <= high:
        raise RowFault("number not usable", f"{column} is not a finite number in [{low:g}, {high:g}]")
    return float(value)


def _pair(row: Row, options: RowOptions) -> Pair:
    margin = number(row["margin"], "margin") if "margin" in row else 0.0
    weight = number(row["weight"], "weight", low=0.0) if "weight" in row else 1.0
    if options.margin_from_scores and "score_chosen" in row:
        gap = number(row["score_chosen"], "score_chosen") - number(row.get("score_rejected"), "score_rejected")
        margin += options.margin_from_scores * gap
    tie = row.get("tie", False)
    if isinstance(tie, Cell):
        tie = tie.strip().lower() in {"1", "true", "yes"}
    if not isinstance(tie, bool | int):
        raise RowFault("number not usable", "tie is neither true nor false")
    if tie:
        if options.ties == "drop":
            raise RowFault("no preference", "a tie; data.ties=keep uses it")
        return Pair(0, 1, 0.0, 0.5, weight, True)
    target = 1.0
    if "target" in row:
        target = number(row["target"], "target", 0.0, 1.0)
    elif "votes_chosen" in row and "votes_rejected" in row:
        votes = [number(row[key], key, low=0.0) for key in ("votes_chosen", "votes_rejected")]
        if sum(votes) == 0:
            raise RowFault("number not usable", "no votes on either side")
        target = votes[0] / sum(votes)
    if target < 0.5:  # the annotators prefer the other side
        return Pair(1, 0, -margin, 1.0 - target, weight)
    if margin == 0.0 and target == 1.0 and weight == 1.0:
        return _PLAIN
    return Pair(0, 1, margin, target, weight)


_PLAIN = Pair(0, 1)


def same(a: list[Message], b: list[Message]) -> bool:
    """Whether two responses say the same, but for white space at their ends."""
    if len(a) != len(b):
        return False
    return a == b or all(
        {**x, "content": x["content"].strip()} == {**y, "content": y["content"].strip()}
        for x, y in zip(a, b, strict=True)
    )


def _join_repeated(messages: list[Message], options: RowOptions, place: str) -> list[Message]:
    out: list[Message] = []
    for message in messages:
        plain = message.keys() == {"role", "content"} and message["role"] != "tool"
        if out and plain and out[-1]["role"] == message["role"] and out[-1].keys() == message.keys():
            if options.repeated_roles == "reject":
                raise RowFault("wrong order", f"{place}: two turns of the {message['role']} in a row")
            out[-1] = {"role": message["role"], "content": f"{out[-1]['content']}\n\n{message['content']}"}
        else:
            out.append(message)
    return out


def kind(value: Any) -> str:
    """The type of a value, in words for messages."""
    return {"dict": "object", "NoneType": "null", "bool": "boolean"}.get(type(value).__name__, type(value).__name__)
