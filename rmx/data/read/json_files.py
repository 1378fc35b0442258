"""Files → rows, each with its line, and one reason for every row that cannot be read.

`read_rows` yields `(line, row, fault)`: a dict and None, or None and a `RowFault`. It never raises for a bad row, so
that every line is accounted for. JSON lines are read by a reader of our own: the usual ones stop at the first bad line
of a block of many, and do not say which one it was.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from rmx.data.accounting import RowFault
from rmx.data.read.files import kind_of, open_bytes
from rmx.errors import DataError

__all__ = ["BLANK", "DAMAGE", "RawRow", "read_rows"]

RawRow = tuple[int, dict[str, Any] | None, RowFault | None]  # line (1-based), row, fault

BLANK = RowFault("blank line")  # yielded for lines of white space, which are counted, not rejected
_BOM = b"\xef\xbb\xbf"
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)  # what reading a broken packed file raises


def read_rows(path: Path) -> Iterator[RawRow]:
    """The rows of one file, in order, with their lines.

    Raises:
        DataError: the file cannot be opened at all.
    """
    kind = kind_of(path)
    try:
        if kind in {".json", ".jsonl", ".ndjson"}:
            yield from _read_json(path, whole=kind == ".json")
        else:
            from rmx.data.read import tables

            yield from tables.read_table(path, kind)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read_json(path: Path, whole: bool) -> Iterator[RawRow]:
    """JSON lines, or one JSON document that is a list of rows; which of them, the beginning decides."""
    try:
        with open_bytes(path) as file:
            document = _looks_like_a_document(file, whole)
        if document:
            with open_bytes(path) as file:
                rows = _document_rows(file.read(), strict=whole)
            if rows is not None:
                yield from rows
                return
    except DAMAGE:
        pass  # the line reader names the place
    with open_bytes(path) as file:
        yield from _json_lines(file)


def _looks_like_a_document(file: IO[bytes], whole: bool) -> bool:
    """Whether a file is one JSON list or, named .json, an object over several lines or with a list of rows."""
    line = file.readline().removeprefix(_BOM).strip()
    while not line:
        raw = file.readline()
        if not raw:
            return False
        line = raw.strip()
    if line.startswith(b"["):
        return True
    if not whole or not line.startswith(b"{"):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return not any(map(_is_row, islice(file, 20)))
    return isinstance(value, dict) and _rows_inside(value) is not None and not file.read(1 << 16).strip()


def _is_row(line: bytes) -> bool:
    """Whether a line holds a JSON object by itself."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _rows_inside(value: dict[str, Any]) -> list[Any] | None:
    """The one list of objects in an object that is no row itself."""
    lists = [rows for rows in value.values() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    return lists[0] if len(lists) == 1 and "chosen" not in value and "rejected" not in value else None


def _json_lines(file: IO[bytes]) -> Iterator[RawRow]:
    loads, number = json.loads, 0
    try:
        for number, raw in enumerate(file, 1):
            if number == 1:
                raw = raw.removeprefix(_BOM)
            try:
                text = raw.decode("utf-8")
                value = loads(text)
            except UnicodeDecodeError as error:
                yield number, None, RowFault("not UTF-8", f"byte {error.start + 1} of the line")
                continue
            except RecursionError:
                yield number, None, RowFault("nested too deep")
                continue
            except ValueError as error:
                if not raw.strip():
                    yield number, None, BLANK
                else:
                    yield number, None, broken(error)
                continue
            if type(value) is not dict:
                yield number, None, RowFault("not an object", f"a JSON {_json_kind(value)}")
            elif "\\u" in text and not encodable(value):
                yield number, None, RowFault("lone surrogate")
            else:
                yield number, value, None
    except DAMAGE as error:
        yield number + 1, None, RowFault("unreadable file part", f"{type(error).__name__} while unpacking")


def _document_rows(data: bytes, strict: bool) -> Iterator[RawRow] | None:
    """Rows of a JSON document; None when it is none and the file may be JSON lines all the same."""
    try:
        text = data.removeprefix(_BOM).decode("utf-8")
        value = json.loads(text)
    except (ValueError, RecursionError):
        if not strict:
            return None
        lines = data.splitlines()
        good = sum(1 for line in lines if line.strip().startswith(b"{") and line.rstrip().endswith(b"}"))
        if good * 2 > len(lines):
            return None
        return _broken_document(data)
    if isinstance(value, dict):
        value = _rows_inside(value) or [value]
        return _numbered(value, [1] * len(value))
    return _numbered(value, _element_lines(text, len(value)))


def _numbered(values: list[Any], lines: list[int]) -> Iterator[RawRow]:
    for line, value in zip(lines, values, strict=True):
        if not isinstance(value, dict):
            yield line, None, RowFault("not an object", f"a JSON {_json_kind(value)}")
        elif not encodable(value):
            yield line, None, RowFault("lone surrogate")
        else:
            yield line, value, None


def _element_lines(text: str, count: int) -> list[int]:
    """The line on which each element of a top-level JSON list starts."""
    decode, position, line, lines = json.JSONDecoder().raw_decode, text.index("[") + 1, 1, []
    seen = 0
    for _ in range(count):
        while text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", seen, position)
        seen = position
        lines.append(line)
        _, position = decode(text, position)
    return lines


def _broken_document(data: bytes) -> Iterator[RawRow]:
    """The rows of a damaged JSON list up to the damage, then one fault for the rest."""
    try:
        text = data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield line, None, RowFault("not UTF-8", "and the file is one JSON document: no row can be read")
        return
    decode, position, line, seen = json.JSONDecoder().raw_decode, text.find("[") + 1, 1, 0
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", seen, position)
        seen = position
        try:
            value, position = decode(text, position)
        except (ValueError, RecursionError) as error:
            fault = broken(error) if isinstance(error, ValueError) else RowFault("nested too deep")
            yield line, None, RowFault(fault.reason, f"{fault.detail}; nothing after this row can be read".strip("; "))
            return
        yield from _numbered([value], [line])


def broken(error: ValueError) -> RowFault:
    """A fault that names the place within the line, without the text around it."""
    if isinstance(error, json.JSONDecodeError):
        return RowFault("broken JSON", f"{error.msg.lower()}, character {error.colno}")
    return RowFault("broken JSON", "a number with too many digits")


def encodable(value: Any) -> bool:
    """Whether all text in a JSON value can be written as UTF-8, that is, holds no half of a character."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _json_kind(value: Any) -> str:
    names = {list: "list", str: "text", int: "number", float: "number", bool: "boolean", type(None): "null"}
    return names.get(type(value), type(value).__name__)
