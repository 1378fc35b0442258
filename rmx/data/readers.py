"""Files → rows, each with its line, and one reason for every row that cannot be read.

`read_rows` yields `(line, row, fault)`: a dict and None, or None and a `RowFault`. It never raises for a bad row, so
that every line is accounted for. JSON lines are read by a reader of our own: the usual ones stop at the first bad line
of a block of many, and do not say which one it was.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rmx.data.accounting import RowFault
from rmx.errors import DataError

__all__ = [
    "BLANK",
    "SUFFIXES",
    "RawRow",
    "find_files",
    "is_local",
    "is_saved_dataset",
    "kind_of",
    "open_bytes",
    "read_rows",
]

RawRow = tuple[int, dict[str, Any] | None, RowFault | None]  # line (1-based), row, fault

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")
_PACKED = (".gz", ".zst")
BLANK = RowFault("blank line")  # yielded for lines of white space, which are counted, not rejected
_BOM = b"\xef\xbb\xbf"


def kind_of(path: Path) -> str:
    """The suffix that decides the reader, without the packing.

    >>> kind_of(Path("a/train.jsonl.gz"))
    '.jsonl'
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_local(path: str) -> bool:
    """Whether a path means files here, not a dataset id of the hub such as `org/name`.

    >>> is_local("./pairs.jsonl"), is_local("Anthropic/hh-rlhf")
    (True, False)
    """
    if Path(path).expanduser().exists() or kind_of(Path(path)) in SUFFIXES or any(sign in path for sign in "*?["):
        return True
    return path.startswith(("/", ".", "~")) or path.count("/") != 1


def is_saved_dataset(path: str) -> bool:
    """Whether a path is a folder written by `datasets.save_to_disk`."""
    folder = Path(path).expanduser()
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def find_files(path: str, key: str = "data.path") -> list[Path]:
    """The data files behind a path: a file, a glob, or a folder (its files, not its subfolders'), in name order.

    Raises:
        DataError: nothing there, or a kind of file that is not read.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        files = sorted(p for p in given.iterdir() if p.is_file() and kind_of(p) in SUFFIXES)
        if not files:
            raise DataError(f"{key}: the folder {path} holds no {' '.join(SUFFIXES)} file (.gz and .zst are read too)")
        return files
    if given.is_file():
        if kind_of(given) not in SUFFIXES:
            raise DataError(
                f"{key}: {path} is no {' '.join(SUFFIXES)} file (.gz and .zst are read too); rename or convert it"
            )
        return [given]
    if any(sign in path for sign in "*?["):
        anchor = Path(given.anchor) if given.is_absolute() else Path()
        pattern = str(given.relative_to(given.anchor)) if given.is_absolute() else str(given)
        files = sorted(p for p in anchor.glob(pattern) if p.is_file() and kind_of(p) in SUFFIXES)
        if files:
            return files
        raise DataError(f"{key}: no data file matches {path}")
    raise DataError(f"{key}: {path} does not exist (looked in {Path.cwd()})")


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file, unpacked, as bytes."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"), 1 << 20)
    if suffix == ".zst":
        import zstandard

        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True), 1 << 20)
    return path.open("rb", buffering=1 << 20)


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
            from rmx.data import tables

            yield from tables.read_table(path, kind)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read_json(path: Path, whole: bool) -> Iterator[RawRow]:
    """JSON lines, or one JSON document that is a list of rows; which of them, the first line decides."""
    with open_bytes(path) as file:
        first = b""
        try:
            head = file.peek(4096)[:4096].removeprefix(_BOM).lstrip()  # type: ignore[attr-defined]
            first = head[:1]
        except (EOFError, zlib.error, OSError) as error:
            yield 1, None, RowFault("unreadable file part", str(type(error).__name__))
            return
        if first == b"[" or (whole and first == b"{" and not _line_is_json(head)):
            rows = _document_rows(file.read(), strict=whole)
            if rows is not None:
                yield from rows
                return
            file.seek(0)
        yield from _json_lines(file)


def _line_is_json(head: bytes) -> bool:
    line, end, _ = head.partition(b"\n")
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return len(head) >= 4096 and not end  # a long first line: most likely one row per line
    return True


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
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
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
        lists = [rows for rows in value.values() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
        value = lists[0] if len(lists) == 1 and "chosen" not in value else [value]
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
