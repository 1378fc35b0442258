"""`rmx score model=... input=... output=...`: what it asks for, and how far it is, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from time import perf_counter

from rmx.cli.words import from_words, logged_to_stderr, verb_help
from rmx.errors import counted
from rmx.run.progress import clock
from rmx.scoring.job import HowFar, ScoreJob

__all__ = ["main"]

_MEANING = "Score every row of a file with one reward model, or several as an ensemble."
_SECONDS = 2.0  # between two looks in a terminal
_LOG_SECONDS = 30.0  # between two lines in a log


def main(argv: Sequence[str]) -> int:
    """Score a file; returns the exit code.

    Raises:
        RmxError: a key, the model, the input or the output cannot be used.
    """
    if {"--help", "-h"} & set(argv):
        sys.stdout.write(verb_help(ScoreJob, "score", _MEANING))
        return 0
    job = from_words(ScoreJob, argv, "score")
    with logged_to_stderr():
        rows = job.run(ProgressLine())
    where = "standard output" if job.place is None else str(job.place)
    sys.stderr.write(f"rmx: {counted(rows, 'row')} answered in {where}\n")
    return 0


class ProgressLine:
    """Rows done, rate and time left: one line that is written over in a terminal, a line now and then in a log."""

    def __init__(self) -> None:
        self.started = perf_counter()
        self.shown = 0.0
        self.ended = False

    def __call__(self, done: HowFar) -> None:
        """Show it, if it is time to."""
        now = perf_counter()
        terminal = sys.stderr.isatty()
        last = done.total is not None and done.rows >= done.total
        if self.ended:
            return
        self.ended = last
        if now - self.shown < (_SECONDS if terminal else _LOG_SECONDS) and not last:
            return
        self.shown = now
        text = progress_text(done, now - self.started)
        sys.stderr.write(f"\r{text}\033[K{chr(10) if last else ''}" if terminal else f"rmx: {text}\n")
        sys.stderr.flush()


def progress_text(done: HowFar, seconds: float) -> str:
    """How far a job is, in words.

    >>> progress_text(HowFar(rows=600, earlier=100, total=1100, tokens=50_000), seconds=10.0)
    '600 of 1,100 rows, 50 rows/s, 5,000 tokens/s, 0:10 left'
    >>> progress_text(HowFar(rows=600, earlier=0, total=None, tokens=0), seconds=10.0)
    '600 rows, 60 rows/s, 0 tokens/s'
    """
    rate = (done.rows - done.earlier) / max(seconds, 1e-9)
    of = "" if done.total is None else f" of {done.total:,}"
    left = f", {clock((done.total - done.rows) / rate)} left" if done.total is not None and rate else ""
    return f"{done.rows:,.0f}{of} rows, {rate:,.0f} rows/s, {done.tokens / max(seconds, 1e-9):,.0f} tokens/s{left}"
