"""`POST /classify`, `/pooling` and `/v1/embeddings`: what RL loops ask vLLM's and SGLang's servers for.

verl's reward loop asks /classify (vLLM) and reads `data[-1]["probs"][-1]`, with `use_activation: false`; or
/v1/embeddings (SGLang), and reads `data[-1]["embedding"][-1]`. A client that leaves `use_activation` out gets what vLLM
gives it: sigmoid(reward) from /classify and /pooling.

Keys of vLLM's requests that would change the reward, and that rmx does not do, are refused by name.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from rmx.data.unlabelled import read_rows_to_score
from rmx.errors import DataError
from rmx.metrics.arrays import sigmoid
from rmx.records import Comparison
from rmx.scoring.panel import Judgement
from rmx.serving.bodies import HttpRefusal, validated
from rmx.serving.service import Service
from rmx.serving.waiting import RenderedQuery

__all__ = [
    "ClassifyAnswer",
    "ClassifyRequest",
    "EmbeddingsAnswer",
    "EmbeddingsRequest",
    "PoolingAnswer",
    "PoolingRequest",
    "classify",
    "embeddings",
    "pooling",
]

TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class EmbeddingsRequest(BaseModel):
    """Texts, as the model's own template renders conversations, or their token ids."""

    model_config = ConfigDict(extra="forbid")

    input: str | list[str] | list[TokenId] | list[list[TokenId]]
    model: str | None = Field(None, description="the served model's name")
    user: str | None = None
    encoding_format: Literal["float"] = "float"
    dimensions: None = None


class ClassifyRequest(BaseModel):
    """Rendered texts (`input`), or one conversation (`messages`) that the model's template renders here."""

    model_config = ConfigDict(extra="forbid")

    input: str | list[str] | list[TokenId] | list[list[TokenId]] | None = None
    messages: list[dict[str, Any]] | None = None
    model: str | None = Field(None, description="the served model's name")
    use_activation: bool | None = Field(None, description="false: the reward itself; otherwise sigmoid(reward)")
    activation: bool | None = Field(None, description="an older name of use_activation")
    add_special_tokens: bool | None = Field(None, description="false: `input` is taken as it is")
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = Field(None, description="keep the last so many")
    truncation_side: Literal["left"] | None = None
    request_id: str | None = None
    user: str | None = None
    priority: Literal[0] = 0
    padding: Literal["do_not_pad"] | None = None
    cache_salt: None = None
    mm_processor_kwargs: None = None
    media_io_kwargs: None = None
    chat_template: None = None
    chat_template_kwargs: None = None
    add_generation_prompt: Literal[False] = False
    continue_final_message: Literal[False] = False


class PoolingRequest(ClassifyRequest):
    """As for /classify."""

    task: Literal["classify"] | None = None
    encoding_format: Literal["float"] = "float"
    embed_dtype: Literal["float32"] = "float32"
    endianness: Literal["native", "little"] = "native"
    dimensions: None = None


class _Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class _Class(BaseModel):
    index: int
    label: str | None
    probs: list[float]
    num_classes: int
    truncated: bool


class ClassifyAnswer(BaseModel):
    """vLLM's answer, and whether a text was cut."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[_Class]
    usage: _Usage


class _Pooled(BaseModel):
    index: int
    object: Literal["pooling"]
    data: list[float]
    truncated: bool


class PoolingAnswer(BaseModel):
    """vLLM's answer, and whether a text was cut."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[_Pooled]
    usage: _Usage


class _Embedded(BaseModel):
    index: int
    object: Literal["embedding"]
    embedding: list[float]
    truncated: bool


class EmbeddingsAnswer(BaseModel):
    """OpenAI's answer, with the reward as a vector of one number, and whether a text was cut."""

    object: Literal["list"]
    model: str
    data: list[_Embedded]
    usage: _Usage


async def classify(service: Service, keys: Any, request: Request) -> dict[str, Any]:
    """Answer /classify.

    Raises:
        HttpRefusal: 404 another model, 422 what it says cannot be scored.
    """
    asked = validated(ClassifyRequest, await service.json(request))
    said = await service.ask(request, _questions(service, keys, asked))
    model = service.panel.scorers[0][1].engine.model
    label = (getattr(model.config, "id2label", None) or {}).get(0)
    data = [
        {"index": n, "label": label, "probs": [value], "num_classes": 1, "truncated": one.truncated}
        for n, (one, value) in enumerate(zip(said, _values(asked, said), strict=True))
    ]
    return _vllm_answer("classify", service, asked, data, said)


async def pooling(service: Service, keys: Any, request: Request) -> dict[str, Any]:
    """Answer /pooling.

    Raises:
        HttpRefusal: 404 another model, 422 what it says cannot be scored.
    """
    asked = validated(PoolingRequest, await service.json(request))
    said = await service.ask(request, _questions(service, keys, asked))
    data = [
        {"index": n, "object": "pooling", "data": [value], "truncated": one.truncated}
        for n, (one, value) in enumerate(zip(said, _values(asked, said), strict=True))
    ]
    return _vllm_answer("pool", service, asked, data, said)


async def embeddings(service: Service, keys: Any, request: Request) -> dict[str, Any]:
    """Answer /v1/embeddings.

    Raises:
        HttpRefusal: 404 another model, 422 what it says cannot be scored.
    """
    asked = validated(EmbeddingsRequest, await service.json(request))
    _check_model(service, asked.model)
    said = await service.ask(request, [RenderedQuery(one) for one in _contents(asked.input)])
    data = [
        {"index": n, "object": "embedding", "embedding": [one.rewards[0]], "truncated": one.truncated}
        for n, one in enumerate(said)
    ]
    return {"object": "list", "model": service.name, "data": data, "usage": _usage(said)}


def _questions(service: Service, keys: Any, asked: ClassifyRequest) -> Sequence[Comparison | RenderedQuery]:
    _check_model(service, asked.model)
    if None not in (asked.use_activation, asked.activation) and asked.use_activation != asked.activation:
        raise HttpRefusal(422, "use_activation and activation contradict each other; activation is its older name")
    if (asked.input is None) == (asked.messages is None):
        raise HttpRefusal(422, "input: give either input (rendered texts) or messages (one conversation)")
    limit = None if asked.truncate_prompt_tokens in (None, -1) else asked.truncate_prompt_tokens
    if limit is not None and limit < 2:
        raise HttpRefusal(422, f"truncate_prompt_tokens: {limit} leaves nothing to judge; give 2 or more")
    if asked.input is not None:
        complete = asked.add_special_tokens is not False
        return [RenderedQuery(one, complete, limit) for one in _contents(asked.input)]
    if limit is not None:
        raise HttpRefusal(
            422, "truncate_prompt_tokens: is for input; messages are cut at max_tokens, whole turns first"
        )
    return [_conversation(asked.messages or [], keys)]


def _conversation(messages: list[dict[str, Any]], keys: Any) -> Comparison:
    try:
        (row,) = read_rows_to_score([{"messages": messages}], columns=keys.columns)
    except DataError as error:
        raise HttpRefusal(422, f"messages: {error}") from None
    if row.comparison is None:
        raise HttpRefusal(422, f"messages: {row.fault}")
    return row.comparison


def _contents(given: Any) -> list[str | list[int]]:
    """One text or list of ids, or several.

    >>> _contents("a"), _contents(["a", "b"]), _contents([1, 2]), _contents([[1], [2]])
    (['a'], ['a', 'b'], [[1, 2]], [[1], [2]])
    """
    if isinstance(given, str):
        return [given]
    return [given] if given and isinstance(given[0], int) else given


def _check_model(service: Service, name: str | None) -> None:
    if name is not None and name not in service.names:
        raise HttpRefusal(404, f"model: {name[:200]} is not served here; served: {', '.join(sorted(service.names))}")


def _values(asked: ClassifyRequest, said: Sequence[Judgement]) -> list[float]:
    given = asked.activation if asked.use_activation is None else asked.use_activation
    rewards = [one.rewards[0] for one in said]
    return rewards if given is False else sigmoid(np.asarray(rewards)).tolist()


def _usage(said: Sequence[Judgement]) -> dict[str, int]:
    tokens = sum(sum(one.tokens) for one in said)
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}


def _vllm_answer(
    kind: str, service: Service, asked: ClassifyRequest, data: list[dict[str, Any]], said: Sequence[Judgement]
) -> dict[str, Any]:
    return {
        "id": f"{kind}-{asked.request_id or uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": service.name,
        "data": data,
        "usage": _usage(said),
    }
