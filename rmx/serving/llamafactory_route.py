"""`POST /v1/score/evaluation`: what LLaMA-Factory's PPO asks for with `reward_model_type: api`.

    {"model": "model", "messages": [text, ...]}
    {"id": ..., "object": "score.evaluation", "model": ..., "scores": [...]}

Each message is the whole text of prompt and response, special tokens included. Its client always says "model" for the
model's name, so any name is taken.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from rmx.serving.bodies import validated
from rmx.serving.service import Service
from rmx.serving.waiting import RenderedQuery

__all__ = ["ScoreEvaluationAnswer", "ScoreEvaluationRequest", "score_evaluation"]


class ScoreEvaluationRequest(BaseModel):
    """LLaMA-Factory's request."""

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: list[str] = Field(description="whole texts: prompt and response, rendered")
    max_length: Annotated[int, Field(ge=2)] | None = Field(None, description="keep the last so many tokens")


class ScoreEvaluationAnswer(BaseModel):
    """LLaMA-Factory's answer, and which texts were cut."""

    id: str
    object: Literal["score.evaluation"]
    model: str
    scores: list[float]
    truncated: list[bool]


async def score_evaluation(service: Service, keys: Any, request: Request) -> dict[str, Any]:
    """Answer a request.

    Raises:
        HttpRefusal: 422, what it says cannot be scored.
    """
    asked = validated(ScoreEvaluationRequest, await service.json(request))
    queries = [RenderedQuery(text, max_tokens=asked.max_length) for text in asked.messages]
    said = await service.ask(request, queries)
    return {
        "id": f"scoreeval-{uuid.uuid4().hex}",
        "object": "score.evaluation",
        "model": service.name,
        "scores": [one.rewards[0] for one in said],
        "truncated": [one.truncated for one in said],
    }
