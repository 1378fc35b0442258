"""Rows to be scored, one at a time, through the readers of training: good ones, and those that cannot be scored."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from rmx.data.accounting import Reject, RowFault, SourceAccount
from rmx.data.read.json_files import rows_of_lines
from rmx.data.read.kinds import kind_of
from rmx.data.read.raw import BLANK
from rmx.data.read.sources import locate
from rmx.data.rows import asking
from rmx.data.rows.detect import Format
from rmx.data.rows.drafts import Draft, RowOptions
from rmx.data.rows.plan import TextNotRead
from rmx.data.rows.reading import RowReader, Wishes
from rmx.data.rows.scorable import SCORABLE
from rmx.errors import DataError, none_of_the_first
from rmx.records import Comparison

__all__ = ["RowToScore", "RowsToScore", "read_rows_to_score"]

_SNIFF = 64  # rows that decide the format
STDIN = "-"

_Raw = tuple[str, str, int, dict[str, Any] | None, RowFault | None]  # file, label, line, row, fault


@dataclass(frozen=True, slots=True)
class RowToScore:
    """One row of the input: what to score, or why it cannot be."""

    id: str  # the row's own, or "source:line"
    where: str  # "file:line"
    comparison: Comparison | None  # without pairs; its id is the row's number, from 0
    fault: str | None


class RowsToScore:
    """The rows of files, of a dataset of the hub, or of standard input ("-"), in order and in bounded memory.

    Args:
        paths: as in `data.path`.
        format: a key of `SCORABLE`, or "auto": the first rows decide.
        columns: rmx's column name → the file's.
        ignore: columns of text that are left out on purpose.

    `account` says, after the first row, what was recognised, and in the end what every column was.

    Raises:
        DataError: nothing to read, no known shape, or a column that has to be explained first.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        format: str = "auto",
        columns: dict[str, str] | None = None,
        ignore: Sequence[str] = (),
    ) -> None:
        self.account = SourceAccount()
        self._paths, self._columns, self._ignore = list(paths), columns or {}, ignore
        self._formats = SCORABLE if format == "auto" else {format: SCORABLE[format]}
        if STDIN in self._paths and len(self._paths) > 1:
            raise DataError("input: standard input (-) stands alone; give files, or - only")
        self._files = [] if self._paths == [STDIN] else locate(self._paths, None, None, None, self.account.choices)

    @property
    def source(self) -> str:
        """The name of the source: the first file's, without suffixes."""
        return "stdin" if not self._files else self._files[0].path.name.split(".")[0] or "input"

    def count(self) -> int | None:
        """Count the rows where that costs little: JSON lines that are not packed, and parquet; else None."""
        total = 0
        for file in self._files:
            kind = kind_of(file.path)
            if not file.path.is_file() or file.path.suffix.lower() != kind:
                return None
            if kind in {".jsonl", ".ndjson"}:
                with file.path.open("rb") as lines:
                    total += sum(piece.count(b"\n") for piece in iter(lambda: lines.read(1 << 20), b""))
            elif kind == ".parquet":
                import pyarrow as pa
                import pyarrow.parquet as pq

                try:
                    total += pq.read_metadata(file.path).num_rows
                except pa.ArrowInvalid:  # the reader says so
                    return None
            else:
                return None
        return total if self._files else None

    def __iter__(self) -> Iterator[RowToScore]:
        rows = self._raw()
        head = list(islice(rows, _SNIFF))
        reader = self._reader(head)
        number = 0
        for file, label, line, row, fault in chain(head, rows):
            if fault is BLANK:
                self.account.blank += 1
                continue
            self.account.read += 1
            where, name = f"{file}:{line}", f"{label}:{int(line)}"
            try:
                if row is None:
                    raise fault or RowFault("not an object")
                read = reader.draft(row)
                if read is None:
                    continue
                yield _to_score(number, *read, self.source, name, where)
            except RowFault as error:
                if isinstance(error, TextNotRead) and row is not None:
                    reader.judge(error, row, where)
                self.account.rejected[error.reason] += 1
                yield RowToScore(_own_id(row or {}, name), where, None, str(error))
            number += 1
        reader.finish()

    def _raw(self) -> Iterator[_Raw]:
        if not self._files:
            for number, row, fault in rows_of_lines(sys.stdin.buffer):
                yield "stdin", "stdin", number, row, fault
        for file in self._files:
            self.account.files.append(file.place)
            label = f"{self.source}/{file.label}" if file.label else self.source
            for number, row, fault in file.rows():
                yield file.place, label, number, row, fault

    def _reader(self, head: Sequence[_Raw]) -> RowReader:
        rows = [row for _, _, _, row, _ in head if row is not None]
        if not rows:
            faults = [Reject(file, line, f.reason, f.detail) for file, _, line, _, f in head if f and f is not BLANK]
            shown = "\n".join(f"  {fault}" for fault in faults[:5])
            named = ", ".join(self._paths[:3])
            raise DataError(
                f"input: {none_of_the_first(len(faults))} of {named} can be read:\n{shown}"
                if faults
                else f"input: {named} is empty: no row to score"
            )
        return _row_reader(self.source, self._formats, self._columns, self._ignore, rows, self.account)


def read_rows_to_score(
    rows: Sequence[Any], *, format: str = "auto", columns: dict[str, str] | None = None, ignore: Sequence[str] = ()
) -> list[RowToScore]:
    """Rows that are in memory already, read as a file of them would be; those that cannot be scored say why.

    Args:
        rows: objects, as JSON has them.
        format: a key of `SCORABLE`, or "auto".
        columns: rmx's column name → the rows'.
        ignore: columns of text that are left out on purpose, where a row has them.

    >>> row, fault = read_rows_to_score([{"prompt": "2+2?", "responses": ["4", "5"]}, {"prompt": "2+2?"}])
    >>> row.comparison.responses[1], fault.where, fault.fault
    (({'role': 'assistant', 'content': '5'},), 'row 2', 'missing column: responses')

    Raises:
        DataError: no known shape, or a column that has to be explained first.
    """
    account = SourceAccount()
    formats = SCORABLE if format == "auto" else {format: SCORABLE[format]}
    objects = [row for row in rows if isinstance(row, dict)]
    reader = _row_reader("request", formats, columns or {}, ignore, objects, account, inherited=True)
    answers = []
    for number, row in enumerate(rows):
        where = f"row {number + 1}"
        try:
            if not isinstance(row, dict):
                raise RowFault("not an object")
            read = reader.draft(row)
            assert read is not None  # nothing is filtered out here
            answers.append(_to_score(number, *read, "request", where, where))
        except RowFault as error:
            if isinstance(error, TextNotRead) and isinstance(row, dict):
                reader.judge(error, row, where)
            answers.append(RowToScore(_own_id(row if isinstance(row, dict) else {}, where), where, None, str(error)))
    reader.finish()
    return answers


def _row_reader(
    source: str,
    formats: Mapping[str, Format],
    columns: Mapping[str, str],
    ignore: Sequence[str],
    head: Sequence[dict[str, Any]],
    account: SourceAccount,
    inherited: bool = False,
) -> RowReader:
    wishes = Wishes(
        source=source,
        format="auto",
        columns=columns,
        ignore=ignore,
        tags={},
        keep=None,
        options=RowOptions(ties="keep"),
        allow_empty_prompt=True,
        inherited=inherited,
        formats=formats,
    )
    return RowReader(wishes, asking.Keys(""), head, account)


def _own_id(row: dict[str, Any], name: str) -> str:
    own = row.get("id")
    return str(own) if isinstance(own, str | int) and not isinstance(own, bool) and own != "" else name


def _to_score(number: int, row: Any, draft: Draft, source: str, name: str, where: str) -> RowToScore:
    comparison = Comparison(
        id=str(number),
        source=source,
        prompt=tuple(draft.prompt),
        responses=tuple(map(tuple, draft.responses)),
        pairs=(),
        tools=draft.tools,
        where=where,
    )
    return RowToScore(_own_id(dict(row), name), where, comparison, None)
