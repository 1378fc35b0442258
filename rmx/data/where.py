"""`data.where`: which rows to use, as plain data or as a small expression. Nothing is ever evaluated as Python code.

| `where` | keeps rows whose |
|---|---|
| `{lang: en}` | `lang` equals "en" |
| `{lang: [en, de]}` | `lang` is one of them |
| `{score: {min: 3, max: 5}}` | `score` is a number in [3, 5] |
| `{tag: {not: spam}}`, `{tag: {not: [spam, ad]}}` | `tag` is none of them |
| `{title: {contains: "math"}}`, `{id: {starts_with: "a"}}` | text holds / starts with this |
| `{margin: {exists: true}}` | `margin` is there and not null |
| `"lang == 'en' and (score >= 3 or not flagged)"` | the expression holds |

All columns of a dict must hold. An expression knows names (columns; `meta.lang` reaches inside), text, numbers,
lists, true/false/null, `== != < <= > >=`, `in`, `not in`, `and`, `or`, `not`. A comparison with a null or
absent column is false (`!=` and `not in` are true).
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from rmx.data.rows.drafts import Cell
from rmx.errors import ConfigError

__all__ = ["compile_where"]

Row = Mapping[str, Any]
Test = Callable[[Row], bool]
Value = Callable[[Row], Any]

_CONDITIONS: dict[str, Callable[[Any, Any], bool]] = {
    "min": lambda value, limit: _ordered(value, limit) and value >= limit,
    "max": lambda value, limit: _ordered(value, limit) and value <= limit,
    "not": lambda value, other: value not in other if isinstance(other, list) else value != other,
    "in": lambda value, others: _holds(others, value),
    "contains": lambda value, part: _holds(value, part),
    "starts_with": lambda value, part: isinstance(value, str) and value.startswith(part),
    "exists": lambda value, wanted: (value is not None) == wanted,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: lambda a, b: _ordered(a, b) and a < b,
    ast.LtE: lambda a, b: _ordered(a, b) and a <= b,
    ast.Gt: lambda a, b: _ordered(a, b) and a > b,
    ast.GtE: lambda a, b: _ordered(a, b) and a >= b,
    ast.In: lambda a, b: (
        (isinstance(b, str) and isinstance(a, str) and a in b) or (isinstance(b, list | tuple) and a in b)
    ),
    ast.NotIn: lambda a, b: not _COMPARE[ast.In](a, b),
}
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}


def compile_where(where: str | Mapping[str, Any]) -> Test:
    """A test of rows.

    >>> keep = compile_where("lang == 'en' and score >= 3")
    >>> keep({"lang": "en", "score": 4}), keep({"lang": "en"})
    (True, False)
    >>> compile_where({"score": {"min": 3, "max": 5}})({"score": 6})
    False

    Raises:
        ConfigError: a condition or a piece of the expression that is not known.
    """
    if isinstance(where, str):
        return _expression(where)
    tests = [_condition(column, wanted) for column, wanted in where.items()]
    return lambda row: all(test(row) for test in tests)


def _condition(column: str, wanted: Any) -> Test:
    get = _column(column)
    if isinstance(wanted, Mapping):
        checks = []
        for key, limit in wanted.items():
            if key not in _CONDITIONS:
                raise ConfigError(f"data.where.{column}: unknown condition {key!r}; known: {', '.join(_CONDITIONS)}")
            checks.append((_CONDITIONS[key], list(limit) if isinstance(limit, tuple) else limit))
        return lambda row: all(check(_like(get(row), limit), limit) for check, limit in checks)
    if isinstance(wanted, list | tuple):
        return lambda row: _like(get(row), wanted) in wanted
    return lambda row: bool(_like(get(row), wanted) == wanted)


def _expression(text: str) -> Test:
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"data.where: {text!r} is no expression; example: \"lang == 'en' and score >= 3\"") from error
    value = _value(tree.body, text)
    return lambda row: bool(value(row))


def _value(node: ast.AST, text: str) -> Value:
    """One node of the expression; everything that is not listed here is refused."""
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = [_value(part, text) for part in values]
            if isinstance(op, ast.And):
                return lambda row: all(part(row) for part in parts)
            return lambda row: any(part(row) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _value(operand, text)
            return lambda row: not inner(row)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return lambda row: -number
        case ast.Compare(left=left, ops=ops, comparators=others):
            values_ = [_value(part, text) for part in (left, *others)]
            checks = [_COMPARE.get(type(op)) for op in ops]
            if all(check is not None for check in checks):
                return lambda row: _chain([value(row) for value in values_], checks)
        case ast.Constant(value=str() | int() | float() | None as constant):
            return lambda row: constant
        case ast.List(elts=items) | ast.Tuple(elts=items):
            elements = [_value(item, text) for item in items]
            return lambda row: [element(row) for element in elements]
        case ast.Name(id=name):
            if name.lower() in _CONSTANTS:
                known = _CONSTANTS[name.lower()]
                return lambda row: known
            return _column(name)
        case ast.Attribute():
            return _column(ast.unparse(node))
    raise ConfigError(
        f"data.where: {ast.unparse(node)!r} in {text!r} is not allowed; use columns, text, numbers, lists, "
        "== != < <= > >= in, and/or/not"
    )


def _chain(values: list[Any], checks: list[Any]) -> bool:
    return all(check(_like(a, b), _like(b, a)) for check, a, b in zip(checks, values, values[1:], strict=False))


def _like(value: Any, other: Any) -> Any:
    """A cell of a CSV file as a number, when it is compared with numbers; everything else as it is."""
    example = other[0] if isinstance(other, list | tuple) and other else other
    if isinstance(value, Cell) and isinstance(example, int | float):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _column(path: str) -> Value:
    steps = path.split(".")

    def get(row: Row) -> Any:
        if path in row:
            return row[path]
        value: Any = row
        for step in steps:
            if not isinstance(value, Mapping):
                return None
            value = value.get(step)
        return value

    return get


def _holds(whole: Any, part: Any) -> bool:
    """Whether a list has an item, or a text a part."""
    return part in whole if isinstance(whole, list) or (isinstance(whole, str) and isinstance(part, str)) else False


def _ordered(a: Any, b: Any) -> bool:
    """Whether two values can be compared by size: two numbers or two texts."""
    number = int | float
    return (isinstance(a, number) and isinstance(b, number)) or (isinstance(a, str) and isinstance(b, str))
