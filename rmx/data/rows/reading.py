"""The rows of one source → drafts: the format, what every column is, and the questions when something is unclear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rmx.data.accounting import RowFault, SourceAccount
from rmx.data.rows import asking
from rmx.data.rows.detect import COMMON, FORMATS, Format, detect
from rmx.data.rows.drafts import Draft, Row, RowOptions
from rmx.data.rows.messages import retagged
from rmx.data.rows.plan import Columns, TextNotRead
from rmx.errors import DataError

__all__ = ["RowReader", "Wishes"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user says about the rows of one source; explained at `PreferenceData`."""

    source: str
    format: str
    columns: Mapping[str, str]
    ignore: Sequence[str]
    tags: Mapping[str, str]
    keep: Callable[[Row], bool] | None
    options: RowOptions
    allow_empty_prompt: bool
    inherited: bool  # whether `ignore` was said of another source, so that it may name what this one does not have
    formats: Mapping[str, Format] = field(default_factory=lambda: FORMATS)  # the row shapes to choose from


class RowReader:
    """Reads the rows of one source, after a look at the first of them.

    Raises:
        DataError: no format fits, a mapping that no row can follow, or a column that must be explained first.
    """

    def __init__(self, wishes: Wishes, keys: asking.Keys, head: Sequence[Row], account: SourceAccount) -> None:
        self.wishes, self.keys, self.account = wishes, keys, account
        mistake = asking.damaged_header(wishes.source, head)
        mistake = mistake or asking.mapping_mistakes(wishes.source, keys, wishes.columns, head)
        if mistake is not None:
            raise mistake
        self.columns = Columns(wishes.columns, wishes.ignore, head)
        self.format = self._format(head)
        self.companions: set[str] = set()  # columns that say what other columns say, in most rows
        self.rows = self.without_prompt = 0
        self.tagged = not wishes.tags  # whether `tags` have named a key or a role of any message
        self._look(head)

    def _format(self, head: Sequence[Row]) -> Format:
        """The format given or detected."""
        wishes = self.wishes
        rows: list[Row] = []
        for row in head:
            try:
                rows.append(retagged(self.columns.adapt(row)[1], wishes.tags))
            except RowFault:
                rows.append(row)
        found = {column: True for row in rows for column in row}
        if wishes.format == "auto":
            recognised = detect(rows, wishes.formats)
            if recognised is None:
                known = (f"{entry.name} ({entry.needs})" for entry in wishes.formats.values())
                raise asking.no_format(wishes.source, self.keys, head, known)
            entry, self.account.detected = recognised
        else:
            entry = wishes.formats[wishes.format]
            self.account.detected = f"{entry.title} (data.format={entry.name})"
            missing = [column for column in entry.columns if column not in found]
            if missing:
                names = ", ".join(sorted({column for row in head for column in row}))
                raise DataError(
                    f"data {wishes.source}: data.format={entry.name} needs the column {missing[0]}, and no row has it; "
                    f"columns found: {names}. Name it with {self.keys.columns({missing[0]: 'ITS_NAME'})}"
                )
        self.account.format = entry.name
        self.columns.bind((*COMMON, *entry.reads(found)))
        return entry

    def _look(self, head: Sequence[Row]) -> None:
        """Read the first rows once for their columns: what most of them do not read is asked about."""
        missed: dict[str, list[Any]] = {}
        for row in head:
            try:
                self.draft(row)
            except TextNotRead as fault:
                missed.setdefault(fault.column, []).append(row[fault.column])
            except RowFault:
                continue
        for name, values in missed.items():
            if self.columns.seen[name].repeated < len(values):
                share = f"{len(values)} of the first {len(head)} rows"
                raise asking.text_not_read(
                    self.wishes.source, self.keys, self.columns.seen[name], values, share, self.uses
                )
        self.companions = {name for name, column in self.columns.seen.items() if column.repeated}
        self.columns.forget()
        self.rows = self.without_prompt = 0

    @property
    def uses(self) -> dict[str, str]:
        """Every column and what it is."""
        return {name: column.use for name, column in self.columns.seen.items()}

    def draft(self, raw: Row) -> tuple[Row, Draft] | None:
        """The row with rmx's names, and its draft; None when `where` leaves it out.

        Raises:
            RowFault: the row cannot be used.
        """
        wishes = self.wishes
        try:
            plan, row = self.columns.adapt(raw)
        except RowFault:
            if wishes.keep is not None and not wishes.keep(raw):
                return None
            raise
        if wishes.tags:
            usual = retagged(row, wishes.tags)
            self.tagged = self.tagged or usual != row
            row = usual
        if wishes.keep is not None and not wishes.keep(row):
            return None
        draft = self.format.convert(row, wishes.options)
        self.columns.check(plan, raw, row, draft)
        if draft.pairs:  # a row that is only a part of comparisons has no prompt of its own
            self.rows += 1
            if not draft.prompt or (len(draft.prompt) == 1 and draft.prompt[0]["role"] == "system"):
                self.without_prompt += 1
        return row, draft

    def judge(self, fault: TextNotRead, raw: Row, place: str) -> None:
        """A column that was never seen to repeat others is asked about, also late in the file.

        Raises:
            DataError: with what the column holds.
        """
        column = self.columns.seen[fault.column]
        if column.name not in self.companions and not column.repeated:
            values = [raw[column.name]]
            raise asking.text_not_read(self.wishes.source, self.keys, column, values, place, self.uses)

    def finish(self) -> None:
        """What is known after the last row: the account of the columns, and what only all rows can show.

        Raises:
            DataError: `data.ignore` names what no row has, or most rows have no prompt.
        """
        self.account.columns = self._account()
        self.account.message_fields = Counter(self.columns.fields)
        mistake = asking.not_ignored(self.keys, self.wishes.ignore, self.columns.seen)
        if mistake is not None and not self.wishes.inherited:
            raise mistake
        if self.without_prompt * 2 > self.rows and not self.wishes.allow_empty_prompt:
            names = ", ".join(f"{name} ({use})" for name, use in self.uses.items())
            raise DataError(
                f"data {self.wishes.source}: {self.without_prompt} of {self.rows} comparisons have no prompt, or only "
                f"a system message. Columns: {names}. Name the prompt's column with "
                f"{self.keys.columns({'prompt': 'ITS_NAME'})}; to compare whole texts without one, set "
                f"{self.keys.prefix}.allow_empty_prompt=true"
            )

    def _account(self) -> dict[str, dict[str, Any]]:
        found = {}
        for name, column in self.columns.seen.items():
            use, rows = column.use, self.columns.rows_with(column)
            if use == "unused" and column.repeated and not column.short:
                use = "repeats other columns"
            found[name] = {
                "use": use,
                "rows": rows,
                "share": round(rows / max(self.account.read, 1), 4),
                "looks": column.looks.words + (", as JSON text" if column.as_json else ""),
            }
        return found
