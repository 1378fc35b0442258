"""`rmx verify FOLDER`: the known traps of a reward model folder, and ten rows through everyone who loads it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmx.scoring.examine.consumers import Scored
    from rmx.scoring.examine.examined import Answer, Examination

__all__ = ["main"]

_WIDTH = 22  # of a trap's name
_SIGNS = {True: "TRAP", False: "ok", None: "-"}


def main(argv: Sequence[str]) -> int:
    """Examine a folder or hub id.

    Returns:
        0 where no trap was found, 1 where one was. Wrong input raises (exit code 2).

    Raises:
        ModelError: there is no reward model to look at.
    """
    given = _parser().parse_args(argv)
    from rmx.scoring.examine.examined import examine

    found = examine(given.folder)
    if given.json:
        sys.stdout.write(json.dumps(found.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        sys.stdout.write(examination_text(found))
    return 1 if found.traps else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rmx verify",
        description="Look at a reward model (a run, its model/ folder, any *ForSequenceClassification folder or hub "
        "id) for the known traps, and score ten rows the way each consumer does.",
        epilog="exit code: 0 no trap, 1 a trap was found, 2 there is no reward model to look at",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="FOLDER", help="a folder or hub id")
    parser.add_argument("--json", action="store_true", help="write one JSON object to standard output")
    return parser


def examination_text(found: Examination) -> str:
    """What a person reads: a line per trap, what to do about those found, and the table of consumers."""
    lines = [found.folder, ""]
    for answer in found.answers:
        lines += _answer_lines(answer)
    lines += ["", *_consumer_lines(found.consumers, found.why_no_consumers), ""]
    count = len(found.traps)
    named = f"{count} trap{'s' * (count > 1)}: {', '.join(found.traps)}" if count else "no trap found"
    return "\n".join([*lines, named]) + "\n"


def _answer_lines(answer: Answer) -> list[str]:
    line = f"  {_SIGNS[answer.trapped]:5} {answer.name:{_WIDTH}}{answer.detail}"
    if not answer.trapped:
        return [line]
    indent = " " * (8 + _WIDTH)
    return [line, f"{indent}what it does: {answer.meaning}", f"{indent}what to do:   {answer.remedy}"]


def _consumer_lines(consumers: Sequence[Scored], why_none: str | None) -> list[str]:
    if not consumers:
        return [f"ten rows are not scored: {why_none}"]
    width = max(len(scored.name) for scored in consumers) + 2
    lines = [f"{'ten rows, scored by':{width}}{'first':>12}{'last':>12}  largest difference"]
    compared = False
    for scored in consumers:
        if scored.rewards is None or scored.max_difference is None:
            lines.append(f"{scored.name:{width}}{'-':>12}{'-':>12}  {scored.why_not}")
            continue
        apart = f"{scored.max_difference:.2g}{'' if scored.agrees else '  DIFFERS'}" if compared else "(the reference)"
        compared = True
        lines.append(f"{scored.name:{width}}{scored.rewards[0]:>12.6f}{scored.rewards[-1]:>12.6f}  {apart}")
    return lines
