"""Tables → rows: CSV and TSV by the standard library, parquet and arrow by pyarrow, in bounded memory.

Arrow has types that JSON does not have, and no way to leave out a field of a struct: what a row does not have is null.
`rows_of` gives the rows as a JSON lines file would have them:

| in the file | in the row |
|---|---|
| null in a struct (tools, tool calls, messages) | absent: it belongs to the columns of another row |
| null in a column | null |
| JSON text by declared type (`arrow.json`, the `Json()` feature of `datasets`) | its value |
| decimal | a number |
| timestamp, date, time, duration | text, ISO 8601 (a duration: seconds) |
| binary | text where it is UTF-8, as older writers store text; else bytes |
| map | an object |
| UUID | text |
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmx.data.accounting import RowFault
from rmx.data.read.json_files import parse_json
from rmx.data.read.kinds import open_bytes
from rmx.data.read.raw import BLANK, DAMAGE, RawRow, RowNumber
from rmx.data.rows.drafts import Cell
from rmx.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_table", "rows_of"]

ROWS_PER_CHUNK = 1024
_MAX_CELL_CHARACTERS = 1 << 27


def read_table(path: Path, kind: str) -> Iterator[RawRow]:
    """Rows of a table file; the rows of parquet and arrow files have numbers, not lines.

    Raises:
        DataError: a column stands in the file twice.
    """
    if kind in {".csv", ".tsv"}:
        yield from _read_csv(path, "\t" if kind == ".tsv" else ",")
        return
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(path, kind):
            yield from rows_of(batch, number + 1, str(path))
            number += batch.num_rows
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError, *DAMAGE) as error:
        reason = f"{type(error).__name__}; not a whole {kind} file"
        yield RowNumber(number + 1), None, RowFault("unreadable file part", reason)


def _batches(path: Path, kind: str) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    packed = path.suffix.lower() != kind
    source: Any = str(path)
    if packed:
        with open_bytes(path) as file:
            source = pa.BufferReader(file.read())
    if kind == ".parquet":
        with pq.ParquetFile(source, memory_map=not packed) as file:
            yield from file.iter_batches(batch_size=ROWS_PER_CHUNK)
        return
    with source if packed else pa.memory_map(source) as buffer:
        head = buffer.read(6)
        buffer.seek(0)
        if head == b"ARROW1":
            reader = pa.ipc.open_file(buffer)
            batches: Iterator[pa.RecordBatch] = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(buffer))
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_PER_CHUNK):
                yield batch.slice(start, ROWS_PER_CHUNK)


# --- Arrow values ---

Convert = Callable[[Any], Any]


def rows_of(batch: pa.RecordBatch | pa.Table, first: int, place: str) -> Iterator[RawRow]:
    """The rows of a batch, numbered from `first`, with values as JSON has them.

    >>> import pyarrow as pa
    >>> tools = [[{"name": "f", "parameters": {"x": 1}}, {"name": "g", "parameters": {"y": 2}}]]
    >>> [row for _, row, _ in rows_of(pa.table({"tools": tools}), 1, "a.parquet")]
    [{'tools': [{'name': 'f', 'parameters': {'x': 1}}, {'name': 'g', 'parameters': {'y': 2}}]}]

    Raises:
        DataError: a column stands in it twice.
    """
    refuse_repeated(batch.schema.names, place)
    plan = [(field.name, convert) for field in batch.schema if (convert := _converter(field.type)) is not None]
    for number, row in enumerate(batch.to_pylist(), first):
        fault = None
        for name, convert in plan:
            value = row[name]
            if value is not None:
                try:
                    row[name] = convert(value)
                except RowFault as error:
                    fault = RowFault(error.reason, f"{name}: {error.detail}".strip(": "))
        yield RowNumber(number), None if fault else row, fault


def refuse_repeated(names: Sequence[str], place: str) -> None:
    """Refuse a header that names one column twice: only one of them could be used, and nothing says which."""
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{place}: the column {name!r} stands in it twice; remove or rename one of the two")


def _converter(kind: pa.DataType) -> Convert | None:
    """How values of an Arrow type (never null) become JSON values; None when they are already."""
    import pyarrow.types as types

    if hasattr(kind, "extension_name"):
        if kind.extension_name == "arrow.json":
            return parse_json
        return str if kind.extension_name == "arrow.uuid" else _converter(kind.storage_type)
    if types.is_dictionary(kind):
        return _converter(kind.value_type)
    if types.is_struct(kind):
        return _struct(kind)
    if types.is_map(kind):
        inner = _converter(kind.item_type)
        return lambda pairs: {key: _null_or(inner, value) for key, value in pairs}
    if hasattr(kind, "value_type"):  # lists of all kinds
        inner = _converter(kind.value_type)
        return None if inner is None else lambda values: [_null_or(inner, value) for value in values]
    if types.is_decimal(kind):
        return float
    if types.is_temporal(kind):
        return lambda value: value.total_seconds() if isinstance(value, timedelta) else value.isoformat()
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return _text_or_bytes
    return None


def _struct(kind: pa.DataType) -> Convert:
    fields = [kind.field(i) for i in range(kind.num_fields)]
    inner = {field.name: _converter(field.type) for field in fields}
    if not any(inner.values()):
        return lambda value: {name: item for name, item in value.items() if item is not None}
    return lambda value: {name: _null_or(inner[name], item) for name, item in value.items() if item is not None}


def _null_or(convert: Convert | None, value: Any) -> Any:
    return value if convert is None or value is None else convert(value)


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


# --- CSV ---


def _read_csv(path: Path, delimiter: str) -> Iterator[RawRow]:
    """CSV rows as text cells, with the line on which each row starts; an empty cell is null."""
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    with open_bytes(path) as raw:
        # Bytes that are no UTF-8 become lone surrogates, so that the row they are in can be named and rejected.
        lines = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, None, RowFault("broken table row", str(error))
                continue
            except DAMAGE as error:
                yield line, None, RowFault("unreadable file part", f"{type(error).__name__} while unpacking")
                return
            if not cells:
                yield line, None, BLANK
            elif header is None:
                header = cells
                refuse_repeated(header, f"{path}:{line}")
            else:
                yield _table_row(line, cells, header)


def _table_row(line: int, cells: list[str], header: list[str]) -> RawRow:
    if len(cells) != len(header):
        return line, None, RowFault("broken table row", f"{len(cells)} cells under {len(header)} columns")
    for cell in cells:
        if not cell.isascii() and any("\ud800" <= letter <= "\udfff" for letter in cell):
            return line, None, RowFault("not UTF-8")
    return line, {name: Cell(cell) if cell else None for name, cell in zip(header, cells, strict=True)}, None
