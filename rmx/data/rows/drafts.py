"""What every row format shares: the parts of a comparison, checks of its turns, and the numbers beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from rmx.data.accounting import RowFault
from rmx.data.rows.messages import check_prompt, check_response, dialogue_messages, is_dialogue, to_messages
from rmx.records import Message, Pair

__all__ = [
    "Cell",
    "Draft",
    "Row",
    "RowOptions",
    "alternating",
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
    if prompt and prompt[0]["role"] == "system" and not prompt[0]["content"].strip():
        prompt = prompt[1:]  # an empty system turn says nothing
    if row.get("system") is not None:
        prompt = _with_system(row["system"], prompt)
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
    return Draft(prompt, responses, pairs, _tools(row.get("tools")) if "tools" in row else None)


def _with_system(system: Any, prompt: list[Message]) -> list[Message]:
    """The prompt behind the system message of a column of its own; an empty one is none."""
    if isinstance(system, dict | list) and system:
        said = to_messages(system, "system")
        if len(said) != 1 or said[0]["role"] != "system":
            raise RowFault("wrong type", "system is not one system message")
        system = said[0]["content"]
    if not isinstance(system, str):
        if system or system == 0:
            raise RowFault("wrong type", f"system is a {kind(system)}, not text")
        return prompt
    if not system.strip():
        return prompt
    if prompt and prompt[0]["role"] == "system":
        if prompt[0]["content"].strip() != system.strip():
            raise RowFault("wrong order", "a system column beside another system message")
        return prompt
    return [{"role": "system", "content": str(system)}, *prompt]


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
    """The prompt of a row: the conversation so far and the user's turn; None when there is neither.

    What does not fit together is left out here, and found missing when the comparison is compared with the row.

    >>> prompt_of({"prompt": "Add.", "input": "2+2", "history": [["Hi", "Hello"]]})[-1]
    {'role': 'user', 'content': 'Add.\\n2+2'}
    """
    turn, more = row.get("prompt"), row.get("input")
    if more or more == 0:
        if not isinstance(more, str | list | dict):
            raise RowFault("wrong type", f"input is a {kind(more)}, neither text nor messages")
        turn = f"{turn}\n{more}" if isinstance(turn, str) and turn and isinstance(more, str) else turn or more
    before = next((value for value in (row.get("history"), row.get("context")) if value), None)
    if before is None:
        return turn
    if not isinstance(before, str | list | dict):
        raise RowFault("wrong type", f"the conversation so far is a {kind(before)}, neither text nor messages")
    if turn is None or turn == "":
        return _turns(before)
    if isinstance(before, str) or not isinstance(turn, str):
        return turn
    turns = _turns(before)
    if turns[-1]["role"] == "assistant" and all(message["content"] != turn for message in turns):
        return [*turns, {"role": "user", "content": turn}]
    said = {message["content"].strip() for message in turns}
    return turns if turns[-1]["role"] == "user" and turn.strip() in said else turn


def _turns(value: Any) -> Any:
    """The conversation so far: messages, or LLaMA-Factory's [question, answer] pairs; a text stays a text."""
    if not isinstance(value, list):
        return to_messages(value, "history") if isinstance(value, dict) else value
    if all(isinstance(turn, dict) and not turn.keys().isdisjoint(_ROLES) for turn in value):
        return to_messages(value, "history")
    turns: list[Message] = []
    for turn in value:
        pair = [turn.get("input"), turn.get("output")] if isinstance(turn, dict) else turn
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise RowFault("wrong type", "history holds a turn that is neither a message nor [question, answer]")
        turns.append({"role": "user", "content": pair[0]})
        if pair[1] is not None:
            turns += answer(pair[1], "history")
    return turns


_ROLES = ("role", "from")


def alternating(prompt: Any, *sides: Any) -> tuple[list[Message], list[list[Message]]] | None:
    """A conversation in lists of texts, the user's turns and each side's answers to them; None when it is no such.

    >>> prompt, (first, second) = alternating(["Hi", "Why?"], ["Hello", "So."], ["Yes", "No."])
    >>> prompt, [message["content"] for message in second]  # a response is all that follows where the sides part
    ([{'role': 'user', 'content': 'Hi'}], ['Yes', 'Why?', 'No.'])

    Raises:
        RowFault: turns without an answer, or an empty answer.
    """
    if not (isinstance(prompt, list) and prompt and all(isinstance(turn, str) for turn in prompt)):
        return None
    if not all(isinstance(side, list) and all(t is None or isinstance(t, str) for t in side) for side in sides):
        return None
    talks = []
    for number, side in enumerate(sides, 1):
        if len(side) != len(prompt):
            raise RowFault("wrong order", f"response {number} answers {len(side)} of {len(prompt)} turns of the user")
        if not all(text and text.strip() for text in side):
            raise RowFault("empty response", f"response {number}")
        turns = zip(prompt, side, strict=True)
        talks.append([message for turn in turns for message in (_said("user", turn[0]), _said("assistant", turn[1]))])
    n = 1
    while n < len(talks[0]) - 2 and all(talk[n] == talks[0][n] for talk in talks):
        n += 2
    return talks[0][:n], [talk[n:] for talk in talks]


def _said(role: str, text: str) -> Message:
    return {"role": role, "content": text}


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
        if is_dialogue(value) and not value.lstrip().startswith("Assistant:"):
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
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowFault("number not usable", f"{column} is {'null' if value is None else 'a ' + kind(value)}")
    if (isinstance(value, int) and abs(value) > 1e18) or not math.isfinite(value) or not low <= value <= high:
        raise RowFault("number not usable", f"{column} is not a finite number in [{low:g}, {high:g}]")
    return float(value)


def _pair(row: Row, options: RowOptions) -> Pair:
    given = row.get("margin"), row.get("weight"), row.get("target")  # null is not given
    margin = 0.0 if given[0] is None else number(given[0], "margin")
    weight = 1.0 if given[1] is None else number(given[1], "weight", low=0.0)
    if options.margin_from_scores and row.get("score_chosen") is not None:
        gap = number(row["score_chosen"], "score_chosen") - number(row.get("score_rejected"), "score_rejected")
        margin += options.margin_from_scores * gap
    tie = False if row.get("tie") is None else row["tie"]
    if isinstance(tie, Cell):
        tie = tie.strip().lower() in {"1", "true", "yes"}
    if not isinstance(tie, bool | int):
        raise RowFault("number not usable", "tie is neither true nor false")
    if tie:
        if options.ties == "drop":
            raise RowFault("no preference", "a tie; data.ties=keep uses it")
        return Pair(0, 1, 0.0, 0.5, weight, True)
    target = 1.0
    if given[2] is not None:
        target = number(given[2], "target", 0.0, 1.0)
    elif row.get("votes_chosen") is not None and row.get("votes_rejected") is not None:
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


def _tools(value: Any) -> tuple[dict[str, Any], ...] | None:
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RowFault("wrong type", "tools is text, but not JSON") from error
    if not value:
        return None
    if not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
        raise RowFault("wrong type", "tools is not a list of objects")
    return tuple(value)


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
