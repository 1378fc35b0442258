"""What is asked when columns cannot be read as they are: one message with columns, values, and the keys to set.

Values are shown cut short, three of them at most. A proposal is never taken by itself.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rmx.data.rows.columns import MEDIA, PARTS_OF, RENAMED, close_names, fact
from rmx.data.rows.drafts import Row
from rmx.data.rows.looks import cut, filled, is_python_list, looks_of
from rmx.data.rows.plan import Column
from rmx.errors import DataError, none_of_the_first

__all__ = ["Keys", "damaged_header", "mapping_mistakes", "no_format", "not_ignored", "proposal", "text_not_read"]

_VALUES = 3

# Words in the names of columns that make them likely to be a part.
_WORDS: dict[str, tuple[str, ...]] = {
    "rejected": ("rejected", "reject", "bad", "worse", "worst", "loser", "losing", "lose", "loss", "negative", "neg",
                 "dispreferred", "nonpreferred", "unpreferred", "incorrect", "wrong", "l"),
    "chosen": ("chosen", "good", "better", "best", "winner", "winning", "win", "positive", "pos", "preferred",
               "accepted", "accept", "correct", "right", "w"),
    "system": ("system", "sys"),
    "prompt": ("prompt", "question", "query", "instruction", "ask", "user", "human", "request", "task", "problem", "q",
               "x", "post", "input", "conversation", "dialogue", "messages"),
}  # fmt: skip


class Keys:
    """How a user says what a column is: the names of the keys, for one source; `prefix` is what stands before them:
    `data`, "" for nothing, or `--` where they are flags.

    >>> print(Keys("--").ignore(["notes"]))
    '--ignore=[notes]'
    """

    def __init__(self, prefix: str, mapping: Callable[[Mapping[str, str]], str] | None = None) -> None:
        self.prefix = prefix
        self._dotted = f"{prefix}." if prefix.isidentifier() or "." in prefix else prefix
        self._mapping = mapping

    def columns(self, mapping: Mapping[str, str]) -> str:
        """The assignment that maps columns: rmx's name → the file's; quoted, for it is pasted into a shell.

        >>> print(Keys("data").columns({"prompt": "question", "chosen": "better"}))
        'data.columns={prompt: question, chosen: better}'
        """
        if self._mapping is not None:
            return self._mapping(mapping)
        pairs = ", ".join(f"{ours}: {theirs}" for ours, theirs in mapping.items())
        return shlex.quote(f"{self._dotted}columns={{{pairs}}}")

    def ignore(self, columns: Sequence[str]) -> str:
        """The assignment that leaves columns out."""
        return shlex.quote(f"{self._dotted}ignore=[{', '.join(columns)}]")


def proposal(rows: Sequence[Row]) -> dict[str, str]:
    """A mapping made of the columns of some rows: first by words in their names, then by their order.

    >>> proposal([{"question": "2+2?", "good_answer": "4", "bad_answer": "5"}])
    {'prompt': 'question', 'chosen': 'good_answer', 'rejected': 'bad_answer'}
    """
    names = {name: [row[name] for row in rows if filled(row.get(name))] for row in rows for name in row}
    kinds = {name: looks_of(values[:_VALUES]).kind for name, values in names.items() if values}
    texts = [name for name, kind in kinds.items() if kind in {"text", "messages", "list of texts"}]
    texts = [name for name in texts if name in PARTS_OF or fact(name) is None]
    found: dict[str, str] = {}
    for part, words in _WORDS.items():
        for name in texts:
            parts = re.split(r"[\W_\d]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
            if part not in found and name not in found.values() and any(word in parts for word in words):
                found[part] = name
    rest = [name for name in texts if name not in found.values()]
    for part in ("prompt", "chosen", "rejected"):
        if part not in found and rest:
            found[part] = rest.pop(0)
    return {part: found[part] for part in ("system", "prompt", "chosen", "rejected") if part in found}


def no_format(source: str, keys: Keys, rows: Sequence[Row], known: Iterable[str]) -> DataError:
    """No row shape has these columns: propose a mapping."""
    found = sorted({column for row in rows for column in row})
    lines = [f"data {source}: no known format has the columns found: {', '.join(found) or 'none'}"]
    mapping = proposal(rows)
    if {"chosen", "rejected"} <= mapping.keys():
        lines.append(f"  If this is what they are, give {keys.columns(mapping)}")
        lines += [f"    {part} = {name}: {_shown(name, rows)}" for part, name in mapping.items()]
    else:
        lines += [f"    {name}: {_shown(name, rows)}" for name in found[:8]]
        lines.append(f"  Say which columns play which part, for example {keys.columns(_EXAMPLE)}")
    lines.append(f"  Known formats: {'; '.join(known)}")
    return DataError("\n".join(lines))


_EXAMPLE = {"prompt": "question", "chosen": "better", "rejected": "worse"}


def _shown(name: str, rows: Sequence[Row]) -> str:
    values = [row[name] for row in rows if filled(row.get(name))][:_VALUES]
    return ", ".join(dict.fromkeys(map(cut, values))) or "empty"


def mapping_mistakes(source: str, keys: Keys, mapping: Mapping[str, str], rows: Sequence[Row]) -> DataError | None:
    """A mapping to a part that does not exist, or from a column that none of the first rows has."""
    found = list(dict.fromkeys(column for row in rows for column in row))
    for ours, theirs in mapping.items():
        if ours not in PARTS_OF and ours not in MEDIA:
            close = close_names(ours, PARTS_OF)
            hint = f"did you mean {close[0]}?" if close else f"parts are {', '.join(sorted(set(_parts())))}"
            return DataError(f"{keys.columns({ours: theirs})}: {ours} is not a part of a comparison; {hint}")
        if theirs in found or any(_has_path(row, theirs) for row in rows):
            continue
        inside = theirs.split(".")[0] in found
        known = _paths(rows) if inside else found
        close = close_names(theirs, known, 3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        return DataError(
            f"{keys.columns({ours: theirs})}: {none_of_the_first(len(rows))} of {source} has a column {theirs}; "
            f"{hint}Columns found: {', '.join(found)}"
        )
    return None


def _parts() -> Iterable[str]:
    return (part for parts in PARTS_OF.values() for part in parts)


def _has_path(row: Row, path: str) -> bool:
    from rmx.data.accounting import RowFault
    from rmx.data.rows.plan import reach

    try:
        reach(row, path)
    except RowFault:
        return False
    return True


def _paths(rows: Sequence[Row]) -> list[str]:
    """The places inside objects, two levels deep."""
    objects = ((name, value) for row in rows for name, value in row.items() if isinstance(value, dict))
    return list(dict.fromkeys(f"{name}.{inner}" for name, value in objects for inner in value))


def damaged_header(source: str, rows: Sequence[Row]) -> DataError | None:
    """The name of a column that was read with a wrong encoding, or that begins with a byte order mark.

    A name that most rows have: one of a single row of JSON is a fault of that row, like any column that others lack.
    """
    counts = Counter(column for row in rows for column in row)
    for name in (name for name, rows_with in counts.items() if rows_with * 2 > len(rows)):
        if any(sign in name for sign in ("\ufeff", "\ufffd", "\x00", "ï»¿")) or _is_mojibake(name):
            return DataError(
                f"data {source}: the name of column {cut(name)} is damaged: the file was written or read in a wrong "
                "encoding. Save it as UTF-8 without a byte order mark; its texts are likely to be damaged too"
            )
    return None


def _is_mojibake(name: str) -> bool:
    """Whether a name is UTF-8 that was read as Windows-1252."""
    try:
        return not name.isascii() and name.encode("cp1252").decode("utf-8") != name
    except UnicodeError:
        return False


def text_not_read(
    source: str, keys: Keys, column: Column, values: Sequence[Any], where: str, uses: Mapping[str, str]
) -> DataError:
    """A column holds something that the annotators may have seen and that no part of the comparison has."""
    name, looks = column.name, looks_of(values)
    read = {own: part for own, part in uses.items() if own != name and part not in {"fact", "unused", "ignored"}}
    others = [f"{part} = {own}" for own, part in read.items()]
    shown = ", ".join(dict.fromkeys(map(cut, values[:_VALUES])))
    lines = [f"data {source}: column {name} ({looks.words}) is not read, and may be part of what the annotators saw"]
    lines.append(f"  {where}: {shown}")
    lines.append(f"  Read so far: {', '.join(others) or 'nothing'}")
    if looks.kind == "media" or name in MEDIA:
        lines.append(f"  Images, sound and film are not supported; {keys.ignore([name])} trains on the text alone")
        return DataError("\n".join(lines))
    if any(isinstance(value, str) and is_python_list(value) for value in values):
        lines.append("  It is a list as Python prints it, not JSON: write it with json.dumps")
    lines += [f"  {words}" for words in _suggestions(name, looks.kind, keys, read)]
    lines.append(f"  {keys.ignore([name])} leaves it out")
    return DataError("\n".join(lines))


def _suggestions(name: str, kind: str, keys: Keys, read: Mapping[str, str]) -> Iterator[str]:
    """Mappings that would use the column, beside what is read already."""
    parts = {RENAMED.get(part, part): own for own, part in read.items()}
    if kind == "messages":
        yield f"{keys.columns({'history': name})} makes it the conversation so far"
    elif "prompt" not in parts:
        yield f"{keys.columns({'prompt': name})} makes it the prompt"
    elif kind == "text" and "input" not in parts:
        yield f"{keys.columns({'input': name})} puts it behind {parts['prompt']} in the user's turn,"
        yield f"{keys.columns({'prompt': name, 'input': parts['prompt']})} before it"
    else:
        yield f"{keys.columns({'prompt': name})} makes it the prompt instead"


def not_ignored(keys: Keys, ignore: Sequence[str], seen: Iterable[str]) -> DataError | None:
    """`data.ignore` names a column that no row has."""
    known = list(seen)
    for name in ignore:
        if name not in known:
            close = close_names(name, known)
            hint = f"did you mean {close[0]}? " if close else ""
            return DataError(f"{keys.ignore([name])}: no row has this column; {hint}Columns found: {', '.join(known)}")
    return None
