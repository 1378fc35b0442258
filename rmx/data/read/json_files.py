"""JSON files → rows: JSON lines, one list of rows, or objects over several lines, one after the other.

The beginning of a file decides, not its name: people write lists into .jsonl files and JSON lines into .json files.
JSON lines are read by a reader of our own: the usual ones stop at the first bad line of a block of many, and do not
say which one it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any

from rmx.data.accounting import RowFault
from rmx.data.read.kinds import open_bytes
from rmx.data.read.raw import BLANK, DAMAGE, RawRow, RowNumber

__all__ = ["parse_json", "read_json", "rows_of_lines"]

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")
_GAP = re.compile(r"[ \t\r\n,]*")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # the escape of one half of a character
_LINES_LOOKED_AT = 20


class RepeatedKey(ValueError):
    """An object names one key twice, and what it says is not clear."""


class NotInJson(ValueError):
    """NaN or Infinity, which Python's parser takes and JSON does not have."""


def _no_constant(name: str) -> None:
    raise NotInJson(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedKey(next(name for name in names if names.count(name) > 1))
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


def parse_json(text: str, *, strict: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: the whole text.
        strict: refuse NaN and Infinity, which files of Python programs hold.

    >>> parse_json('{"a": [1, null]}')
    {'a': [1, None]}
    >>> parse_json("[NaN]", strict=True)
    Traceback (most recent call last):
    rmx.data.accounting.RowFault: broken JSON: NaN is no value of JSON

    Raises:
        RowFault: not JSON, an object with one key twice, nested too deep, or half a character in a string.
    """
    try:
        value = (_STRICT if strict else _DECODER).decode(text)
    except (ValueError, RecursionError) as error:
        raise fault_of(error) from None
    if "\\u" in text and _HALF.search(text) and not encodable(value):
        raise RowFault("lone surrogate")
    return value


def fault_of(error: ValueError | RecursionError) -> RowFault:
    """A fault that names the place within the line, without the text around it."""
    if isinstance(error, RecursionError):
        return RowFault("nested too deep")
    if isinstance(error, RepeatedKey):
        name = str(error)
        return RowFault("repeated key", f"{name[:40] + '...' if len(name) > 40 else name!r} twice in one object")
    if isinstance(error, json.JSONDecodeError):
        return RowFault("broken JSON", f"{error.msg.lower()}, character {error.colno}")
    if isinstance(error, NotInJson):
        return RowFault("broken JSON", f"{error} is no value of JSON")
    return RowFault("broken JSON", "a number with too many digits")


def encodable(value: Any) -> bool:
    """Whether all text in a JSON value can be written as UTF-8, that is, holds no half of a character."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_json(path: Path, kind: str) -> Iterator[RawRow]:
    """Rows of a JSON file, whichever layout it has."""
    try:
        with open_bytes(path) as file:
            lines = _is_json_lines(file, kind)
        if not lines:
            with open_bytes(path) as file:
                data = file.read().removeprefix(_BOM)
            yield from _document(data, kind)
            return
    except DAMAGE:
        pass  # the line reader names the place
    with open_bytes(path) as file:
        yield from rows_of_lines(file)


# --- JSON lines ---


def _is_json_lines(file: IO[bytes], kind: str) -> bool:
    """Whether every line is a value of its own, to judge by the first lines."""
    first = file.readline().removeprefix(_BOM).strip()
    while not first:
        raw = file.readline()
        if not raw:
            return True
        first = raw.strip()
    following = list(islice(file, _LINES_LOOKED_AT))
    alone = not any(line.strip() for line in following)
    if first.startswith(b"["):
        return not alone and _value(first) is not None
    if not first.startswith(b"{"):
        return True
    value = _value(first)
    if value is None:
        # Broken, or an object that goes on: then no line is an object by itself, but for those further in.
        return any(line.startswith(b"{") and isinstance(_value(line), dict) for line in following)
    return not (alone and kind == ".json" and isinstance(value, dict) and _rows_inside(value) is not None)


def _value(line: bytes) -> Any:
    """The JSON value that a line holds by itself; None when there is none. What is said twice is no matter here."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def rows_of_lines(file: IO[bytes]) -> Iterator[RawRow]:
    """Rows of JSON lines, one after the other; a line that is none is a fault, and the next is read."""
    decode, number = _DECODER.decode, 0
    try:
        for number, raw in enumerate(file, 1):
            if number == 1:
                raw = raw.removeprefix(_BOM)
            try:
                text = raw.decode("utf-8")
                value = decode(text)
            except UnicodeDecodeError as error:
                yield number, None, RowFault("not UTF-8", f"byte {error.start + 1} of the line")
                continue
            except (ValueError, RecursionError) as error:
                yield number, None, fault_of(error) if raw.strip() else BLANK
                continue
            if type(value) is dict and "\\u" not in text:
                yield number, value, None
            else:
                yield number, *_checked(value, text)
    except DAMAGE as error:
        yield number + 1, None, RowFault("unreadable file part", f"{type(error).__name__} while unpacking")


def _checked(value: Any, text: str) -> tuple[dict[str, Any] | None, RowFault | None]:
    if not isinstance(value, dict):
        return None, RowFault("not an object", f"a JSON {_json_kind(value)}")
    if _HALF.search(text) and not encodable(value):
        return None, RowFault("lone surrogate")
    return value, None


def _json_kind(value: Any) -> str:
    names = {list: "list", str: "text", int: "number", float: "number", bool: "boolean", type(None): "null"}
    return names.get(type(value), type(value).__name__)


# --- One document ---

Element = tuple[int, dict[str, Any] | None, RowFault | None]  # the line on which it starts, row, fault


def _document(data: bytes, kind: str) -> Iterator[RawRow]:
    """Rows of a list, or of objects one after the other, with their lines where no two share one."""
    utf8 = True
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:  # the bad bytes become halves of characters, so that their row can be named
        text, utf8 = data.decode("utf-8", "surrogateescape"), False
    in_list = text[_SPACE.match(text).end() :].startswith("[")  # type: ignore[union-attr]  # it always matches
    elements = list(_list_elements(text, utf8) if in_list else _sequence(text, utf8))
    if not in_list and kind == ".json" and len(elements) == 1 and elements[0][1] is not None:
        inner = _rows_inside(elements[0][1])
        if inner is not None:
            elements = [(1, *_judged(value, "", True)) for value in inner]
    by_line = all(a[0] < b[0] for a, b in pairwise(elements))
    for number, (line, row, fault) in enumerate(elements, 1):
        yield line if by_line else RowNumber(number), row, fault


def _rows_inside(value: dict[str, Any]) -> list[Any] | None:
    """The one list of objects in an object that is no row itself."""
    lists = [rows for rows in value.values() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    return lists[0] if len(lists) == 1 and "chosen" not in value and "rejected" not in value else None


def _judged(value: Any, text: str, utf8: bool) -> tuple[dict[str, Any] | None, RowFault | None]:
    row, fault = _checked(value, text)
    if row is not None and not utf8 and not encodable(row):
        return None, RowFault("not UTF-8")
    return row, fault


def _list_elements(text: str, utf8: bool) -> Iterator[Element]:
    """The elements of a list up to its end or its first damage, which is one more element, with the fault."""
    decode, line, seen = _DECODER.raw_decode, 1, 0
    position = _skip(text, text.index("[") + 1)
    closed = text.startswith("]", position)
    while not closed:
        line, seen = line + text.count("\n", seen, position), position
        try:
            value, end = decode(text, position)
        except RepeatedKey as error:  # the object itself is whole
            value, end = json.JSONDecoder().raw_decode(text, position)
            yield line, None, fault_of(error)
        except (ValueError, RecursionError) as error:
            yield _rest_unread(text, position, line, error)
            return
        else:
            yield line, *_judged(value, text[position:end], utf8)
        position = _skip(text, end)
        closed = text.startswith("]", position)
        if not closed:
            if not text.startswith(",", position):
                at = line + text.count("\n", seen, position)
                yield at, None, RowFault("broken JSON", _at(text, position, "no comma or closing bracket", True))
                return
            comma, position = position, _skip(text, position + 1)
            if text.startswith("]", position):
                at = line + text.count("\n", seen, position)
                yield at, None, RowFault("broken JSON", _at(text, comma, "a comma after the last element", False))
                return
    after = _skip(text, position + 1)
    if after < len(text):
        at = line + text.count("\n", seen, after)
        yield at, None, RowFault("broken JSON", _at(text, after, "text after the end of the list", True))


def _sequence(text: str, utf8: bool) -> Iterator[Element]:
    """Objects one after the other; a damaged one is a fault, and the next begins on a line of its own."""
    line, seen, position = 1, 0, _skip(text, 0)
    while position < len(text):
        line, seen = line + text.count("\n", seen, position), position
        try:
            value, end = _DECODER.raw_decode(text, position)
            yield line, *_judged(value, text[position:end], utf8)
        except RepeatedKey as error:
            _, end = json.JSONDecoder().raw_decode(text, position)
            yield line, None, fault_of(error)
        except (ValueError, RecursionError) as error:
            fault = fault_of(error)
            if isinstance(error, json.JSONDecodeError):
                fault = RowFault(fault.reason, _at(text, error.pos, error.msg.lower(), False))
            yield line, None, fault
            end = text.find("\n{", position)
            end = len(text) if end < 0 else end
        position = _GAP.match(text, end).end()  # type: ignore[union-attr]  # it always matches


def _skip(text: str, position: int) -> int:
    """The place of the next character that is no white space."""
    return _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it always matches


def _at(text: str, position: int, what: str, stops: bool) -> str:
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    rest = "; nothing after this place can be read" if stops else ""
    return f"{what}, line {line}, character {column}{rest}"


def _rest_unread(text: str, position: int, line: int, error: ValueError | RecursionError) -> Element:
    """The fault of an element that breaks a list off."""
    fault = fault_of(error)
    if isinstance(error, json.JSONDecodeError):
        return line, None, RowFault(fault.reason, _at(text, error.pos, error.msg.lower(), True))
    return line, None, RowFault(fault.reason, f"{fault.detail}; nothing after this row can be read".strip("; "))
