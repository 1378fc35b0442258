"""A name → the entries that it means, or the names that are near it."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Iterator

from rmx.reference.config_keys import group_entries, key_entries
from rmx.reference.endings import error_entries, exit_code_entries
from rmx.reference.entries import ReferenceEntry, merge_alike
from rmx.reference.kept_files import file_entries, pattern_fits
from rmx.reference.metric_names import metric_entries, metric_of
from rmx.reference.python_names import python_entries
from rmx.reference.shown_numbers import shown_number_entries
from rmx.reference.verbs import verb_entries

__all__ = ["everything", "look_up", "near"]

_NEAR = 0.7  # likeness (difflib) from which a name is proposed
_MOST_PROPOSED = 5


@functools.cache
def everything() -> tuple[ReferenceEntry, ...]:
    """Return all entries of the reference."""
    return (
        *merge_alike(key_entries()), *group_entries(), *metric_entries(), *shown_number_entries(), *file_entries(),
        *error_entries(), *exit_code_entries(), *verb_entries(), *python_entries(),
    )  # fmt: skip


def look_up(name: str) -> list[ReferenceEntry]:
    """Return the entries of a name; of several kinds where it means several things. Empty for an unknown one.

    A key is found by its full name and by its last part, a metric by all names that files and pages give it, a file by
    its name or by a path, an option as `peft=lora` and by its own name. What is not found so is looked for in any case,
    with spaces for underscores and hyphens.

    >>> [(entry.kind, entry.name) for entry in look_up("learning_rate")]
    [('key', 'trainer.learning_rate'), ('metric', 'learning_rate')]
    >>> [entry.name for entry in look_up("eval_hard_accuracy")], look_up("lerning_rate")
    (['accuracy'], [])
    """
    name = re.sub(r"^(?:\+\+|\+|~)", "", name.strip())
    name = re.sub(r"^data\.(?:eval_sets|sources)\.[^.=]+\.", "data.", name)  # each takes the keys of data=jsonl
    asked = name.partition("=")[0]
    exact = [entry for entry in everything() if name in (entry.name, *entry.also)]
    if exact and any(entry.name == name and entry.kind != "metric" for entry in exact) and "." in name:
        return exact
    if "=" in name and not exact:  # trainer.seed=1: the key without its value
        return [entry for entry in look_up(asked) if entry.kind == "key"]
    last = [entry for entry in everything() if entry.kind == "key" and entry.name.rpartition(".")[2] == name]
    last += [entry for entry in everything() if entry.kind == "option" and entry.name.partition("=")[2] == name]
    metric = metric_of(name)
    measured = [entry for entry in everything() if entry.kind == "metric" and metric and entry.name == metric.name]
    named = [*exact, *(entry for entry in [*last, *measured] if entry not in exact)]
    return sorted(named, key=_first_what_is_set) if named else _file(name) or _as_said(name) or _trap(name)


def near(name: str) -> list[str]:
    """Return the names that are closest to an unknown one, best first.

    >>> near("lerning_rate")[0], near("DataErorr")[0], near("eval_acuracy")[0], near("qwertzuiop")
    ('trainer.learning_rate', 'DataError', 'eval_accuracy', [])
    """
    word = name.partition("=")[0] if "." in name else name
    shown: dict[str, str] = {}
    for entry in everything():
        for other in (entry.name, *entry.also):
            shown.setdefault(other.lower(), entry.name if entry.kind in ("key", "file") else other)
        if entry.kind in ("key", "option"):
            shown.setdefault(re.split(r"[.=]", entry.name)[-1].lower(), entry.name)
    close = difflib.get_close_matches(word.lower(), list(shown), _MOST_PROPOSED, _NEAR)
    return list(dict.fromkeys(shown[other] for other in close))


def _first_what_is_set(entry: ReferenceEntry) -> int:
    order = ("verb", "group", "option", "key", "metric", "file", "error", "exit code", "trap", "Python")
    return order.index(entry.kind)


def _as_said(name: str) -> list[ReferenceEntry]:
    """What a name means in any case, and with spaces, underscores and hyphens alike: `best_possible_accuracy`."""
    said = _words(name)
    found = []
    for entry in everything():
        last = [re.split(r"[.=]", entry.name)[-1]] if entry.kind in ("key", "option") else []
        if said and said in map(_words, (entry.name, *entry.also, *last)):
            found.append(entry)
    return sorted(found, key=_first_what_is_set)


def _words(name: str) -> str:
    """A name as it is said.

    >>> _words("Best_possible-accuracy"), _words("95% interval") == _words("95 % interval")
    ('best possible accuracy', True)
    """
    return re.sub(r"[\s_-]+", " ", name.strip().lower()).replace(" %", "%")


def _trap(name: str) -> list[ReferenceEntry]:
    """A trap of `rmx verify`; traps know models and load torch, so they are asked for what nothing else knows."""
    if not re.fullmatch(r"[a-z]+(?:_[a-z]+)+", name):
        return []
    from rmx.scoring.examine.examined import trap_texts

    if name not in (texts := trap_texts()):
        return []
    meaning, remedy = texts[name]
    return [ReferenceEntry("trap", name, meaning, (("what to do", remedy), ("shown by", "rmx verify")))]


def _file(path: str) -> list[ReferenceEntry]:
    """What a path means that ends as a pattern does: outputs/a/b/plots/training_loss.svg."""
    parts = path.strip("/").split("/")
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return list(_fitting(ends))[:1] or list(dict.fromkeys(_inside(ends)))


def _fitting(ends: Iterable[str]) -> Iterator[ReferenceEntry]:
    """The files that one of these is."""
    files = [entry for entry in everything() if entry.kind == "file"]
    for end in ends:
        for entry in files:
            if any(pattern != "*" and pattern_fits(pattern, end) for pattern in (entry.name, *entry.also)):
                yield entry


def _inside(ends: Iterable[str]) -> Iterator[ReferenceEntry]:
    """The files in a folder that is one of these: plots, outputs/run/checkpoints/checkpoint-40."""
    for end in ends:
        for entry in everything():
            folders = entry.name.split("/")[:-1] if entry.kind == "file" else []
            if any(pattern_fits(folder, end) for folder in folders if folder.strip("*")):
                yield entry
