"""Rows with two or more responses and what was thought of them → the parts of a comparison.

ranked      {"prompt": "2+2?", "responses": ["4", "5", "22"], "ranks": [1, 2, 3]}    1 is best; or "scores": [9, 4, 1]
            {"prompt": "2+2?", "answers": [{"answer": "4", "rank": 1}, ...]}              Nectar
            {"instruction": "2+2?", "completions": [{"response": "4", "overall_score": 9}, ...]}    UltraFeedback
            {"prompt": "2+2?", "responses": ["4", "5", "22"]}           best first, only with data.format=ranked
votes       {"prompt": "2+2?", "response_a": "4", "response_b": "5", "winner": "model_a"}          arena style
            {"conversation_a": [...], "conversation_b": [...], "winner": "tie"}
strength    {"prompt": "2+2?", "response_1": "4", "response_2": "5", "preference_strength": -2}    HelpSteer 2, 3:
            from -3, the first is much better, to 3, the second is much better; 0 is a tie
scored      {"prompt": "2+2?", "response_a": "4", "response_b": "5", "score_a": 9, "score_b": 1}
pointwise   {"prompt": "2+2?", "response": "4", "score": 9}     one response a row; rows of one prompt are compared

K responses are one comparison: each is scored once, and every two of them that differ by `data.min_gap` or more make
a pair, up to K(K-1)/2. They are stored from best to worst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rmx.data.accounting import RowFault
from rmx.data.rows.columns import ENDS, NAMES, STEMS
from rmx.data.rows.drafts import (
    Draft,
    Row,
    RowOptions,
    alternating,
    answer,
    finish,
    kind,
    needed,
    number,
    prompt_messages,
    prompt_of,
    same,
    split_shared,
)
from rmx.data.rows.messages import to_messages
from rmx.records import Message, Pair

__all__ = ["LISTS", "SCORES", "Sides", "find_sides", "gather", "pointwise", "ranked", "scored", "strength", "votes"]

LISTS = NAMES["responses"]
_TEXTS = ("response", "answer", "text", "content", "completion", "output")
SCORES = NAMES["score"]


def ranked(row: Row, options: RowOptions) -> Draft:
    """A list of responses with ranks (1 is best) or scores (more is better).

    >>> row = {"prompt": "2+2?", "responses": ["5", "4"], "scores": [1, 9]}
    >>> draft = ranked(row, RowOptions(margin_from_scores=0.1))
    >>> draft.responses[0][0]["content"], draft.pairs[0].margin
    ('4', 0.8)

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    column = next((name for name in LISTS if isinstance(row.get(name), list)), None)
    if column is None:
        raise RowFault("missing column", "responses")
    items = row[column]
    responses = [_response(item, f"{column} {k}") for k, item in enumerate(items, 1)]
    given: Any = None
    sign = 1.0
    for name, direction in (("scores", 1.0), ("ratings", 1.0), ("ranks", -1.0), ("rank", -1.0)):
        if isinstance(row.get(name), list):
            given, sign = row[name], direction
            break
    if given is None and all(isinstance(item, Mapping) for item in items):
        given, sign = _values_inside(items)
    if given is None:
        given, sign = list(range(len(items))), -1.0  # no numbers: the list is in order, best first
    if len(given) != len(responses):
        raise RowFault("number not usable", f"{len(given)} ranks or scores for {len(responses)} responses")
    values = [sign * number(value, f"rank or score {k}") for k, value in enumerate(given, 1)]
    return rank(row, options, prompt_messages(prompt_of(row), "prompt"), responses, values)


def votes(row: Row, options: RowOptions) -> Draft:
    """Two responses and the name of the better one, or of a tie.

    >>> row = {"prompt": "2+2?", "response_a": "5", "response_b": "4", "winner": "model_b"}
    >>> votes(row, RowOptions()).pairs[0].winner
    1

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    sides, prompt, responses = _two_sides(row)
    value = row.get(sides.winner) if sides.winner else None
    if value is None:
        flags = [row.get(f"winner_model_{end}") for end in ("a", "b")] + [row.get("winner_tie")]
        if sum(map(_is_yes, flags)) != 1:
            raise RowFault("unknown winner", "no winner column holds exactly one winner")
        outcome = next(k for k, flag in enumerate(flags) if _is_yes(flag))
    else:
        outcome = _outcome(value, sides)
    gap = {0: 1.0, 1: -1.0, 2: 0.0}[outcome]
    return _two(row, options, prompt, responses, gap, graded=False)


def strength(row: Row, options: RowOptions) -> Draft:
    """Two responses and a signed strength: below 0 the first is better, above 0 the second.

    >>> row = {"prompt": "2+2?", "response_1": "4", "response_2": "5", "preference_strength": -2}
    >>> strength(row, RowOptions(margin_from_scores=0.5)).pairs[0]
    Pair(winner=0, loser=1, margin=1.0, target=1.0, weight=1.0, tie=False)

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    column = "preference_strength" if "preference_strength" in row else "overall_preference"
    value = number(row.get(column), column)
    _, prompt, responses = _two_sides(row)
    return _two(row, options, prompt, responses, -value, graded=True)


def scored(row: Row, options: RowOptions) -> Draft:
    """Two responses with a score each; more is better.

    >>> row = {"prompt": "2+2?", "answer_0": "5", "answer_1": "4", "score_0": -1, "score_1": 1}
    >>> scored(row, RowOptions()).pairs[0].winner
    1

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    sides, prompt, responses = _two_sides(row)
    first, second = (number(row.get(f"score_{end}"), f"score_{end}") for end in sides.ends)
    return _two(row, options, prompt, responses, first - second, graded=True)


def pointwise(row: Row, options: RowOptions) -> Draft:
    """One response and its score; `gather` compares the rows of one prompt. The score stands in the pair's margin.

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    response = _response(needed(row, "response"), "response")
    column = next((name for name in SCORES if name in row), "score")
    value = number(row.get(column), column)
    prompt = prompt_messages(prompt_of(row), "prompt")
    return finish(row, options, prompt, [response], (Pair(0, 0, value),))


def gather(prompt: list[Message], drafts: list[Draft], options: RowOptions) -> Draft:
    """One comparison of the pointwise rows of a prompt.

    Raises:
        RowFault: the scores are too close to make a pair.
    """
    values = [draft.pairs[0].margin for draft in drafts]
    return rank({}, options, prompt, [draft.responses[0] for draft in drafts], values)


# --- Two sides ---


class Sides(NamedTuple):
    """The columns of two responses."""

    first: str
    second: str
    ends: tuple[str, str]  # what their names end with
    winner: str | None  # column that names the winner


_WINNERS = tuple(name for name in NAMES["winner"] if not name.startswith("winner_"))


def find_sides(columns: Mapping[str, Any]) -> Sides | None:
    """The two response columns among `columns`, and the column of the winner if there is one.

    >>> find_sides({"response_a": 1, "response_b": 1, "winner": 1})
    Sides(first='response_a', second='response_b', ends=('a', 'b'), winner='winner')
    """
    for stem in STEMS:
        for ends in ENDS:
            if stem + ends[0] in columns and stem + ends[1] in columns:
                winner = next((name for name in _WINNERS if name in columns), None)
                return Sides(stem + ends[0], stem + ends[1], ends, winner)
    return None


def _is_yes(flag: Any) -> bool:
    return str(flag) in {"1", "1.0", "True", "true"}


def _two_sides(row: Row) -> tuple[Sides, list[Message], list[list[Message]]]:
    sides = find_sides(row)
    if sides is None:
        raise RowFault("missing column", "no two columns such as response_a and response_b")
    first, second = needed(row, sides.first), needed(row, sides.second)
    turns = alternating(row.get("prompt"), first, second)
    if turns is not None:
        return sides, *turns
    responses = [_response(first, sides.first), _response(second, sides.second)]
    prompt = prompt_of(row)
    if prompt is None and all(response[0]["role"] != "assistant" for response in responses if response):
        before, responses = split_shared(*responses)
        return sides, before, responses
    return sides, prompt_messages(prompt, "prompt"), responses


def _outcome(value: Any, sides: Sides) -> int:
    """0: the first side wins, 1: the second, 2: a tie.

    A number means the side whose column ends with it; in SHP's `labels`, 1 is side A and 0 side B.
    """
    text = str(value).strip().lower() if not isinstance(value, bool) else str(int(value))
    text = text.removesuffix(".0")
    if sides.winner == "labels" and sides.ends == ("A", "B") and text in {"0", "1"}:
        return 1 - int(text)
    if text.startswith("tie") or text in {"draw", "both", "neither", "both_bad", "both bad", "equal", "same"}:
        return 2
    for outcome, (column, end) in enumerate(zip((sides.first, sides.second), sides.ends, strict=True)):
        if text in {column.lower(), end.lower(), f"model_{end.lower()}", f"response_{end.lower()}"}:
            return outcome
    raise RowFault("unknown winner", f"{sides.winner} is neither side nor a tie")


def _two(
    row: Row, options: RowOptions, prompt: list[Message], responses: list[list[Message]], gap: float, graded: bool
) -> Draft:
    """A pair from the sign of `gap` (first minus second); `graded` when its size means something."""
    if same(responses[0], responses[1]):
        raise RowFault("identical responses")
    weight = number(row["weight"], "weight", low=0.0) if "weight" in row else 1.0
    if gap == 0 or (graded and abs(gap) < options.min_gap):
        if options.ties == "drop" or gap != 0:
            raise RowFault("no preference", "a tie, or a gap below data.min_gap; data.ties=keep uses ties")
        pair = Pair(0, 1, 0.0, 0.5, weight, True)
    else:
        margin = options.margin_from_scores * abs(gap) if graded else 0.0
        pair = Pair(0, 1, margin, 1.0, weight) if gap > 0 else Pair(1, 0, margin, 1.0, weight)
    return finish(row, options, prompt, responses, (pair,))


# --- Lists ---


def rank(
    row: Row, options: RowOptions, prompt: list[Message], responses: list[list[Message]], values: list[float]
) -> Draft:
    """Responses from best to worst by `values`, and a pair for every two that differ enough."""
    if len(responses) < 2:
        raise RowFault("too few responses", f"{len(responses)}")
    order = sorted(range(len(values)), key=lambda k: -values[k])
    kept: list[int] = []
    for k in order:  # a response given twice counts once, at its better place
        if not any(same(responses[k], responses[other]) for other in kept):
            kept.append(k)
    if len(kept) < 2:
        raise RowFault("identical responses")
    found = list(_pairs([values[k] for k in kept], options))
    if not found:
        raise RowFault("no preference", "all ranks or scores are equal, or closer than data.min_gap")
    weight = number(row["weight"], "weight", low=0.0) if "weight" in row else 1.0
    if options.pair_weighting == "per_prompt":
        weight /= len(found)
    pairs = tuple(Pair(i, j, margin, 0.5 if tie else 1.0, weight, tie) for i, j, margin, tie in found)
    return finish(row, options, prompt, [responses[k] for k in kept], pairs)


def _pairs(values: list[float], options: RowOptions) -> Iterator[tuple[int, int, float, bool]]:
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            gap = values[i] - values[j]
            if gap > 0 and gap >= options.min_gap:
                yield i, j, options.margin_from_scores * gap, False
            elif gap == 0 and options.ties == "keep":
                yield i, j, 0.0, True


def _response(item: Any, place: str) -> list[Message]:
    """A response as text, as one message, as messages, or as an object that holds one of these."""
    if isinstance(item, str):
        return answer(item, place)
    if isinstance(item, Mapping) and not ("role" in item or "from" in item):
        inner = next((item[name] for name in _TEXTS if item.get(name) is not None), None)
        if inner is None:
            raise RowFault("missing column", f"{place} has no {', '.join(_TEXTS)}")
        return _response(inner, place)
    if item is None:
        raise RowFault("missing column", f"{place} is null")
    if isinstance(item, list | dict):
        return to_messages(item, place)
    raise RowFault("wrong type", f"{place} is a {kind(item)}")


def _values_inside(items: list[Any]) -> tuple[list[Any] | None, float]:
    for names, sign in ((SCORES, 1.0), (("rank",), -1.0)):
        for name in names:
            if any(item.get(name) is not None for item in items):
                return [item.get(name) for item in items], sign
    return None, 1.0
