"""`POST /score`: rows as `rmx score` reads them, answered as it answers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from rmx.data.unlabelled import read_rows_to_score
from rmx.errors import DataError
from rmx.records import Comparison
from rmx.serving.bodies import HttpRefusal
from rmx.serving.service import Service

__all__ = ["ConversationsAnswer", "RowAnswer", "RowsAnswer", "RowsRequest", "score_rows"]


class RowsRequest(BaseModel):
    """One row, in any shape that `rmx score` knows; or several: `rows`, or `conversations` of messages."""

    model_config = ConfigDict(extra="allow", title="ScoreRequest")

    prompt: str | list[dict[str, Any]] | None = Field(None, description="text, or messages up to the user's turn")
    responses: list[str | dict[str, Any]] | None = Field(None, description="candidates for the prompt")
    response: str | None = Field(None, description="the one response to the prompt")
    chosen: Any = Field(None, description="the better response: text, or messages")
    rejected: Any = Field(None, description="the worse one")
    messages: list[dict[str, Any]] | None = Field(None, description="a conversation that ends with the response")
    conversations: list[Any] | None = Field(None, description="several conversations, each a list of messages")
    rows: list[dict[str, Any]] | None = Field(None, description="several rows, each with the columns above")


class RowAnswer(BaseModel):
    """What the model says of one row; the last three for several models only."""

    id: str
    model: str
    reward: float = Field(description="of the best response")
    rewards: list[float] = Field(description="in the order of the row")
    ranks: list[int] = Field(description="1 is the best")
    best: int = Field(description="index of the best response")
    margin: float | None = Field(description="the lead of the best response over the next one")
    tokens: list[int]
    truncated: bool = Field(description="the beginning of the prompt was cut, as in training")
    members: list[list[float]] | None = None
    stds: list[float] | None = None
    disagreement: float | None = None


class RowsAnswer(BaseModel):
    """What the model says of `rows`."""

    model: str
    answers: list[RowAnswer]


class ConversationsAnswer(BaseModel):
    """What the model says of `conversations`."""

    model: str
    rewards: list[float]
    tokens: list[int]
    truncated: list[bool]
    stds: list[float] | None = None


async def score_rows(service: Service, keys: Any, request: Request) -> dict[str, Any]:
    """Answer a request.

    Args:
        service: who judges.
        keys: with the `format`, `columns` and `ignore` of the rows.
        request: to be answered.

    Raises:
        HttpRefusal: what it says cannot be scored.
    """
    body = await service.json(request)
    if not isinstance(body, dict):
        raise HttpRefusal(422, "the body has to be an object: one row, or rows, or conversations")
    several = _conversations(body)
    if several is not None:
        ids, comparisons = _read(several, keys)
        said = await service.ask(request, comparisons)
        answer: dict[str, Any] = {
            "model": service.name,
            "rewards": [one.rewards[0] for one in said],
            "tokens": [one.tokens[0] for one in said],
            "truncated": [one.truncated for one in said],
        }
        return answer | ({"stds": [one.stds[0] for one in said]} if len(service.panel.scorers) > 1 else {})
    if set(body) == {"rows"}:
        if not isinstance(body["rows"], list):
            raise HttpRefusal(422, "rows: has to be a list of rows")
        ids, comparisons = _read(body["rows"], keys)
    else:
        ids, comparisons = _read([body], keys)
    said = await service.ask(request, comparisons)
    answers = [
        {"id": own, "model": service.name, **judgement.answer()} for own, judgement in zip(ids, said, strict=True)
    ]
    return {"model": service.name, "answers": answers} if "rows" in body else answers[0]


def _conversations(body: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """A row per conversation, where the body has a list of them; what stands beside it (tools) belongs to each.

    >>> _conversations({"conversations": [[{"role": "user"}], [{"role": "user"}]], "tools": []})
    [{'tools': [], 'messages': [{'role': 'user'}]}, {'tools': [], 'messages': [{'role': 'user'}]}]
    >>> _conversations({"conversations": [{"from": "human", "value": "2+2?"}]}) is None
    True
    """
    given = body.get("conversations")
    if not isinstance(given, list) or not given:
        return None
    if not all(isinstance(one, list) and all(isinstance(turn, dict) for turn in one) for one in given):
        return None
    rest = {name: value for name, value in body.items() if name != "conversations"}
    return [{**rest, "messages": one} for one in given]


def _read(rows: Sequence[Any], keys: Any) -> tuple[list[str], list[Comparison]]:
    if not rows:
        raise HttpRefusal(422, "there is nothing to score in this request")
    try:
        read = read_rows_to_score(rows, format=keys.format, columns=keys.columns, ignore=keys.ignore)
    except DataError as error:
        raise HttpRefusal(422, str(error)) from None
    faults = [f"{row.where}: {row.fault}" for row in read if row.fault is not None]
    if faults:
        raise HttpRefusal(422, "\n".join(faults[:5]))
    return [row.id for row in read], [row.comparison for row in read if row.comparison is not None]
