"""What the reference is made of: one entry for each thing that has a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["Kind", "ReferenceEntry", "merge_alike"]

Kind = Literal["group", "option", "key", "metric", "file", "error", "exit code", "verb", "trap", "Python"]


@dataclass(frozen=True)
class ReferenceEntry:
    """One thing that has a name.

    Attributes:
        kind: what it is.
        name: as it is written: `trainer.learning_rate`, `peft=lora`, `eval/accuracy`, `metrics.jsonl`, `DataError`.
        meaning: one or more sentences.
        facts: (label, text), in the order in which they are shown: takes, default, formula, unit, ...
        section: what it is listed under on its page: the options of a key, the folder of a file.
        also: other names that it is found by.
        more: makes a longer text, such as a help page, when that is asked for.
    """

    kind: Kind
    name: str
    meaning: str
    facts: tuple[tuple[str, str], ...] = ()
    section: str = ""
    also: tuple[str, ...] = ()
    more: Callable[[], str] | None = None

    def fact(self, label: str) -> str:
        """Return a fact by its label; "" where there is none.

        >>> ReferenceEntry("key", "seed", "of all that is drawn", (("default", "42"),)).fact("default")
        '42'
        """
        return dict(self.facts).get(label, "")


def merge_alike(entries: Iterable[ReferenceEntry]) -> list[ReferenceEntry]:
    """Put entries of one name that say the same into one, under all their sections; the order is kept.

    >>> two = [ReferenceEntry("key", "a", "x", section=section) for section in ("p=1", "p=2")]
    >>> [entry.section for entry in merge_alike(two)]
    ['p=1, p=2']
    """
    found: dict[tuple[str, str, tuple[tuple[str, str], ...]], ReferenceEntry] = {}
    for entry in entries:
        same = (entry.name, entry.meaning, entry.facts)
        before = found.get(same)
        section = ", ".join(dict.fromkeys(filter(None, [before.section if before else "", entry.section])))
        found[same] = replace(before or entry, section=section)
    return list(found.values())
