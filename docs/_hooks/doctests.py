"""A griffe extension: examples in docstrings (`>>>`) are shown as code, wherever in the docstring they stand."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"(?:^|(?<=\n))(?P<indent>[ ]*)>>> .*?(?=\n[ ]*\n|\Z)", re.DOTALL)


class FencedDoctests(Extension):
    """Puts a fence around every example."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object that has just been read."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(docstring: str) -> str:
    """The docstring with its examples in fences."""
    return _EXAMPLE.sub(lambda found: f"{found['indent']}```python\n{found[0]}\n{found['indent']}```", docstring)
