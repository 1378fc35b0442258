"""Is what a row says in the text that the template made of it?

Templates leave things out in silence: most print no `reasoning_content`, some no tool calls, others delete what
stands between think tags. The text itself is looked at, so the answer holds for any Jinja.

* Text of a message is printed when it stands in the rendered text, white space at its ends aside. What is spaced or
  escaped anew (tool results as JSON strings) counts as printed, what is cut, changed or missing does not.
* Any other field is printed when all texts in it stand in the rendered text *and* the rendered text is another one
  without the field: a short value such as "ok" may stand there by chance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rmx.errors import DataError

if TYPE_CHECKING:
    from rmx.records import Message
    from rmx.templates.bind import BoundTemplate

__all__ = ["PrintedCheck", "RenderedText", "part_of_conversation"]

_NOTHING: frozenset[str] = frozenset()
_LABELS = ("id", "type", "index")  # of calls: no text of the conversation
_REMEMBERED = 4096  # shapes of conversations whose answer is kept

# Fields that annotators read. A field that is not here (name, tool_call_id, a time) is counted, and stops no run.
_READ_BY_PEOPLE = frozenset(
    ("tools", "tool_calls", "reasoning_content", "reasoning", "thinking", "refusal", "documents", "code", "images")
)


def part_of_conversation(field: str) -> bool:
    """Whether annotators read a field, so that a model which does not see it is asked to guess.

    >>> part_of_conversation("system content"), part_of_conversation("thinking"), part_of_conversation("tool_call_id")
    (True, True, False)
    """
    return field in _READ_BY_PEOPLE or field.endswith(" content")


class PrintedCheck:
    """Names the fields of conversations that a template does not print in full.

    >>> from rmx.models.tiny import tiny_tokenizer
    >>> from rmx.templates import Template
    >>> bound = Template("chatml").bind(tiny_tokenizer())
    >>> question = ({"role": "user", "content": "2+2?"},)
    >>> answers = tuple(({"role": "assistant", "content": "4", "thinking": thought},) for thought in ("easy", "hm"))
    >>> texts = [bound.render([*question, *answer]) for answer in answers]
    >>> sorted(PrintedCheck(bound).left_out(question, answers, None, texts))
    ['thinking']
    """

    def __init__(self, template: BoundTemplate) -> None:
        self.template = template
        self._changes: dict[Any, bool] = {}

    def left_out(
        self,
        prompt: Sequence[Message],
        responses: Sequence[Sequence[Message]],
        tools: Sequence[dict[str, Any]] | None,
        texts: Sequence[str],
    ) -> frozenset[str]:
        """Fields that are not printed in full for some response: `assistant content`, `tool_calls`, `tools`, ...

        Args:
            texts: the K rendered texts of prompt and one response each.
        """
        if tools is None and _in_order(prompt, responses, texts):
            return _NOTHING
        found: set[str] = set()
        for response, text in zip(responses, texts, strict=True):
            found.update(self._fields((*prompt, *response), tools, text))
        return frozenset(found)

    def _fields(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None, text: str) -> Iterator[str]:
        holds = RenderedText(text)
        extra = set()
        for message in messages:
            for field, value in message.items():
                if field == "role" or not value:
                    continue
                if field != "content":
                    extra.add(field)
                if not all(leaf in holds for leaf in _leaves(value)):
                    yield f"{message['role']} content" if field == "content" else field
        if tools:
            extra.add("tools")
            if not all(leaf in holds for leaf in _tool_texts(tools)):
                yield "tools"
        for field in extra:
            if not self._makes_a_difference(field, messages, tools, text):
                yield field

    def _makes_a_difference(
        self, field: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None, text: str
    ) -> bool:
        """Whether the text is another one without the field; asked once for each shape of conversation."""
        shape = (field, bool(tools), tuple((message["role"], *message) for message in messages))
        known = self._changes.get(shape)
        if known is None:
            rest = [{key: value for key, value in message.items() if key != field} for message in messages]
            try:
                known = self.template.render(rest, None if field == "tools" else tools) != text
            except DataError:
                known = True  # the template needs it
            if len(self._changes) < _REMEMBERED:
                self._changes[shape] = known
        return known


def _in_order(prompt: Sequence[Message], responses: Sequence[Sequence[Message]], texts: Sequence[str]) -> bool:
    """Whether these are plain messages, and each one's text follows that of the one before: the common case, cheap."""
    at = _end_of(prompt, texts[0], 0)
    if at < 0:
        return False
    head = texts[0][:at]
    for response, text in zip(responses, texts, strict=True):
        if not text.startswith(head) or _end_of(response, text, at) < 0:
            return False
    return True


def _end_of(messages: Sequence[Message], text: str, at: int) -> int:
    """Where the last of these messages ends in the text, -1 where one is not found or is more than role and content."""
    for message in messages:
        content = message["content"]
        if len(message) != 2 or type(content) is not str:
            return -1
        content = content.strip()
        at = text.find(content, at)
        if at < 0:
            return -1
        at += len(content)
    return at


class RenderedText:
    """A rendered text that is asked for parts of conversations."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._dense = ""

    def __contains__(self, part: str) -> bool:
        part = part.strip()
        if part in self.text:
            return True
        self._dense = self._dense or _dense(self.text)
        return any(_dense(form) in self._dense for form in (part, json.dumps(part, ensure_ascii=False)[1:-1]))


def _dense(text: str) -> str:
    """Without white space, so that a text that was only spaced anew is found."""
    return "".join(text.split())


def _leaves(value: Any) -> Iterator[str]:
    """The texts and numbers in a field."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in _LABELS or not isinstance(item, str | int):
                yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _tool_texts(tools: Any) -> Iterator[str]:
    """Names and descriptions of tools and of their parameters; how types are written is the template's business."""
    if isinstance(tools, Mapping):
        for key, value in tools.items():
            if key in ("name", "description") and isinstance(value, str):
                yield value
            elif key == "properties" and isinstance(value, Mapping):
                yield from value
                yield from _tool_texts(list(value.values()))
            else:
                yield from _tool_texts(value)
    elif isinstance(tools, list | tuple):
        for tool in tools:
            yield from _tool_texts(tool)
