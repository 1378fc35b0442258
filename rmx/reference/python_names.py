"""What `import rmx` offers."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import rmx
from rmx.reference.docstrings import first_paragraph
from rmx.reference.entries import Entry

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


def python_entries() -> list[Entry]:
    """Return an entry for every public name; signatures and docstrings, which need imports, when they are asked for."""
    return [
        Entry("Python", f"rmx.{name}", _meaning(name), also=(name,), more=functools.partial(python_page, name))
        for name in rmx.__all__
    ]


def _meaning(name: str) -> str:
    return _MEANINGS.get(name) or first_paragraph(getattr(rmx, name))  # the latter may import torch


def python_page(name: str) -> str:
    """Return signature and docstring of a public name; of a class its public methods, too.

    >>> print(python_page("check").splitlines()[0])
    check(cfg: 'DictConfig') -> 'None'
    """
    found = getattr(rmx, name)
    if not callable(found):
        return f"{name} = {found!r}" if isinstance(found, str) else inspect.cleandoc(found.__doc__ or "")
    lines = [f"{name}{_signature(found)}", "", inspect.getdoc(found) or ""]
    if isinstance(found, type):
        methods = inspect.getmembers(found, lambda member: inspect.isfunction(member) or isinstance(member, property))
        shown = [(key, member) for key, member in methods if not key.startswith("_")]
        lines += ["", *(f"  .{key}{_of_method(member)}   {first_paragraph(member)}" for key, member in shown)]
    return "\n".join(lines).rstrip()


def _signature(found: Any) -> str:
    """The signature, without addresses of objects: the page must be the same each time."""
    return re.sub(r"<(\w+)[^<>]* at 0x[0-9a-f]+>", r"<\1>", str(inspect.signature(found)))


def _of_method(member: Any) -> str:
    return "" if isinstance(member, property) else _signature(member)
