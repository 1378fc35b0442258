"""`POST /get_reward`: what OpenRLHF asks the server of `--remote_rm_url` for.

    {"query": [text, ...], "prompts": [...], "labels": [...]}  →  {"rewards": [...], "scores": [...], "extra_logs": {}}

A query is the whole text of prompt and response, special tokens included. Prompts and labels come along for rewards by
rule; a reward model judges the text, so they are counted and not read.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from rmx.serving.bodies import HttpRefusal, validated
from rmx.serving.service import Service
from rmx.serving.waiting import RenderedQuery

__all__ = ["GetRewardAnswer", "GetRewardRequest", "get_reward"]


class GetRewardRequest(BaseModel):
    """OpenRLHF's request."""

    model_config = ConfigDict(extra="forbid")

    query: str | list[str] = Field(description="whole texts: prompt and response, rendered")
    prompts: list[Any] | None = Field(None, description="not read")
    labels: list[Any] | None = Field(None, description="not read")


class GetRewardAnswer(BaseModel):
    """OpenRLHF's answer, and which texts were cut."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, Any]
    truncated: list[bool]


async def get_reward(service: Service, keys: Any, request: Request) -> dict[str, Any]:
    """Answer a request.

    Raises:
        HttpRefusal: 422, what it says cannot be scored.
    """
    asked = validated(GetRewardRequest, await service.json(request))
    queries = [asked.query] if isinstance(asked.query, str) else asked.query
    for name, values in (("prompts", asked.prompts), ("labels", asked.labels)):
        if values is not None and len(values) != len(queries):
            raise HttpRefusal(422, f"{name}: {len(values)} for {len(queries)} queries")
    said = await service.ask(request, [RenderedQuery(text) for text in queries])
    rewards = [one.rewards[0] for one in said]
    return {"rewards": rewards, "scores": rewards, "extra_logs": {}, "truncated": [one.truncated for one in said]}
