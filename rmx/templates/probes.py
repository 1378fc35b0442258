"""Conversations that a template is tried on before it meets data, and what they show.

Short texts show where a template writes its tokens. Long ones show what it does to content: twelve turns, paragraphs,
code, other scripts, white space at both ends, one text of 17,000 characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rmx.errors import DataError, ModelError
from rmx.templates.printed import RenderedText

if TYPE_CHECKING:
    from rmx.records import Message
    from rmx.templates.bind import BoundTemplate

__all__ = [
    "ANSWER",
    "LONG_SYSTEM",
    "SHORT",
    "TOOL",
    "check_long",
    "prints_an_address",
    "wants_text_arguments",
    "with_text_arguments",
]

ANSWER = "Rmxanswer"  # a word that no template writes by itself
SHORT: list[Message] = [
    {"role": "user", "content": "Rmxquestion"},
    {"role": "assistant", "content": "Rmxfirst"},
    {"role": "user", "content": "Rmxsecond"},
    {"role": "assistant", "content": ANSWER},
]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "rmx_probe", "description": "a probe", "parameters": {"type": "object", "properties": {}}},
}
_FILLER = "A line that goes on, so that whoever cuts long texts cuts this one as well.\n"


def _long_text(name: str, lines: int) -> str:
    return (
        f'  Rmx begins {name}: how do Tides work?\n\nThe Moon pulls at the sea; "twice a day" it rises & falls.\n'
        "\t- first\n\t- second\n\n```python\ndef height(t: float) -> float:\n    return 2.5 if t < 12 else 0.0\n```\n"
        "größer, naïve, Ελλάδα, Москва, 日本語, العربية, 한국어, 🌊🌙.   Three  spaces, {{ braces }}, {% percent %}.\n"
        f"{_FILLER * lines}Rmx ends {name}, with a newline and a space. \n "
    )


_LONG: list[Message] = [
    {"role": ("user", "assistant")[turn % 2], "content": _long_text(f"turn {turn}", 220 if turn == 4 else 4)}
    for turn in range(12)
]
LONG_SYSTEM: Message = {"role": "system", "content": _long_text("the system message", 8)}


def check_long(bound: BoundTemplate) -> tuple[bool, str]:
    """Whether content is printed as it is, and in words what happens to it.

    Raises:
        ModelError: turns of a long conversation are left out, or their text is cut.
    """
    try:
        text = bound.render(_LONG)
    except DataError as error:
        raise ModelError(f"a conversation of twelve long turns fails: {error}") from None
    holds, folded = RenderedText(text), text.casefold()
    lost, cut, changed, spaced = [], [], 0, 0
    for turn, message in enumerate(_LONG):
        content = str(message["content"])
        ends = [f"rmx {end} turn {turn}{sign}" in folded for end, sign in (("begins", ":"), ("ends", ","))]
        whole = content in holds
        if not any(ends):
            lost.append(turn + 1)
        elif not all(ends):
            cut.append(len(content))
        changed += not whole
        spaced += whole and content.strip() not in text
    if lost:
        raise ModelError(
            f"template {bound.name!r} leaves out {len(lost)} of the {len(_LONG)} messages of a long conversation "
            f"(message {', '.join(map(str, lost[:4]))}{' ...' if len(lost) > 4 else ''})"
        )
    if cut:
        raise ModelError(
            f"template {bound.name!r} cuts content: of {len(cut)} messages of {min(cut)} to {max(cut)} characters it "
            "prints a part only; data.max_tokens is what limits lengths in rmx"
        )
    if changed:
        return False, f"content is changed: {changed} of {len(_LONG)} messages are printed with other letters"
    if spaced:
        return False, f"white space inside of content is changed in {spaced} of {len(_LONG)} messages"
    return True, "messages of any length are printed whole"


def wants_text_arguments(bound: BoundTemplate) -> bool:
    """Whether the template adds the arguments of a tool call to its text as JSON text; most take an object."""
    function = {"name": "rmx_probe", "arguments": {"rmx_key": "rmx_value"}}
    call = {"type": "function", "id": "rmxcall01", "function": function}
    chat: list[Message] = [
        SHORT[0],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Rmxresult", "name": "rmx_probe", "tool_call_id": "rmxcall01"},
        SHORT[3],
    ]
    for as_text in (False, True):
        try:
            text = replace(bound, text_arguments=as_text).render(chat)
        except DataError:
            continue
        if "rmx_value" in text and "'rmx_key'" not in text:  # Python's quotes are no JSON
            return as_text
    return False


def with_text_arguments(messages: Sequence[Message]) -> list[Message]:
    """The messages, arguments of their tool calls as JSON text.

    >>> call = {"type": "function", "function": {"name": "now", "arguments": {"zone": "CET"}}}
    >>> message, = with_text_arguments([{"role": "assistant", "content": "", "tool_calls": [call]}])
    >>> message["tool_calls"][0]["function"]["arguments"]
    '{"zone": "CET"}'
    """
    return [
        {**message, "tool_calls": list(map(_with_text, message["tool_calls"]))} if "tool_calls" in message else message
        for message in messages
    ]


def _with_text(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or isinstance(function.get("arguments", ""), str):
        return call
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def prints_an_address(text: str) -> bool:
    """Whether a text holds the place of an object in memory, which is another one in every process.

    >>> prints_an_address("<generator object sync_do_map at 0x7f3c5e0c0f90>")
    True
    """
    return re.search(r"<[^<>]{1,80} at 0x[0-9a-fA-F]{6,16}>", text) is not None
