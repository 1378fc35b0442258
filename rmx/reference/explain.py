"""`rmx explain NAME...`: what a key, metric, file, error, exit code, option, verb or Python name is."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

from rmx.errors import InputError
from rmx.reference.entries import Kind, ReferenceEntry
from rmx.reference.look_up import everything, look_up, near

__all__ = ["main", "told"]

HELP = """rmx explain NAME [NAME...]

Explain any name that rmx takes, prints or writes:

  rmx explain trainer.learning_rate     a key: what it takes, its default, what it means; also learning_rate
  rmx explain peft=lora                 an option of a group; also lora, peft
  rmx explain eval_accuracy             a number of a file, page or screen, with its formula; also ECE, "unique tokens"
  rmx explain metrics.jsonl             a file of a run folder; also plots/training_loss.svg
  rmx explain DataError                 an error: what to do about it
  rmx explain 75                        an exit code
  rmx explain score                     a verb, with its options
  rmx explain rmx.load                  a name of the Python package

Every name that can be asked for: rmx explain ''. All of it: docs/reference/
"""
_WIDEST = 100


def main(argv: Sequence[str]) -> int:
    """Print the entries of some names; of an empty one the list of all names.

    Raises:
        InputError: a name is unknown; those that are near it are proposed. The others are printed all the same.
    """
    if not argv or {"--help", "-h"} & set(argv):
        sys.stdout.write(HELP)
        return 0 if argv else 2
    if not any(name.strip() for name in argv):
        sys.stdout.write(listed())
        return 0
    unknown = []
    shown: list[ReferenceEntry] = []
    for name in argv:
        found = look_up(name)
        shown += [entry for entry in found if entry not in shown]
        if not found:
            close = near(name)
            hint = f"did you mean {' or '.join(close)}?" if close else "rmx explain '' lists the names"
            unknown.append(f"{name}: nothing of rmx has this name; {hint}")
    sys.stdout.write("\n\n".join(told(entry) for entry in shown) + ("\n" if shown else ""))
    if unknown:
        raise InputError("\nrmx: ".join(unknown))
    return 0


def told(entry: ReferenceEntry) -> str:
    """Return an entry as the terminal shows it.

    >>> print(told(ReferenceEntry("key", "seed", "of all that is drawn", (("takes", "an integer"), ("default", "42")))))
    seed   (key)
      of all that is drawn
      takes    an integer
      default  42
    """
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    place = f" of {entry.section}" if entry.kind == "key" and "=" in entry.section else ""
    lines = [f"{entry.name}   ({entry.kind}{place})", *_wrapped("  ", entry.meaning, width)]
    label_width = max((len(label) for label, _ in entry.facts), default=0)
    for label, text in entry.facts:
        lines += _wrapped(f"  {label:<{label_width}}  ", text, width)
    if entry.more is not None:
        lines += ["", *(f"  {line}".rstrip() for line in entry.more().splitlines())]
    return "\n".join(lines)


_HEADINGS: dict[Kind, str] = {
    "verb": "verbs",
    "group": "groups of options (GROUP=OPTION)",
    "key": "keys",
    "metric": "numbers of files, pages and screens",
    "file": "files",
    "error": "errors",
    "exit code": "exit codes",
    "Python": "names of the Python package",
}


def listed() -> str:
    """Return every name that can be asked for, by kind; options stand beside their group, refused keys are left out."""
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    lines = []
    for kind, heading in _HEADINGS.items():
        entries = [entry for entry in everything() if entry.kind == kind and entry.section != "refused"]
        names = list(dict.fromkeys(entry.name for entry in entries))
        if kind == "group":
            options = {name: next(e for e in entries if e.name == name).fact("options") for name in names}
            lines += [
                f"{heading}:",
                *(line for name in names for line in _wrapped(f"  {name}=", options[name], width)),
                "",
            ]
        else:
            lines += [f"{heading}:", *_wrapped("  ", ", ".join(names), width), ""]
    return "\n".join([*lines, "and the traps that rmx verify names"]) + "\n"


def _wrapped(head: str, text: str, width: int) -> list[str]:
    rest = " " * len(head)
    return textwrap.wrap(
        text, width, initial_indent=head, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
