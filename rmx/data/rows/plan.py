"""What every column of a source is: a part of the comparison, a fact, or unused; and whether any text was lost.

A *plan* is made once for each distinct set of columns, so that a row costs one lookup. It says which column plays
which part, and which columns must be looked at once more when the row has become a comparison: their texts have to be
in it. A text that no part of the comparison has stops the reading until `data.columns` or `data.ignore` says what it
is; where most rows repeat there what other columns say, the few that do not are rejected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from rmx.data.accounting import RowFault
from rmx.data.rows.columns import MEDIA, PARTS_OF, RENAMED, TEXT_PARTS, fact
from rmx.data.rows.drafts import Draft, Row, prompt_messages
from rmx.data.rows.looks import Looks, filled, from_json, looks_of, seems, texts_of
from rmx.data.rows.messages import to_messages, unprinted_fields

__all__ = ["Column", "Columns", "Plan", "TextNotRead"]

_SAMPLES = 3  # values of a column that are kept for a message
_SHORTEST_PART = 20  # characters from which a text may be found inside a longer one
# How closely a column is looked at: every text of it counts, texts that read like prose, long ones, or anything.
Level = Literal["every", "prose", "long", "any"]


class TextNotRead(RowFault):
    """A column of the row holds text, messages or media that no part of the comparison has."""

    def __init__(self, column: str) -> None:
        super().__init__("text not read", f"{column} holds something that no part of the comparison says")
        self.column = column


@dataclass(slots=True)
class Column:
    """One column of a source, over all rows read so far."""

    name: str
    use: str  # a part's name, "fact", "ignored" or "unused"
    rows: int = 0  # in which it is not empty, besides those that `Plan.full` counts
    samples: list[Any] = field(default_factory=list)  # its first values
    repeated: int = 0  # rows in which all its texts are in the comparison too
    short: int = 0  # rows in which it holds something too short to be asked about
    as_json: bool = False  # whether its cells hold lists as JSON text

    @property
    def looks(self) -> Looks:
        """What its first values look like."""
        return looks_of(self.samples)


@dataclass(slots=True)
class Plan:
    """What is done with rows of one set of columns."""

    columns: tuple[Column, ...]  # in the order of the row
    mapped: tuple[tuple[str, str], ...]  # rmx's name, the file's
    renamed: tuple[tuple[str, tuple[str, ...]], ...]  # part, the columns that may be it in order of preference
    json: tuple[str, ...]  # columns whose cells hold lists as JSON text
    checked: tuple[tuple[Column, str, Level, bool], ...]  # column, its name in the row (as read?), how closely
    messages: tuple[str, ...]  # columns in which messages may have further fields
    full: int = 0  # rows without an empty cell, counted here for all columns at once


class Columns:
    """The columns of one source: adapts rows to rmx's names, and keeps account of every column.

    Args:
        mapping: `data.columns`.
        ignore: `data.ignore`.
        head: the first rows, which decide what a column's cells are.

    >>> columns = Columns({"chosen": "better"}, (), [{"question": "2+2?", "better": "4", "rejected": "5"}])
    >>> row = columns.adapt({"question": "2+2?", "better": "4", "rejected": "5"})[1]
    >>> row["prompt"], row["chosen"], [(column.name, column.use) for column in columns.seen.values()]
    ('2+2?', '4', [('question', 'prompt'), ('better', 'chosen'), ('rejected', 'rejected')])
    """

    def __init__(self, mapping: Mapping[str, str], ignore: Sequence[str], head: Sequence[Row] = ()) -> None:
        self.mapping, self.ignore, self.head = dict(mapping), tuple(ignore), head
        self.seen: dict[str, Column] = {}
        self.fields: Counter[str] = Counter()  # fields of messages that no template prints: column.field → messages
        self.reads: frozenset[str] | None = None  # the parts and columns that the format reads; None: not known yet
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._json: dict[str, bool] = {}
        self._lists_of_texts = _turns_in_lists(head)

    def bind(self, reads: Iterable[str]) -> None:
        """Say which parts, and which columns by name, the format reads; counts begin anew."""
        self.reads = frozenset(reads)
        self._plans.clear()
        self.seen.clear()
        self.fields.clear()

    def forget(self) -> None:
        """Begin to count anew; what the columns are stays known."""
        for plan in self._plans.values():
            plan.full = 0
        for column in self.seen.values():
            column.rows = column.repeated = column.short = 0
            column.samples.clear()
        self.fields.clear()

    def rows_with(self, column: Column) -> int:
        """Rows in which a column is not empty."""
        return column.rows + sum(
            plan.full for plan in self._plans.values() if any(own is column for own in plan.columns)
        )

    def adapt(self, row: Row) -> tuple[Plan, Row]:
        """The row with rmx's names beside the file's, and its plan. Counts the row's columns.

        Raises:
            RowFault: a column that `data.columns` maps is absent, or a cell is not JSON as the others are.
        """
        key = tuple(row)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._new(row)
        if plan.full >= _SAMPLES and all(row.values()):
            plan.full += 1
        else:
            plan.full += _count(plan.columns, row)
        if not (plan.mapped or plan.renamed or plan.json):
            return plan, row
        out = dict(row)
        for ours, theirs in plan.mapped:
            out[ours] = row[theirs] if theirs in row else reach(row, theirs)
        for name in plan.json:
            out[name] = _parsed(out[name], name)
        for part, names in plan.renamed:
            out[part] = next((out[name] for name in names if filled(out[name])), out[names[0]])
        return plan, out

    def check(self, plan: Plan, raw: Row, row: Row, draft: Draft) -> None:
        """Look for text that the comparison does not have; `raw` is the row as read, `row` as adapted.

        Raises:
            TextNotRead: there is some.
        """
        turns: set[str] = set()
        for column, name, level, as_read in plan.checked:
            value = (raw if as_read else row).get(name)
            if not (value or value == 0) or type(value) in _NUMBERS:
                continue
            if level == "any":
                raise TextNotRead(column.name)
            if level == "every" and draft.prompt and value == draft.prompt[-1]["content"]:
                column.repeated += 1
                continue  # the most frequent case: a prompt that is one text
            if level != "every" and not seems(value, level):
                column.short += 1
                continue
            turns = turns or {message["content"] for part in (draft.prompt, *draft.responses) for message in part}
            if not _only_turns(value, turns) and not _is_said(value, name, draft):
                raise TextNotRead(column.name)
            column.repeated += 1
        for name in plan.messages:
            value = row.get(name)
            if type(value) is not str:
                for found in unprinted_fields(value):
                    self.fields[f"{name}.{found}"] += 1

    def _new(self, row: Row) -> Plan:
        """The plan of a row with a set of columns that was not seen before."""
        mapped = tuple((ours, theirs) for ours, theirs in self.mapping.items())
        sources = {theirs for _, theirs in mapped}
        roots = {theirs.split(".")[0] for theirs in sources if theirs not in row}
        shadowed = {ours for ours, theirs in mapped if ours in row and ours != theirs}
        names = [name for name in row if name not in shadowed and name not in sources and name not in self.ignore]
        given = {RENAMED.get(ours, ours) for ours, _ in mapped}
        candidates: dict[str, list[str]] = {}
        for part in dict.fromkeys(RENAMED.values()):
            own = [ours for ours, _ in mapped if RENAMED.get(ours) == part]
            found = own or [name for name in names if RENAMED.get(name) == part]
            if found:
                candidates[part] = sorted(found, key=list(RENAMED).index)
        read = {name for found in candidates.values() for name in found if self._is_read(name)}
        columns, checked = [], []
        for name in row:
            use, level = self._use(name, given, read, shadowed, sources, roots)
            part = RENAMED.get(name, "")
            if level is None and part in TEXT_PARTS and len(candidates.get(part, ())) > 1 and name in read:
                level = "every"  # only one of them is read
            column = self.seen.get(name)
            if column is None:
                column = self.seen[name] = Column(name, use)
            columns.append(column)
            if level is not None:
                checked.append((column, name, level, name in shadowed))
        for ours, theirs in mapped:  # a mapped prompt is looked at like any other
            origin = theirs if theirs in row else theirs.split(".")[0]
            if RENAMED.get(ours, ours) in _PROMPTS and origin in row:
                checked.append((self.seen[origin], ours, "every", False))
        in_json = tuple(name for name in [*names, *(ours for ours, _ in mapped)] if self._holds_json(name, row))
        for name in in_json:
            self.seen.get(self.mapping.get(name, name), Column(name, "")).as_json = True
        renamed = tuple(
            (part, tuple(found)) for part, found in candidates.items() if len(found) > 1 or found[0] != part
        )
        messages = tuple(name for name in (*names, *self.mapping) if TEXT_PARTS & {*PARTS_OF.get(name, ())})
        return Plan(tuple(columns), mapped, renamed, in_json, tuple(checked), messages)

    def _is_read(self, name: str) -> bool:
        """Whether the format reads a column of this name."""
        return self.reads is None or name in self.reads or RENAMED.get(name) in self.reads

    def _use(
        self, name: str, given: set[str], read: set[str], shadowed: set[str], sources: set[str], roots: set[str]
    ) -> tuple[str, Level | None]:
        """What a column is, and how closely it is looked at when the row has become a comparison."""
        if name in self.ignore:
            return "ignored", None
        if name in MEDIA or (name in sources and any(self.mapping.get(media) == name for media in MEDIA)):
            return "unused", "any"
        if name in sources:
            return ", ".join(ours for ours, theirs in self.mapping.items() if theirs == name), None
        if name in roots:
            inside = [f"{ours} ({theirs})" for ours, theirs in self.mapping.items() if theirs.split(".")[0] == name]
            return ", ".join(inside), "prose"
        part = RENAMED.get(name)
        if name in shadowed or (part is not None and part in given):
            return "unused", "every"
        if name in read or (self.reads is None and name in PARTS_OF):
            return part or name, "every" if part in _PROMPTS else None
        if self.reads is not None and name in self.reads:
            return PARTS_OF[name][0] if name in PARTS_OF else name, None
        kind = fact(name)
        if TEXT_PARTS & {*PARTS_OF.get(name, ())}:
            return "unused", "every"
        if kind is not None:
            return "fact", "long" if kind == "short" else None
        return "unused", "prose"

    def _holds_json(self, name: str, row: Row) -> bool:
        """Whether the cells of a column hold lists of messages or of texts as JSON; the first rows decide."""
        origin = self.mapping.get(name, name)
        if origin not in self._json:
            rows = [*self.head] if any(origin in other for other in self.head) else [row]
            cells = [other[origin] for other in rows if filled(other.get(origin))]
            parsed = [_from_cell(cell) for cell in cells if isinstance(cell, str | list)]
            self._json[origin] = bool(parsed) and all(value is not None for value in parsed)
            if self._json[origin] and not any(_holds_messages(value) for value in parsed):
                parts = PARTS_OF.get(name, ())
                self._json[origin] = "responses" in parts or "history" in parts or name in self._lists_of_texts
        return self._json[origin]


def _count(columns: Sequence[Column], row: Row) -> int:
    """Count the cells of a row that are not empty, column by column; 1 when the row is counted as a whole instead."""
    cells = [value or value == 0 for value in row.values()]
    for column, value, given in zip(columns, row.values(), cells, strict=True):
        if given and len(column.samples) < _SAMPLES:
            column.samples.append(value)
    if all(cells):
        return 1
    for column, given in zip(columns, cells, strict=True):
        column.rows += bool(given)
    return 0


_NUMBERS = {int, float, bool}
_PROMPTS = frozenset({"prompt", "input", "history", "context"})


def reach(row: Any, path: str) -> Any:
    """The value at a path such as `answers.0.text`, through objects and lists.

    >>> reach({"answers": [{"text": "4"}]}, "answers.0.text")
    '4'

    Raises:
        RowFault: there is nothing at this place.
    """
    value = row
    for step in path.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.lstrip("-").isdigit() and -len(value) <= int(step) < len(value):
            value = value[int(step)]
        else:
            raise RowFault("missing column", path)
    return value


def _turns_in_lists(head: Sequence[Row]) -> frozenset[str]:
    """The columns of a prompt and its responses that all hold lists of texts as JSON: turns of one conversation."""
    names = dict.fromkeys(
        name for row in head for name in row if {"prompt", "sides", "chosen", "rejected"} & {*PARTS_OF.get(name, ())}
    )
    lists = {
        name
        for name in names
        if all(isinstance(from_json(row[name]), list) for row in head if isinstance(row.get(name), str))
        and any(isinstance(row.get(name), str) for row in head)
    }
    prompts = {name for name in lists if "prompt" in PARTS_OF[name]}
    return frozenset(lists) if prompts and len(lists - prompts) > 1 else frozenset()


def _holds_messages(value: Any) -> bool:
    return isinstance(value, dict) or any(isinstance(item, dict) for item in value)


def _from_cell(cell: str | list[Any]) -> Any:
    """What a cell holds as JSON text, whole or item by item; None when it is no JSON."""
    if isinstance(cell, str):
        return from_json(cell)
    items = [from_json(item) if isinstance(item, str) else None for item in cell]
    return items if all(isinstance(item, dict) for item in items) else None


def _parsed(value: Any, name: str) -> Any:
    """The list that a cell holds as JSON text; a cell that holds none of its own stays as it is."""
    if not isinstance(value, str | list) or not value or (isinstance(value, str) and not value.strip()):
        return value
    found = _from_cell(value)
    if found is None:
        raise RowFault("wrong type", f"{name} is not a list as JSON text, as it is in the other rows")
    return found


def _texts(value: Any, name: str) -> Iterator[str]:
    """The texts of a value that have to be in the comparison, in the form that conversions give them."""
    if isinstance(value, str | list | dict):
        with suppress(RowFault):  # no messages: its texts as they are
            value = prompt_messages(value, name) if isinstance(value, str) else to_messages(value, name)
    if isinstance(value, Mapping):
        value = {key: inner for key, inner in value.items() if fact(str(key)) is None}
    return texts_of(value)


def _only_turns(value: Any, turns: set[str]) -> bool:
    """Whether a value is a text or plain messages, all of them turns of the comparison as they are."""
    if isinstance(value, str):
        return value in turns
    if type(value) is not list:
        return False
    for message in value:
        if type(message) is not dict or len(message) != 2 or "content" not in message:
            return False
        content = message["content"]
        if type(content) is not str or content not in turns:
            return False
    return True


def _is_said(value: Any, name: str, draft: Draft) -> bool:
    """Whether all texts of a value are in the comparison: as turns of it, or as parts of turns."""
    if not isinstance(value, str) and looks_of([value]).kind == "media":
        return False
    said = {text.strip() for text in texts_of([draft.prompt, draft.responses, draft.tools or ()])}
    for text in map(str.strip, _texts(value, name)):
        if text in said:
            continue
        if len(text) >= _SHORTEST_PART:
            inside = any(text in other for other in said)
        else:
            inside = any(other.startswith(f"{text}\n") or other.endswith(f"\n{text}") for other in said)
        if not inside:
            return False
    return True
