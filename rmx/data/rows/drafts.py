"""What every row format shares: the parts of a comparison, checks of its turns, and the numbers beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from rmx.data.accounting import RowFault
from rmx.data.rows.messages import check_prompt, check_response, dialogue_messages, is_dialogue, to_messages
from rmx.data.rows.tools import tools_in_one_spelling
from rmx.records import Message, Pair

__all__ = [
    "Cell",
    "Draft",
    "Row",
    "RowOptions",
    "alternating",
    "answer",
    "decided",
    "kind",
    "make_draft",
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
    remarks: tuple[str, ...] = ()  # keys of `rmx.data.accounting.REMARKS`


@dataclass(frozen=True, slots=True)
class RowOptions:
    """The choices a conversion leaves to the user; explained at `PreferenceData`.

    Conversions put into `met` what rows gave these choices to work on, so that one that never had anything to work
    on can be refused: `scores` (numbers of a size that means something), `ties` (rows that can say "no winner") and
    `lists` (rows that can make more than one pair).
    """

    ties: Literal["drop", "keep"] = "drop"
    min_gap: float = 0.0
    margin_from_scores: float = 0.0
    pair_weighting: Literal["each", "per_prompt"] = "each"
    repeated_roles: Literal["keep", "merge", "reject"] = "keep"
    met: set[str] = field(default_factory=set, compare=False, repr=False)


def make_draft(
    row: Row,
    options: RowOptions,
    prompt: list[Message],
    responses: list[list[Message]],
    pairs: tuple[Pair, ...] | None = None,
    remarks: tuple[str, ...] = (),
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
        pair, remarks = _pair(row, options)
        pairs = (pair,)
    return Draft(prompt, responses, pairs, tools_in_one_spelling(row.get("tools")), remarks)


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


def split_shared(
    a: list[Message], b: list[Message], *, whole: bool = False
) -> tuple[list[Message], list[list[Message]]]:
    """The shared beginning of two conversations by message, and what follows it on each side.

    The cut goes back to a place where the assistant has the word on both sides, so that a response is all that the
    assistant (and its tools) did from there. When a *user* turn follows the cut, the sides answer different prompts;
    but annotators who saw `whole` conversations, each going its own way, compared all that follows the cut, the user's
    turns included.

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
            if message["role"] in {"user", "system"} and not (whole and number > n + 1):
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
    if isinstance(value, dict) and value.keys().isdisjoint(_ROLES):  # WebGPT's question, an object with its text
        text = next((value[name] for name in _PROMPT_TEXTS if isinstance(value.get(name), str)), None)
        if text is not None:
            return [{"role": "user", "content": text}]
    if isinstance(value, list | dict):
        return to_messages(value, column)
    raise RowFault("wrong type", f"{column} is a {kind(value)}, neither text nor messages")


_PROMPT_TEXTS = ("full_text", "text", "content")


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


def decided(
    options: RowOptions,
    first: float,
    gap: float | None = None,
    margin: float = 0.0,
    weight: float = 1.0,
) -> tuple[Pair, tuple[str, ...]]:
    """The pair of responses 0 and 1, and what is remarkable about it.

    Args:
        options: `ties`, `min_gap` and `margin_from_scores` act here.
        first: share of annotators who prefer response 0: 1 it wins, 0 the other wins, 1/2 a tie.
        gap: score of response 0 minus that of response 1, where both have one.
        margin: what the row itself says about the lead of response 0, in reward units.
        weight: of the pair.

    The winner is who the annotators prefer, never who has the better score. With `won` = the winner's score minus the
    loser's, a pair with `won` < `min_gap` is left out, and `margin_from_scores` x max(`won`, 0) joins the margin:
    scores that contradict the label are counted, but ask for no negative lead. When the annotators prefer response 1,
    the row's own margin turns round with the pair and is then 0 at least: a lead that the row gives to the losing
    side is dropped, and counted.

    >>> decided(RowOptions(margin_from_scores=0.5), 1.0, gap=3.0)
    (Pair(winner=0, loser=1, margin=1.5, target=1.0, weight=1.0, tie=False), ())
    >>> decided(RowOptions(), 0.25, margin=0.5)  # three of four prefer the other side
    (Pair(winner=1, loser=0, margin=0.0, target=0.75, weight=1.0, tie=False), ('margin against the votes',))

    Raises:
        RowFault: a tie with `ties=drop`, or scores closer than `min_gap`.
    """
    if gap is not None:
        options.met.add("scores")
    if first == 0.5:
        if options.ties == "drop":
            raise RowFault("no preference", "a tie; data.ties=keep uses it")
        return Pair(0, 1, 0.0, 0.5, weight, True), ()
    remarks: tuple[str, ...] = ()
    turned = first < 0.5
    if turned:
        remarks += ("margin against the votes",) if margin > 0.0 else ()
        margin = max(0.0, -margin)
    if gap is not None:
        won = -gap if turned else gap
        if options.min_gap and won < options.min_gap:
            raise RowFault("no preference", "the winner's score is less than data.min_gap above the other")
        if won <= 0.0:
            remarks += ("label against scores" if won < 0.0 else "label between equal scores",)
        margin += options.margin_from_scores * max(0.0, won)
    pair = Pair(1, 0, margin, 1.0 - first, weight) if turned else Pair(0, 1, margin, first, weight)
    return pair, remarks


def _pair(row: Row, options: RowOptions) -> tuple[Pair, tuple[str, ...]]:
    """The pair of a chosen and a rejected response, from the numbers beside them; null is not given."""
    if _NUMBERS.isdisjoint(row):
        return _PLAIN
    first = _share_for_chosen(row, options)
    margin, weight = row.get("margin"), row.get("weight")
    scores = row.get("score_chosen"), row.get("score_rejected")
    if None in scores:
        scores = _scores_beside(row) or (None, None)
    gap = None
    if scores[0] is not None:
        gap = number(scores[0], "score_chosen") - number(scores[1], "score_rejected")
    pair, remarks = decided(
        options,
        first,
        gap,
        0.0 if margin is None else number(margin, "margin"),
        1.0 if weight is None else number(weight, "weight", low=0.0),
    )
    return pair, (*remarks, "no scores") if gap is None and (options.margin_from_scores or options.min_gap) else remarks


_PLAIN: tuple[Pair, tuple[str, ...]] = (Pair(0, 1), ())
_NUMBERS = frozenset(
    {"margin", "weight", "target", "tie", "votes_chosen", "votes_rejected", "score_chosen", "score_rejected", "rating"}
)


def _share_for_chosen(row: Row, options: RowOptions) -> float:
    """The share of annotators who prefer the chosen response: from `tie`, `target`, or votes."""
    tie, target = row.get("tie"), row.get("target")
    if isinstance(tie, Cell):
        tie = tie.strip().lower() in {"1", "true", "yes"}
    if tie is not None and not isinstance(tie, bool | int):
        raise RowFault("number not usable", "tie is neither true nor false")
    given = row.get("votes_chosen"), row.get("votes_rejected")
    if tie is not None or target is not None or None not in given:
        options.met.add("ties")
    if tie:
        return 0.5
    if target is not None:
        return number(target, "target", 0.0, 1.0)
    if None in given:
        return 1.0
    votes = number(given[0], "votes_chosen", low=0.0), number(given[1], "votes_rejected", low=0.0)
    if sum(votes) == 0:
        raise RowFault("number not usable", "no votes on either side")
    return votes[0] / sum(votes)


def _scores_beside(row: Row) -> tuple[Any, Any] | None:
    """Scores in a list `rating` beside the list `generations`, whose texts or `order` say which side each is."""
    ratings, order, texts = row.get("rating"), row.get("order"), row.get("generations")
    if not isinstance(ratings, list):
        return None
    names = order if isinstance(order, list) and {"chosen", "rejected"} <= {*map(str, order)} else None
    if names is None and isinstance(texts, list):
        names = ["chosen" if text == row.get("chosen") else "rejected" for text in texts]
    if names is None or sorted(map(str, names)) != ["chosen", "rejected"] or len(ratings) != 2:
        return None
    return ratings[names.index("chosen")], ratings[names.index("rejected")]


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
