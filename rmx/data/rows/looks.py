"""What a value looks like: its kind in words, the texts in it, and whether they read like a conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["Looks", "cut", "filled", "from_json", "is_message", "is_python_list", "looks_of", "seems", "texts_of"]

_DEPTH = 20  # objects and lists inside each other that are looked into
_SPELLED = re.compile(r"[\w.:/@+=#?&%~-]+", re.ASCII)  # an id, a hash, a path, an address: no white space
_LIST_OF_PYTHON = re.compile(r"\[\s*(\{\s*'|')")


class Looks(NamedTuple):
    """What the values of one column look like."""

    kind: str  # text, messages, texts, object, list, number, boolean, media, other
    words: str  # for a message: "text, about 120 characters"
    prose: bool  # whether it reads like part of a conversation
    long: bool  # whether it is longer than a name or a category is


def filled(value: Any) -> bool:
    """Whether a cell says anything: not null, no empty text, list or object.

    >>> [filled(value) for value in (0, False, "a", None, "", [])]
    [True, True, True, False, False, False]
    """
    return bool(value) or value == 0


def looks_of(values: Iterable[Any]) -> Looks:
    """What some values that are not null look like.

    >>> looks_of(["A passage by Ann."]).words, looks_of([3, 4.5]).words
    ('text, about 17 characters', 'number')
    """
    values = [value for value in values if filled(value)]
    if not values:
        return Looks("empty", "empty", False, False)
    kind = _kind(values[0])
    texts = [text for value in values for text in texts_of(value)]
    size = sum(map(len, texts)) // len(values)
    words = {"text": f"text, about {size} characters", "messages": "list of messages", "media": "image, sound or film"}
    about = words.get(kind, f"{kind}, about {size} characters of text" if texts else kind)
    prose = kind in {"messages", "media"} or any(map(_is_prose, texts))
    return Looks(kind, about, prose, kind in {"messages", "media"} or any(map(_is_long, texts)))


def seems(value: Any, level: str) -> bool:
    """Whether a value reads like part of a conversation (`prose`), or is longer than a name or a category (`long`).

    >>> seems("en-GB", "prose"), seems("A passage by Ann.", "prose"), seems("Open question answering", "long")
    (False, True, False)
    """
    if isinstance(value, str):
        return _is_prose(value) if level == "prose" else _is_long(value)
    looks = looks_of([value])
    return looks.prose if level == "prose" else looks.long


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, bytes) or (isinstance(value, Mapping) and value.keys() >= {"bytes", "path"}):
        return "media"
    if isinstance(value, Mapping):
        return "messages" if is_message(value) else "object"
    if isinstance(value, list | tuple):
        if value and is_message(value[0]):
            return "messages"
        if value and _kind(value[0]) == "media":
            return "media"
        return "list of texts" if value and all(isinstance(item, str) for item in value) else "list"
    if isinstance(value, int | float) or type(value).__name__ == "Decimal":
        return "number"
    # What datasets decodes an image or a sound to is an object of a library of its own.
    return "date" if type(value).__module__ == "datetime" else "media"


def is_message(value: Any) -> bool:
    """Whether a value is one message of a conversation, in any dialect."""
    return isinstance(value, Mapping) and (
        ("role" in value and "content" in value) or {"from", "value"} <= value.keys()
    )


def texts_of(value: Any, depth: int = _DEPTH) -> Iterator[str]:
    """All texts in a value, without the names and roles around them.

    >>> list(texts_of([{"role": "user", "content": "Hi"}, "you"]))
    ['Hi', 'you']
    """
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, Mapping):
        if depth:
            for key, inner in value.items():
                if key not in {"role", "from"}:
                    yield from texts_of(inner, depth - 1)
    elif isinstance(value, list | tuple) and depth:
        for inner in value:
            yield from texts_of(inner, depth - 1)


def _is_prose(text: str) -> bool:
    """Whether a text reads like something that a person reads: three words, or too long for a label."""
    if _SPELLED.fullmatch(text):
        return False
    letters = sum(not letter.isascii() and letter.isalpha() for letter in text[:200])
    return len(text.split(None, 3)) > 2 or len(text) > 30 or letters > 6


def _is_long(text: str) -> bool:
    return not _SPELLED.fullmatch(text) and (len(text) > 100 or len(text.split(None, 13)) > 12)


def from_json(text: str) -> Any:
    """The list of messages, the list of texts or nulls, or the message that a cell holds as JSON; None when it is text.

    >>> from_json('["Hi", null]'), from_json("[1] is a reference"), from_json("[3, 4]")
    (['Hi', None], None, None)
    """
    head = text.lstrip()[:1]
    if head not in ("[", "{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        return value if is_message(value) else None
    if "\\u" in text and not _encodable(value):
        return None
    if all(map(is_message, value)) or all(item is None or isinstance(item, str) for item in value):
        return value
    turns = all(isinstance(item, list) and len(item) == 2 and all(isinstance(t, str) for t in item) for item in value)
    return value if turns else None


def _encodable(value: Any) -> bool:
    """Whether all texts are whole characters, not halves of one."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_python_list(text: str) -> bool:
    """Whether a cell holds a list as Python prints it, which is not JSON.

    >>> is_python_list("[{'role': 'user'}]"), is_python_list('["a"]')
    (True, False)
    """
    return _LIST_OF_PYTHON.match(text) is not None and text.rstrip().endswith("]")


def cut(value: Any, limit: int = 40) -> str:
    """A value for a message, cut short.

    >>> cut("a" * 50)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...'"
    """
    shown = repr(str(value)) if isinstance(value, str) else repr(value)
    return shown if len(shown) <= limit else f"{shown[: limit - 4]}...{shown[0] if isinstance(value, str) else ''}"
