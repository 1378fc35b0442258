"""Tables → rows: CSV and TSV by the standard library, parquet and arrow by pyarrow, in bounded memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmx.data.accounting import RowFault
from rmx.data.read.files import open_bytes
from rmx.data.read.json_files import BLANK, DAMAGE, RawRow
from rmx.data.rows.drafts import Cell

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_table"]

_ROWS_PER_CHUNK = 1024
_MAX_CELL_CHARACTERS = 1 << 27


def read_table(path: Path, kind: str) -> Iterator[RawRow]:
    """Rows of a table file; the line of a parquet or arrow row is its number from 1."""
    if kind in {".csv", ".tsv"}:
        yield from _read_csv(path, "\t" if kind == ".tsv" else ",")
        return
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(path, kind):
            for row in batch.to_pylist():
                number += 1
                yield number, row, None
    except (pa.ArrowInvalid, UnicodeDecodeError, *DAMAGE) as error:
        yield number + 1, None, RowFault("unreadable file part", f"{type(error).__name__}; not a whole {kind} file")


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
            yield from file.iter_batches(batch_size=_ROWS_PER_CHUNK)
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
            for start in range(0, batch.num_rows, _ROWS_PER_CHUNK):
                yield batch.slice(start, _ROWS_PER_CHUNK)


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
            if not cells:
                yield line, None, BLANK
            elif header is None:
                header = cells
            else:
                yield _table_row(line, cells, header)


def _table_row(line: int, cells: list[str], header: list[str]) -> RawRow:
    if len(cells) != len(header):
        return line, None, RowFault("broken table row", f"{len(cells)} cells under {len(header)} columns")
    for cell in cells:
        if not cell.isascii() and any("\ud800" <= letter <= "\udfff" for letter in cell):
            return line, None, RowFault("not UTF-8")
    return line, {name: Cell(cell) if cell else None for name, cell in zip(header, cells, strict=True)}, None
