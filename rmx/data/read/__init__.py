"""Files and hub datasets → rows: what a path means, and how each kind of file is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rmx.data.read.json_files import read_json
from rmx.data.read.kinds import kind_of, open_bytes
from rmx.data.read.raw import DAMAGE, RawRow
from rmx.data.read.tables import read_table
from rmx.errors import DataError

__all__ = ["read_rows"]

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LFS = b"version https://git-lfs"


def read_rows(path: Path) -> Iterator[RawRow]:
    """The rows of one file, in order, each with its line (or its number, where rows do not stand on lines).

    JSON lines and tables are read in memory that does not grow with the file; a file that is one JSON document, or
    JSON objects over several lines, is read whole.

    Raises:
        DataError: the file cannot be opened, is not the data itself, or names a column twice.
    """
    kind = kind_of(path)
    try:
        _refuse_strangers(path, kind)
        yield from read_json(path, kind) if kind in {".json", ".jsonl", ".ndjson"} else read_table(path, kind)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _refuse_strangers(path: Path, kind: str) -> None:
    """Refuse a file whose first bytes say that it is something else than its name says."""
    try:
        with open_bytes(path) as file:
            head = file.read(len(_LFS))
    except DAMAGE:
        return  # the reader names the place
    if head == _LFS:
        raise DataError(f"{path}: is a Git LFS pointer, not the data; run `git lfs pull` in its folder")
    if head[:2] in _UTF16 and kind not in {".parquet", ".arrow"}:
        raise DataError(f"{path}: is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8 {path.name} > utf8{kind}")
