"""What a docstring in Google style says: its first sentences, and what each argument means."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["arguments_of", "first_paragraph"]

_SECTION = re.compile(r"^(Args|Attributes):\n((?:[ \t]+.*\n|\n)*)", re.MULTILINE)
_ITEM = re.compile(r"^([\w*]+(?:, [\w*]+)*): +(.*)$")
_ELSEWHERE = re.compile(r"^see `(\w+)`\.$")


def first_paragraph(thing: Any) -> str:
    """Return the sentences before the first empty line, on one line.

    >>> first_paragraph(first_paragraph)
    'Return the sentences before the first empty line, on one line.'
    """
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def arguments_of(target: Any) -> dict[str, str]:
    r"""Return argument → meaning, of a function or of a class and those that it builds on.

    "see `Other`." takes over what `Other`, of the same package, says of the argument.

    >>> def resize(width, height):
    ...     "Make it another size.\n\n    Args:\n        width, height: in pixels,\n            above 0."
    >>> arguments_of(resize)
    {'width': 'in pixels, above 0.', 'height': 'in pixels, above 0.'}
    """
    found: dict[str, str] = {}
    for owner in reversed(target.__mro__) if isinstance(target, type) else [target]:
        found |= dict(_items(inspect.cleandoc(owner.__doc__ or "")))
    for name, text in found.items():
        if (link := _ELSEWHERE.match(text)) and (other := inspect.getmodule(target)):
            found[name] = arguments_of(getattr(other, link[1])).get(name, text)
    return found


def _items(doc: str) -> Iterator[tuple[str, str]]:
    for section in _SECTION.finditer(f"{doc}\n"):
        names, words = "", [""]
        for line in [*inspect.cleandoc(section[2]).splitlines(), "end: end"]:
            if item := _ITEM.match(line):
                yield from ((name.strip(), " ".join(words)) for name in names.split(",") if name)
                names, words = item[1], [item[2]]
            else:
                words.append(line.strip())
