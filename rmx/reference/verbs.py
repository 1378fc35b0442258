"""The verbs of the command line, as the door knows them, with their own help pages."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Iterator
from importlib import import_module

from rmx.cli import VERBS
from rmx.reference.entries import ReferenceEntry

__all__ = ["help_of", "verb_entries"]

_COLUMNS = "100"  # argparse wraps its pages to this width, whatever the terminal's


def verb_entries() -> list[ReferenceEntry]:
    """Return an entry for every verb; its help page is made when it is asked for."""
    entries = []
    for verb, (_, line) in VERBS.items():
        words, _, meaning = line.partition("   ")
        facts = (("usage", f"rmx {verb} {words.strip()}"),)
        also = (f"rmx {verb}",)
        more = functools.partial(help_of, verb)
        entries.append(ReferenceEntry("verb", verb, meaning.strip() or words.strip(), facts, also=also, more=more))
    return entries


def help_of(verb: str) -> str:
    """Return what `rmx VERB --help` prints.

    >>> help_of("watch").splitlines()[0]
    'usage: rmx watch [-h] [--once] [--every SECONDS] folder'
    """
    module, _, name = VERBS[verb][0].partition(":")
    page = io.StringIO()
    with _fixed_width(), contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):  # argparse leaves by it
        getattr(import_module(module), name)(["--help"])
    return page.getvalue().strip("\n")


@contextlib.contextmanager
def _fixed_width() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ.update(COLUMNS=_COLUMNS, NO_COLOR="1")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
