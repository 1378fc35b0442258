"""What `import rmx` offers."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import rmx
from rmx.reference.docstrings import first_paragraph
from rmx.reference.entries import ReferenceEntry

_WIDEST = 100  # characters of a signature on one line

__all__ = ["python_entries", "python_page"]

_MEANINGS = {
    "Scorer": "scores conversations with a reward model; made by rmx.load",
    "Workflow": "one experiment, as the command line runs it",
    "__version__": "the version of rmx",
    "check": "check every value of a configuration, without torch",
    "compose": "compose a configuration as the command line does",
    "errors": "the classes of errors",
    "instantiate": "check a configuration and make its Workflow",
    "load": "load a reward model: a run folder, its model/ folder, or a hub id",
}


def python_entries() -> list[ReferenceEntry]:
    """Return an entry for every public name; signatures and docstrings, which need imports, when they are asked for."""
    return [
        ReferenceEntry("Python", f"rmx.{name}", _meaning(name), also=(name,), more=functools.partial(python_page, name))
        for name in rmx.__all__
    ]


def _meaning(name: str) -> str:
    return _MEANINGS.get(name) or first_paragraph(getattr(rmx, name))  # the latter may import torch


def python_page(name: str) -> str:
    """Return signature and docstring of a public name; of a class its public methods, too.

    >>> print(python_page("check").splitlines()[0])
    check(cfg: DictConfig) -> None
    """
    found = getattr(rmx, name)
    if not callable(found):
        return f"{name}: str" if isinstance(found, str) else inspect.cleandoc(found.__doc__ or "")
    lines = [f"{name}{_signature(found)}", "", inspect.getdoc(found) or ""]
    if isinstance(found, type):
        methods = inspect.getmembers(found, lambda member: inspect.isfunction(member) or isinstance(member, property))
        shown = [(key, member) for key, member in methods if not key.startswith("_")]
        for key, member in shown:
            lines += ["", f".{key}{_of_method(member)}", f"    {first_paragraph(member)}"]
    return "\n".join(lines).rstrip()


def _signature(found: Any, *, at_most: int = _WIDEST) -> str:
    """The signature, its annotations as they are written; a long one has a line per argument.

    >>> def rank(prompt: Conversation, *, best: int = 1) -> list[str]: ...
    >>> _signature(rank)
    '(prompt: Conversation, *, best: int = 1) -> list[str]'
    >>> print(_signature(rank, at_most=20))
    (
        prompt: Conversation,
        *,
        best: int = 1,
    ) -> list[str]
    """
    signature = inspect.signature(found)
    text = _unquoted(str(signature))
    if len(text) <= at_most:
        return text
    lines, named_only = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not named_only:
            lines.append("    *,")
            named_only = True
        lines.append(f"    {_unquoted(str(parameter))},")
    result = "" if signature.return_annotation is signature.empty else text[text.rindex(" -> ") :]
    return "\n".join(["(", *lines, f"){result}"])


def _unquoted(text: str) -> str:
    """Take the quotes from annotations that are text."""
    return re.sub(r"""(: |-> )(?:'([^']*)'|"([^"]*)")""", lambda match: match[1] + (match[2] or match[3]), text)


def _of_method(member: Any) -> str:
    return "" if isinstance(member, property) else _signature(member, at_most=10_000)
