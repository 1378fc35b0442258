"""Messages in any dialect → `{"role": ..., "content": ...}` with the roles that chat templates know.

| dialect | a message |
|---|---|
| OpenAI, TRL | `{"role": "user", "content": "Hi"}` |
| ShareGPT, LLaMA-Factory | `{"from": "human", "value": "Hi"}` |
| HH-RLHF | `"\\n\\nHuman: Hi\\n\\nAssistant: Hello"`, the whole dialogue in one string |

Roles are matched without regard to case: human, prompter, question → user; gpt, bot, model, ai, answer →
assistant; observation, function_response, ipython → tool; developer → system; function_call → assistant with
`tool_calls`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rmx.data.accounting import RowFault
from rmx.data.rows.columns import MEDIA
from rmx.records import Message

__all__ = [
    "ROLE_ALIASES",
    "TAGS",
    "check_prompt",
    "check_response",
    "dialogue_messages",
    "is_dialogue",
    "retagged",
    "to_messages",
    "turns_of",
    "unprinted_fields",
    "usual_spelling",
]

ROLE_ALIASES: dict[str, str] = {
    **dict.fromkeys(("user", "human", "prompter", "question", "instruction", "customer"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "ai", "answer", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "function_output", "ipython"), "tool"),
    "function_call": "function_call",
}

_TURN = re.compile(r"\n\n(Human|Assistant):")
_TURN_ROLE = {"Human": "user", "Assistant": "assistant"}


# LLaMA-Factory's tags → the role they name; the first two name keys instead.
TAGS: dict[str, str] = {
    "role_tag": "",
    "content_tag": "",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}


def retagged(row: Mapping[str, Any], tags: Mapping[str, str]) -> dict[str, Any]:
    """The row with the keys and roles of its messages in usual words.

    >>> retagged({"chosen": {"speaker": "agent", "text": "Hi"}},
    ...          {"role_tag": "speaker", "content_tag": "text", "assistant_tag": "agent"})
    {'chosen': {'role': 'assistant', 'content': 'Hi'}}
    """
    role_key, content_key = tags.get("role_tag", "from"), tags.get("content_tag", "value")
    roles = {name: TAGS[tag] for tag, name in tags.items() if TAGS.get(tag)}

    def usual(message: Any) -> Any:
        if not isinstance(message, Mapping) or role_key not in message:
            return message
        rest = {key: value for key, value in message.items() if key not in {role_key, content_key}}
        role = message[role_key]
        known = roles.get(role, role) if isinstance(role, str) else role
        return {"role": known, "content": message.get(content_key), **rest}

    out = dict(row)
    for column, value in row.items():
        if isinstance(value, list):
            out[column] = [usual(message) for message in value]
        elif isinstance(value, Mapping):
            out[column] = usual(value)
    return out


def is_dialogue(text: Any) -> bool:
    r"""Whether `text` is a whole dialogue in one string, as HH-RLHF spells them or nearly so.

    >>> is_dialogue("\n\nHuman: Hi\n\nAssistant: Hello"), is_dialogue("Human: a species.")
    (True, False)
    >>> is_dialogue("H: Hi\r\nA: Hello")
    True
    """
    return isinstance(text, str) and usual_spelling(text) is not None


def usual_spelling(text: str) -> str | None:
    r"""A dialogue with the marks of HH-RLHF, whatever its line ends and names of speakers; None when it is none.

    >>> usual_spelling("User: Hi\nAssistant: Hello")
    '\n\nHuman: Hi\n\nAssistant: Hello'
    """
    head = text if text.startswith("\n\nHuman:") else text.lstrip()
    if head.startswith(_USUAL) and "\n\nAssistant:" in text:
        return text
    head = head.lstrip()
    if not head.startswith(_FIRST_LETTERS) or _VARIANT.match(f"\n{head}") is None:
        return None
    head = "\n\n" + head.replace("\r\n", "\n").replace("\r", "\n")
    # Where turns are set apart by an empty line, a speaker's name after a single line end is part of the text.
    for mark in (_VARIANT_APART, _VARIANT):
        speakers = {match[1].lower() in _ASSISTANT_NAMES for match in mark.finditer(head)}
        if len(speakers) == 2:  # both of them speak
            return mark.sub(lambda m: f"\n\n{'Assistant' if m[1].lower() in _ASSISTANT_NAMES else 'Human'}:", head)
    return None


_USUAL = ("\n\nHuman:", "Human:", "Assistant:")
_NAMES = r"(Human|User|Assistant|AI|Bot|H|A):"
_VARIANT = re.compile(rf"\s*\n[ \t]*(?:\#+[ \t]*)?{_NAMES}", re.IGNORECASE)
_VARIANT_APART = re.compile(rf"\s*\n[ \t]*\n[ \t]*(?:\#+[ \t]*)?{_NAMES}", re.IGNORECASE)
_ASSISTANT_NAMES = frozenset({"assistant", "ai", "bot", "a"})
_FIRST_LETTERS = ("H", "h", "U", "u", "A", "a", "B", "b", "#")


def dialogue_messages(text: str) -> list[Message]:
    r"""Turns of a dialogue in one string; white space around a turn belongs to the markers and is dropped.

    >>> dialogue_messages("\n\nHuman: Hi\n\nAssistant: Hello")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]

    Raises:
        RowFault: text stands before the first marker.
    """
    return turns_of(usual_spelling(text) or text)


def turns_of(text: str) -> list[Message]:
    """Turns of a dialogue whose marks are those of HH-RLHF; see `dialogue_messages`."""
    parts = _TURN.split("\n\n" + text.lstrip())
    if parts[0].strip():
        raise RowFault("wrong type", "text before the first '\\n\\nHuman:'")
    return [{"role": _TURN_ROLE[parts[i]], "content": parts[i + 1].strip()} for i in range(1, len(parts), 2)]


def to_messages(value: Any, column: str) -> list[Message]:
    """A list of messages in any dialect, in order, with roles and contents in one shape.

    >>> to_messages([{"from": "human", "value": "Hi"}], "conversations")
    [{'role': 'user', 'content': 'Hi'}]

    Raises:
        RowFault: no list, a message without role or text, an unknown role.
    """
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise RowFault("wrong type", f"{column} is a {type(value).__name__}, not a list of messages")
    return [_message(message, column, number) for number, message in enumerate(value, 1)]


def _message(message: Any, column: str, number: int) -> Message:
    if not isinstance(message, dict):
        raise RowFault("wrong type", f"{column}: message {number} is a {type(message).__name__}, not an object")
    role = message.get("role", message.get("from"))
    content = message["content"] if "content" in message else message.get("value", message.get("text"))
    if type(role) is str and type(content) is str and len(message) == 2:  # the common case, kept short
        known = ROLE_ALIASES.get(role) or ROLE_ALIASES.get(role.strip().lower())
        if known is not None and known != "function_call":
            return {"role": known, "content": content}
    if not isinstance(role, str):
        raise RowFault("unknown role", f"{column}: message {number} has no role")
    known = ROLE_ALIASES.get(role.strip().lower())
    if known is None:
        raise RowFault("unknown role", f"{column}: message {number}")
    extra = {k: v for k, v in message.items() if k in PRINTED and v is not None}
    for field in MEDIA:
        if message.get(field):
            raise RowFault("wrong type", f"{column}: message {number} has {field}, which are not supported")
    if message.get("function_call") and not extra.get("tool_calls"):
        extra["tool_calls"] = _tool_calls(message["function_call"], column, number)
    if known == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _tool_calls(content, column, number)}
    if isinstance(content, list):
        content = _joined_parts(content, column, number)
    if content is None and extra.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        kind = "null" if content is None else f"a {type(content).__name__}"
        raise RowFault("wrong type", f"{column}: content of message {number} is {kind}, not text")
    return {"role": known, "content": content, **extra}


# What chat templates know of a message besides its role and content. Everything else (times, ids, scores) is no part
# of what a model is shown, so it does not decide whether two messages are equal.
PRINTED = frozenset({"tool_calls", "tool_call_id", "name", "reasoning_content", "reasoning", "thinking"})
_READ = PRINTED | {"role", "from", "content", "value", "text", "function_call", *MEDIA}


def unprinted_fields(value: Any) -> Iterator[str]:
    """The fields of messages that hold something and that are not read, one for every message that has it.

    >>> list(unprinted_fields([{"role": "user", "content": "Hi", "timestamp": 1}]))
    ['timestamp']
    """
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        for message in value:
            if isinstance(message, dict) and (len(message) > 2 and not message.keys().isdisjoint(("role", "from"))):
                yield from (name for name, held in message.items() if name not in _READ and held is not None)


def _joined_parts(parts: list[Any], column: str, number: int) -> str:
    """OpenAI's content parts, when all of them are text."""
    texts = []
    for part in parts:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            what = part.get("type") if isinstance(part, dict) else None
            named = what if isinstance(what, str) and what.isidentifier() and len(what) < 30 else "not text"
            raise RowFault("wrong type", f"{column}: message {number} has a part that is not text ({named})")
        texts.append(part["text"])
    return "".join(texts)


def _tool_calls(content: Any, column: str, number: int) -> list[dict[str, Any]]:
    """LLaMA-Factory's `function_call` turn: one call or a list of calls, as JSON text."""
    calls = content
    if not isinstance(content, dict | list):
        try:
            calls = json.loads(content)
        except (TypeError, ValueError) as error:
            raise RowFault("wrong type", f"{column}: function_call of message {number} is not JSON") from error
    calls = calls if isinstance(calls, list) else [calls]
    out = []
    for call in calls:
        if not (isinstance(call, dict) and isinstance(call.get("name"), str)):
            raise RowFault("wrong type", f"{column}: function_call of message {number} has no name")
        arguments = call.get("arguments", {})
        out.append({"type": "function", "function": {"name": call["name"], "arguments": arguments}})
    return out


def check_prompt(prompt: list[Message]) -> None:
    """The prompt is system?, then turns with text, and leaves the word to the assistant.

    Raises:
        RowFault: an empty turn, a system message in the middle, or an assistant message at the end.
    """
    for number, message in enumerate(prompt, 1):
        content = message["content"]
        if (not content or content.isspace()) and _silent(message):
            raise RowFault("empty turn", f"prompt message {number} ({message['role']})")
        if message["role"] == "system" and number > 1:
            raise RowFault("wrong order", f"prompt message {number} is a system message after the first place")
    if prompt and prompt[-1]["role"] == "assistant":
        raise RowFault("wrong order", "the prompt ends with the assistant's turn")


def check_response(response: list[Message], side: str) -> None:
    """A response starts and ends with the assistant, who says something at the end.

    Raises:
        RowFault: an empty response, or turns out of order.
    """
    if not response:
        raise RowFault("empty response", side)
    if response[0]["role"] != "assistant":
        raise RowFault("wrong order", f"{side} starts with the {response[0]['role']}'s turn")
    last = response[-1]
    if last["role"] != "assistant":
        raise RowFault("wrong order", f"{side} ends with the {last['role']}'s turn")
    if _silent(last):
        raise RowFault("empty response", side)
    for number, message in enumerate(response[:-1], 1):
        if message["role"] == "system":
            raise RowFault("wrong order", f"{side}: message {number} is a system message")
        if _silent(message):
            raise RowFault("empty turn", f"{side}: message {number} ({message['role']})")


def _silent(message: Message) -> bool:
    """Whether a message says nothing; a tool may return nothing, and a tool call needs no words."""
    return not message["content"].strip() and message["role"] != "tool" and not message.get("tool_calls")
