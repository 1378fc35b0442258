"""Rows with two responses side by side and what was thought of them → the parts of a comparison.

votes       {"prompt": "2+2?", "response_a": "4", "response_b": "5", "winner": "model_a"}          arena style
            {"conversation_a": [...], "conversation_b": [...], "winner": "tie"}
            {"prompt": "2+2?", "response_0": "4", "response_1": "5", "better_response_id": 0}      PKU-SafeRLHF
            {"data": {"prompt": "2+2?", "answer1": "4", "answer2": "5"}, "annotations": [...]}     Label Studio
strength    {"prompt": "2+2?", "response_1": "4", "response_2": "5", "preference_strength": -2}    HelpSteer 2, 3:
            from -3, the first is much better, to 3, the second is much better; 0 is a tie
scored      {"prompt": "2+2?", "response_a": "4", "response_b": "5", "score_a": 9, "score_b": 1}
            {"prompt": "2+2?", "response-1": "4", "response-2": "5", "rating-1": 9, "rating-2": 1}   argilla

Two whole conversations are compared from where they part. Each side then has its own turns, the user's included: the
annotators saw both conversations to the end, so the response is all that follows, and its reward is read after its
last turn.

PKU-SafeRLHF has two labels; `better_response_id` (helpfulness) is read, `data.columns={winner: safer_response_id}`
reads the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rmx.data.accounting import RowFault
from rmx.data.rows.columns import ENDS, NAMES, STEMS
from rmx.data.rows.drafts import (
    Draft,
    Row,
    RowOptions,
    alternating,
    decided,
    make_draft,
    needed,
    number,
    prompt_messages,
    prompt_of,
    same,
    split_shared,
)
from rmx.data.rows.lists import records, response_of
from rmx.records import Message

__all__ = ["Sides", "find_sides", "label_studio", "scored", "strength", "votes"]


def votes(row: Row, options: RowOptions) -> Draft:
    """Two responses and the name of the better one, or of a tie; scores beside the label make margins.

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
        first = _FIRST[next(k for k, flag in enumerate(flags) if _is_yes(flag))]
    else:
        said = _submitted(value)
        first = sum(_FIRST[_outcome(one, sides)] for one in said) / len(said)
    return _two(row, options, prompt, responses, first, _gap(row, sides))


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
    return _two(row, options, prompt, responses, _sign(-value), -value)


def scored(row: Row, options: RowOptions) -> Draft:
    """Two responses with a score each; more is better.

    >>> row = {"prompt": "2+2?", "answer_0": "5", "answer_1": "4", "score_0": -1, "score_1": 1}
    >>> scored(row, RowOptions()).pairs[0].winner
    1

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    sides, prompt, responses = _two_sides(row)
    gap = _gap(row, sides)
    if gap is None:
        raise RowFault("number not usable", f"a score of {sides.first} or {sides.second} is not given")
    return _two(row, options, prompt, responses, _sign(gap), gap)


def label_studio(row: Row, options: RowOptions) -> Draft:
    """A task of a Label Studio export: what was shown in `data`, who was selected in `annotations`.

    Several annotators are votes: their share is the pair's target, one half is a tie. Cancelled annotations and
    those without a pairwise result are no votes.

    >>> result = [{"type": "pairwise", "to_name": "answer1,answer2", "value": {"selected": "right"}}]
    >>> task = {"data": {"prompt": "2+2?", "answer1": "5", "answer2": "4"}, "annotations": [{"result": result}]}
    >>> label_studio(task, RowOptions()).pairs[0].winner
    1

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    data, annotations = needed(row, "data"), needed(row, "annotations")
    if not isinstance(data, Mapping) or not isinstance(annotations, list):
        raise RowFault("wrong type", "data is not an object, or annotations is not a list")
    results = [
        result
        for annotation in annotations
        if isinstance(annotation, Mapping) and not annotation.get("was_cancelled")
        for result in annotation.get("result") or []
        if isinstance(result, Mapping) and result.get("type") == "pairwise"
    ]
    if not results:
        raise RowFault("no preference", "no annotation has a pairwise result")
    shown = _named_by(results[0], data) or find_sides(data)
    if shown is None:
        raise RowFault("missing column", "data has no two columns such as answer1 and answer2")
    task = {**row, **_as_parts(data)}
    prompt, responses = _parted(task, needed(data, shown.first), needed(data, shown.second), shown)
    first = sum(_FIRST[_outcome(result.get("value"), shown)] for result in results) / len(results)
    return _two(task, options, prompt, responses, first)


def _as_parts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a prompt that a task shows, by rmx's names."""
    wanted = ("prompt", "input", "history", "context", "system", "tools")
    found = {part: next((data[name] for name in NAMES[part] if data.get(name)), None) for part in wanted}
    return {part: value for part, value in found.items() if value is not None}


# --- The two sides ---


class Sides(NamedTuple):
    """The columns of two responses."""

    first: str
    second: str
    ends: tuple[str, str]  # what their names end with
    winner: str | None  # column that names the winner


_WINNERS = tuple(name for name in NAMES["winner"] if not name.startswith("winner_"))
_SIDE_SCORES = ("score_{}", "rating_{}", "rating-{}", "score-{}", "score{}", "rating{}")


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


def side_scores(columns: Mapping[str, Any], sides: Sides) -> tuple[str, str] | None:
    """The columns of the two sides' scores."""
    for name in _SIDE_SCORES:
        first, second = (name.format(end) for end in sides.ends)
        if first in columns and second in columns:
            return first, second
    return None


def _named_by(result: Mapping[str, Any], data: Mapping[str, Any]) -> Sides | None:
    """The columns that a pairwise result names as those compared, left and right."""
    names = [name.strip() for name in str(result.get("to_name", "")).split(",")]
    if len(names) == 2 and all(name in data for name in names):
        return Sides(names[0], names[1], ("left", "right"), None)
    return None


def _two_sides(row: Row) -> tuple[Sides, list[Message], list[list[Message]]]:
    sides = find_sides(row)
    if sides is None:
        raise RowFault("missing column", "no two columns such as response_a and response_b")
    return sides, *_parted(row, needed(row, sides.first), needed(row, sides.second), sides)


def _parted(row: Row, first: Any, second: Any, sides: Sides) -> tuple[list[Message], list[list[Message]]]:
    """The prompt and the two responses; two whole conversations are compared from where they part."""
    turns = alternating(row.get("prompt"), first, second)
    if turns is not None:
        return turns
    responses = [response_of(first, sides.first), response_of(second, sides.second)]
    if all(response and response[0]["role"] != "assistant" for response in responses):
        return split_shared(*responses, whole=True)
    return prompt_messages(prompt_of(row), "prompt"), responses


# --- What was thought of them ---

_FIRST = {0: 1.0, 1: 0.0, 2: 0.5}  # outcome → the share of the first side
_TIES = frozenset({"draw", "both", "neither", "both_bad", "both bad", "both_good", "both good", "equal", "same"})
_WORDS = ({"left", "first"}, {"right", "second"})


def _outcome(value: Any, sides: Sides) -> int:
    """0: the first side wins, 1: the second, 2: a tie.

    A number means the side whose column ends with it; in SHP's `labels`, 1 is side A and 0 side B.
    """
    if isinstance(value, Mapping):  # Label Studio's {"selected": "left"}
        value = value.get("selected")
    text = str(value).strip().lower() if not isinstance(value, bool) else str(int(value))
    text = text.removesuffix(".0")
    if sides.winner == "labels" and sides.ends == ("A", "B") and text in {"0", "1"}:
        return 1 - int(text)
    if text.startswith("tie") or text in _TIES:
        return 2
    better = text.replace(">>", ">").replace("=", ">").split(">")  # a judge's A>B, A>>B, A=B
    if len(better) == 2 and "=" in text and ">" not in text:
        return 2
    text = better[0].strip()
    for outcome, (column, end) in enumerate(zip((sides.first, sides.second), sides.ends, strict=True)):
        end = end.lower()
        if text in {column.lower(), end, f"model_{end}", f"response_{end}"} | _WORDS[outcome]:
            return outcome
    raise RowFault("unknown winner", f"{sides.winner or 'the label'} is neither side nor a tie")


def _submitted(value: Any) -> list[Any]:
    """The labels of one cell: one, or those that argilla's annotators submitted (`[{"value": ..., "status": ...}]`)."""
    if isinstance(value, list) or (isinstance(value, Mapping) and isinstance(value.get("value"), list)):
        answers = [item for item in records(value) if isinstance(item, Mapping)]
        given = [item.get("value") for item in answers if item.get("status", "submitted") == "submitted"]
        given = [one for one in given if one is not None]
        if not given:
            raise RowFault("no preference", "no annotator submitted an answer")
        return given
    return [value]


def _gap(row: Row, sides: Sides) -> float | None:
    """The first side's score minus the second's; None where one of them is not given."""
    names = side_scores(row, sides)
    if names is None or any(row[name] is None for name in names):
        return None
    means = []
    for name in names:
        given = [number(one, name) for one in _submitted(row[name])]
        means.append(sum(given) / len(given))
    return means[0] - means[1]


def _is_yes(flag: Any) -> bool:
    return str(flag) in {"1", "1.0", "True", "true"}


def _sign(value: float) -> float:
    """The share of the first side that a difference means."""
    return 0.5 if value == 0 else float(value > 0)


def _two(
    row: Row,
    options: RowOptions,
    prompt: list[Message],
    responses: list[list[Message]],
    first: float,
    gap: float | None = None,
) -> Draft:
    """The comparison of two sides; `first` is the share of annotators who prefer the first."""
    if same(responses[0], responses[1]):
        raise RowFault("identical responses")
    weight = 1.0 if row.get("weight") is None else number(row["weight"], "weight", low=0.0)
    options.met.add("ties")
    pair, remarks = decided(options, first, gap, weight=weight)
    return make_draft(row, options, prompt, responses, (pair,), remarks)
