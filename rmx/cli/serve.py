"""`rmx serve model=...`: reward models behind HTTP, until a signal ends it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rmx.cli.words import from_words, logged_to_stderr, verb_help
from rmx.serving.server import ServeJob

__all__ = ["main"]

_MEANING = "Serve a reward model, or several as an ensemble, to programs that ask over HTTP."


def main(argv: Sequence[str]) -> int:
    """Serve; returns 143 or 130, once a signal has come and all that was taken in is answered.

    Raises:
        RmxError: a key, the port, or the model cannot be used.
    """
    if {"--help", "-h"} & set(argv):
        sys.stdout.write(verb_help(ServeJob, "serve", _MEANING))
        return 0
    job = from_words(ServeJob, argv, "serve")
    with logged_to_stderr():
        return job.run()
