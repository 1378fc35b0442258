"""A reward model for a training loop: a model in this process, or a server of `rmx serve`, as one function.

    conversations ──connect(MODEL or URL)──▶ one reward each

Loops hand over texts and not conversations, and their prompts are often rendered already, with the *policy's* chat
template. A reward model that renders them again scores a text it was never trained on, and nothing fails.
`conversation` refuses such a prompt.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rmx.errors import ConfigError, DataError, ModelError, NonFiniteError, first_line

if TYPE_CHECKING:
    from rmx.records import Message

__all__ = ["connect", "conversation"]

Rewards = Callable[[Sequence[Sequence["Message"]]], list[float]]

RETRIES = 5
_CONTROL = r"(?:<[|｜][^<>|｜\s]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad)>|<(?:start|end)_of_turn>|\[/?INST\])"
_BEGINS_RENDERED = re.compile(rf"\s*{_CONTROL}")
_END = re.compile(rf"(?:\s*{_CONTROL})+\s*\Z")


def conversation(prompt: str | Sequence[Message], response: str) -> list[Message]:
    """Return prompt and response as messages; control tokens that close the response are taken off.

    Args:
        prompt: messages, or the plain text of the user's one turn.
        response: what the policy wrote, as decoded.

    Raises:
        DataError: the prompt is a text that a chat template has rendered: it begins with a control token.

    >>> conversation("2 + 2?", "4<|im_end|>")
    [{'role': 'user', 'content': '2 + 2?'}, {'role': 'assistant', 'content': '4'}]
    >>> conversation("<|im_start|>user\\n2 + 2?<|im_end|>", "4")
    Traceback (most recent call last):
    rmx.errors.DataError: the prompt is rendered already (it begins with '<|im_start|>'): ...
    """
    if isinstance(prompt, str):
        rendered = _BEGINS_RENDERED.match(prompt)
        if rendered:
            raise DataError(
                f"the prompt is rendered already (it begins with {rendered.group().strip()!r}): a reward model writes "
                "its own template around a conversation; hand over the prompt's messages"
            )
        prompt = [{"role": "user", "content": prompt}]
    return [*prompt, {"role": "assistant", "content": _END.sub("", response)}]


def connect(
    place: str, *, device: str | None = None, key: str | None = None, timeout_seconds: float = 180.0
) -> Rewards:
    """Return the function from conversations to rewards; it may be called from several threads.

    Args:
        place: a run, its model/ folder or a hub id, which is loaded at the first call; or http(s)://HOST:PORT of
            `rmx serve`, which scores the requests of many workers together.
        device: of a model that is loaded, such as "cuda:0".
        key: of a server that wants one (its RMX_SERVE_KEY).
        timeout_seconds: for one answer of a server.

    Raises:
        ConfigError: `device` with a server, or `key` with a model.
    """
    if place.startswith(("http://", "https://")):
        if device is not None:
            raise ConfigError(f"device: {device!r} has no meaning for the server {place}; leave it out")
        return _Server(place.rstrip("/"), key, timeout_seconds)
    if key is not None:
        raise ConfigError(f"key: {place} is a model and no server; leave it out")
    return _Model(place, device)


class _Model:
    """A model in this process, loaded once, used by one thread at a time."""

    def __init__(self, place: str, device: str | None) -> None:
        self.place, self.device = place, device
        self._scorer: Any = None
        self._lock = threading.Lock()

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        with self._lock:
            if self._scorer is None:
                from rmx.scoring.scorer import load

                self._scorer = load(self.place, device=self.device)
            return _finite(self._scorer.score(conversations), len(conversations), self.place)


class _Server:
    """A server of `rmx serve`, asked at /score; a busy one is asked again, as it says."""

    def __init__(self, url: str, key: str | None, timeout_seconds: float) -> None:
        self.url, self.timeout_seconds = f"{url}/score", timeout_seconds
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        body = json.dumps({"conversations": [list(one) for one in conversations]}).encode()
        answer = self._answer(body)
        rewards = answer.get("rewards") if isinstance(answer, Mapping) else None
        if not isinstance(rewards, list):
            raise ModelError(f"{self.url} answered without rewards; is it a server of `rmx serve`?")
        return _finite(rewards, len(conversations), self.url)

    def _answer(self, body: bytes) -> Any:
        for attempt in range(RETRIES):
            request = urllib.request.Request(self.url, data=body, headers=self._headers)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                wait = error.headers.get("Retry-After")
                if error.code != 503 or wait is None or attempt + 1 == RETRIES:
                    raise ModelError(f"{self.url} answered {error.code}: {_message(error)}") from None
                time.sleep(float(wait))
            except (urllib.error.URLError, TimeoutError, ConnectionError, json.JSONDecodeError) as error:
                raise ModelError(f"{self.url} cannot be asked: {first_line(error)}; is `rmx serve` running?") from None
        raise AssertionError("every attempt returns or raises")


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says of a refusal."""
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def _finite(rewards: list[Any], count: int, place: str) -> list[float]:
    if len(rewards) != count:
        raise ModelError(f"{place} gave {len(rewards)} rewards for {count} conversations")
    if not all(isinstance(reward, float | int) and math.isfinite(reward) for reward in rewards):
        raise NonFiniteError(f"{place} gave a reward that is not finite; a policy must not learn from it")
    return [float(reward) for reward in rewards]
