"""Rows with a list of responses → the parts of a comparison of K responses.

ranked      {"prompt": "2+2?", "responses": ["4", "5", "22"], "ranks": [1, 2, 3]}    1 is best; or "scores": [9, 4, 1]
            {"prompt": "2+2?", "answers": [{"answer": "4", "rank": 1}, ...]}              Nectar
            {"instruction": "2+2?", "completions": [{"response": "4", "overall_score": 9}, ...]}    UltraFeedback
            {"question": "2+2?", "answers": [{"text": "4", "pm_score": 5, "selected": true}, ...]}  Stack Exchange
            {"input": "2+2?", "generations": ["4", "5"], "ratings": [9, null]}            distilabel
            {"prompt": "2+2?", "answers": {"text": ["4", "5"], "score": [9, 4]}}          lists in one object
            {"info": {"post": ...}, "summaries": [{"text": ...}, ...], "choice": 1}       one of them was picked
            {"prompt": "2+2?", "responses": ["4", "5", "22"]}           best first, only with data.format=ranked
choices     {"prompt": "2+2?", "chosen": ["4", "four"], "rejected": ["5", "22", "3"]}     RewardBench 2

K responses are one comparison: each is scored once, and every two of them that differ by `data.min_gap` or more make
a pair, up to K(K-1)/2. They are stored from best to worst. Where the row only says which responses are good and which
are not (chosen and rejected lists, flags, a pick), every good one beats every other one, and nothing is said among
the good or among the others: they make neither pairs nor ties.

A response without a number among K that have one is left out, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rmx.data.accounting import RowFault
from rmx.data.rows.columns import NAMES
from rmx.data.rows.drafts import (
    Cell,
    Draft,
    Row,
    RowOptions,
    answer,
    kind,
    make_draft,
    needed,
    number,
    prompt_messages,
    prompt_of,
    same,
)
from rmx.data.rows.messages import to_messages
from rmx.records import Message, Pair

__all__ = ["FLAGS", "LISTS", "SCORES", "TEXTS", "choices", "rank", "ranked", "records", "response_of", "yes_or_no"]

LISTS = NAMES["responses"]
TEXTS = ("response", "answer", "text", "content", "completion", "output", "generation")
SCORES = NAMES["score"]
FLAGS = ("selected", "is_selected", "accepted", "is_accepted", "is_chosen", "preferred")  # inside a response
_YES = frozenset({"1", "1.0", "true", "yes", "good", "desirable", "chosen", "thumbs_up", "positive"})
_NO = frozenset({"0", "0.0", "-1", "-1.0", "false", "no", "bad", "undesirable", "rejected", "thumbs_down", "negative"})
_NOT_GIVEN = frozenset({"", "n/a", "na", "none", "null", "nan"})


def ranked(row: Row, options: RowOptions) -> Draft:
    """A list of responses with ranks (1 is best), scores (more is better), flags, or the number of the one picked.

    >>> row = {"prompt": "2+2?", "responses": ["5", "4"], "scores": [1, 9]}
    >>> draft = ranked(row, RowOptions(margin_from_scores=0.1))
    >>> draft.responses[0][0]["content"], draft.pairs[0].margin
    ('4', 0.8)

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    column = next((name for name in LISTS if isinstance(row.get(name), list | dict)), None)
    if column is None:
        raise RowFault("missing column", "responses")
    items = records(row[column])
    values, graded = _values(row, items)
    if len(values) != len(items):
        raise RowFault("number not usable", f"{len(values)} ranks or scores for {len(items)} responses")
    given = [k for k, value in enumerate(values) if value is not None]
    if len(given) < 2 <= len(items):
        raise RowFault("too few responses", f"{len(given)} of {len(items)} have a rank or score")
    responses = [response_of(items[k], f"{column} {k + 1}") for k in given]
    prompt = prompt_messages(prompt_of(row) if row.get("info") is None else _post(row), "prompt")
    remarks = ("response without a score",) if len(given) < len(items) else ()
    return rank(row, options, prompt, responses, [values[k] or 0.0 for k in given], graded=graded, remarks=remarks)


def choices(row: Row, options: RowOptions) -> Draft:
    """Lists of chosen and of rejected responses: every chosen one beats every rejected one.

    >>> draft = choices({"prompt": "2+2?", "chosen": ["4", "four"], "rejected": ["5"]}, RowOptions())
    >>> [(pair.winner, pair.loser) for pair in draft.pairs]
    [(0, 2), (1, 2)]

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    responses: list[list[Message]] = []
    values: list[float] = []
    for side, value in (("chosen", 1.0), ("rejected", 0.0)):
        items = needed(row, side)
        items = items if isinstance(items, list) else [items]
        if not items:
            raise RowFault("empty response", f"{side} is an empty list")
        responses += [response_of(item, f"{side} {k}") for k, item in enumerate(items, 1)]
        values += [value] * len(items)
    prompt = prompt_messages(prompt_of(row), "prompt")
    return rank(row, options, prompt, responses, values, graded=False)


def rank(
    row: Row,
    options: RowOptions,
    prompt: list[Message],
    responses: list[list[Message]],
    values: Sequence[float],
    *,
    graded: bool = True,
    weights: Sequence[float] | None = None,
    remarks: tuple[str, ...] = (),
) -> Draft:
    """Responses from best to worst by `values`, and a pair for every two that differ enough.

    `graded` values have a size: their differences are compared with `min_gap`, make margins, and equal ones are ties.
    Others only tell good from not good. The weight of a pair is the row's times that of both responses.

    Raises:
        RowFault: fewer than two responses, all the same, or none better than another.
    """
    options.met.update(("lists", "scores", "ties") if graded else ("lists",))
    if len(responses) < 2:
        raise RowFault("too few responses", f"{len(responses)}")
    order = sorted(range(len(values)), key=lambda k: -values[k])
    kept: list[int] = []
    for k in order:  # a response given twice counts once, at its better place
        copy = next((other for other in kept if same(responses[k], responses[other])), None)
        if copy is None:
            kept.append(k)
        elif not graded and values[copy] != values[k]:
            raise RowFault("identical responses", "one response is said to be good and not to be good")
    if len(kept) < 2:
        raise RowFault("identical responses")
    found = list(_pairs([values[k] for k in kept], options, graded))
    if not found:
        raise RowFault("no preference", "all ranks or scores are equal, or closer than data.min_gap")
    weight = 1.0 if row.get("weight") is None else number(row["weight"], "weight", low=0.0)
    if options.pair_weighting == "per_prompt":
        weight /= len(found)
    own = [1.0] * len(kept) if weights is None else [weights[k] for k in kept]
    pairs = tuple(Pair(i, j, margin, 0.5 if tie else 1.0, weight * own[i] * own[j], tie) for i, j, margin, tie in found)
    return make_draft(row, options, prompt, [responses[k] for k in kept], pairs, remarks)


def _pairs(values: list[float], options: RowOptions, graded: bool) -> Iterator[tuple[int, int, float, bool]]:
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            gap = values[i] - values[j]
            if gap > 0 and not graded:
                yield i, j, 0.0, False
            elif gap > 0 and gap >= options.min_gap:
                yield i, j, options.margin_from_scores * gap, False
            elif gap == 0 and graded and options.ties == "keep":
                yield i, j, 0.0, True


def records(value: Any) -> list[Any]:
    """A list of responses as it is; an object of equally long lists as a list of objects, which it stands for.

    >>> records({"text": ["4", "5"], "score": [9, 1]})
    [{'text': '4', 'score': 9}, {'text': '5', 'score': 1}]

    Raises:
        RowFault: neither a list nor an object of equally long lists.
    """
    if isinstance(value, list):
        return value
    if isinstance(value, Mapping) and value and all(isinstance(items, list) for items in value.values()):
        if len({len(items) for items in value.values()}) == 1:
            return [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
        raise RowFault("wrong type", "an object of lists of different lengths")
    raise RowFault("wrong type", f"responses are a {kind(value)}, not a list")


def response_of(item: Any, place: str) -> list[Message]:
    """A response as text, as one message, as messages, or as an object that holds one of these."""
    if isinstance(item, str):
        return answer(item, place)
    if isinstance(item, Mapping) and not ("role" in item or "from" in item):
        inner = next((item[name] for name in TEXTS if item.get(name) is not None), None)
        if inner is None:
            raise RowFault("missing column", f"{place} has no {', '.join(TEXTS)}")
        return response_of(inner, place)
    if item is None:
        raise RowFault("missing column", f"{place} is null")
    if isinstance(item, list | dict):
        return to_messages(item, place)
    raise RowFault("wrong type", f"{place} is a {kind(item)}")


def yes_or_no(value: Any, column: str) -> bool | None:
    """A label in any spelling; None when it is not given.

    >>> yes_or_no(True, "label"), yes_or_no("undesirable", "label"), yes_or_no(None, "label")
    (True, False, None)

    Raises:
        RowFault: neither yes nor no.
    """
    text = "" if value is None else str(value).strip().lower()
    if text in _NOT_GIVEN:
        return None
    if text in _YES or text in _NO:
        return text in _YES
    raise RowFault("number not usable", f"{column} is neither true nor false")


def _values(row: Row, items: list[Any]) -> tuple[list[float | None], bool]:
    """A number for each response, more is better, and whether its size means something."""
    for name, sign in (("scores", 1.0), ("ratings", 1.0), ("rating", 1.0), ("ranks", -1.0), ("rank", -1.0)):
        if isinstance(row.get(name), list):
            return [_signed(value, sign, f"{name} {k}") for k, value in enumerate(row[name], 1)], True
    objects = [item for item in items if isinstance(item, Mapping)]
    if len(objects) == len(items):
        beside = row.get("annotations")  # one object with a rating for each response, in the same order
        beside = beside if isinstance(beside, list) and len(beside) == len(items) else []
        for found in (objects, [item for item in beside if isinstance(item, Mapping)]):
            inside = _values_inside(found)
            if inside is not None:
                return inside
    if row.get("choice") is not None:
        picked = number(row["choice"], "choice")
        if picked not in range(len(items)):
            raise RowFault("unknown winner", f"choice names none of {len(items)} responses, counted from 0")
        return [float(k == picked) for k in range(len(items))], False
    return [-float(k) for k in range(len(items))], True  # no numbers: the list is in order, best first


def _values_inside(items: list[Mapping[str, Any]]) -> tuple[list[float | None], bool] | None:
    for names, sign in ((SCORES, 1.0), (("rank",), -1.0)):
        for name in names:
            if any(item.get(name) is not None for item in items):
                return [_signed(item.get(name), sign, f"{name} {k}") for k, item in enumerate(items, 1)], True
    means = [_mean_rating(item.get("annotations")) for item in items]
    if any(mean is not None for mean in means):
        return means, True
    for name in FLAGS:
        flags = [yes_or_no(item.get(name), f"{name} {k}") for k, item in enumerate(items, 1)]
        if any(flags):
            return [None if flag is None else float(flag) for flag in flags], False
    return None


def _mean_rating(aspects: Any) -> float | None:
    """The mean of UltraFeedback's ratings by aspect, `{"helpfulness": {"Rating": "4", ...}, ...}`."""
    if not isinstance(aspects, Mapping):
        return None
    ratings = [
        _signed(aspect.get("Rating"), 1.0, "Rating") for aspect in aspects.values() if isinstance(aspect, Mapping)
    ]
    given = [rating for rating in ratings if rating is not None]
    return sum(given) / len(given) if given else None


def _signed(value: Any, sign: float, place: str) -> float | None:
    if isinstance(value, str) and value.strip().lower() in _NOT_GIVEN:
        value = None
    if isinstance(value, str):
        value = Cell(value)  # lists of ratings are published as texts, too
    return None if value is None else sign * number(value, place)


def _post(row: Row) -> str:
    """What annotators of summaries saw: the post with its forum and title, or the article."""
    info = row["info"]
    if not isinstance(info, Mapping):
        raise RowFault("wrong type", f"info is a {kind(info)}, not an object")
    lines = [("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title"), ("POST: ", "post"), ("ARTICLE: ", "article")]
    said = [f"{head}{info[name]}" for head, name in lines if isinstance(info.get(name), str) and info[name].strip()]
    if not said:
        raise RowFault("missing column", "info has neither post nor article")
    return "\n\n".join([*said, "TL;DR:"])
