"""Annotations as a schema: which YAML values an `int | Literal["auto"]` takes, and how to say so in a message.

Only what YAML can hold is judged. A name that the source does not explain accepts anything: a check must
never refuse what the call would have taken.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rmx.config.sources import Source, follow

__all__ = [
    "Anything",
    "Call",
    "Choice",
    "Items",
    "Kind",
    "Mapped",
    "Type",
    "Union",
    "is_scalar",
    "mismatches",
    "read_annotation",
]


@dataclass(frozen=True)
class Anything:
    """Not judged."""


@dataclass(frozen=True)
class Kind:
    """One scalar kind of YAML: int, float, str, bool or null."""

    name: str


@dataclass(frozen=True)
class Choice:
    """One of some values, from `Literal[...]` or an Enum."""

    values: tuple[Any, ...]
    is_enum: bool = False


@dataclass(frozen=True)
class Items:
    """A list, tuple or set; `fixed` gives a type per position."""

    item: Type
    fixed: tuple[Type, ...] | None = None


@dataclass(frozen=True)
class Mapped:
    """A mapping with text keys."""

    value: Type


@dataclass(frozen=True)
class Call:
    """Something that only a node with `_target_` can make: an object of some class, or a callable."""

    name: str


@dataclass(frozen=True)
class Union:
    """Any of several types."""

    options: tuple[Type, ...]


Type = Anything | Kind | Choice | Items | Mapped | Call | Union

_KINDS = {"int": "int", "float": "float", "str": "str", "bool": "bool", "None": "null", "NoneType": "null"}
_KINDS |= {"Path": "str", "PathLike": "str"}
_LISTS = {"list", "List", "Sequence", "Iterable", "Collection", "tuple", "Tuple", "set", "Set", "frozenset"}
_MAPS = {"dict", "Dict", "Mapping", "MutableMapping"}
_WRAPPERS = {"Annotated", "InitVar", "Final", "Required", "NotRequired"}


def read_annotation(node: ast.expr | None, source: Source | None) -> Type:
    """Return the schema of an annotation, reading names in the module that it stands in.

    >>> read_annotation(ast.parse("int | Literal['auto']", mode="eval").body, None)
    Union(options=(Kind(name='int'), Choice(values=('auto',), is_enum=False)))
    """
    if node is None:
        return Anything()
    if isinstance(node, ast.Constant):
        if node.value is None:
            return Kind("null")
        if isinstance(node.value, str):
            try:
                return read_annotation(ast.parse(node.value, mode="eval").body, source)
            except SyntaxError:
                return Anything()
        return Anything()
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([read_annotation(node.left, source), read_annotation(node.right, source)])
    if isinstance(node, ast.Subscript):
        return _subscript(node, source)
    if isinstance(node, ast.Name | ast.Attribute):
        return _named(node, source)
    return Anything()


def _named(node: ast.Name | ast.Attribute, source: Source | None) -> Type:
    name = node.id if isinstance(node, ast.Name) else node.attr
    if name in {"Any", "object"}:
        return Anything()
    if name in _KINDS:
        return Kind(_KINDS[name])
    if name in _LISTS:
        return Items(Anything())
    if name in _MAPS:
        return Mapped(Anything())
    if name == "Callable":
        return Call("callable")
    found = follow(source, name) if source is not None and isinstance(node, ast.Name) else None
    if found is None:
        return Anything()
    if isinstance(found.node, ast.ClassDef):
        return _class(found.node, name)
    if isinstance(found.node, ast.FunctionDef) or found.node is node:
        return Anything()
    return read_annotation(found.node, found.source)  # an alias such as `Precision = Literal[...]`


def _class(node: ast.ClassDef, name: str) -> Type:
    bases = {base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases}
    if any(base.endswith("Enum") for base in bases):
        assignments = [item for item in node.body if isinstance(item, ast.Assign)]
        values = tuple(item.value.value for item in assignments if isinstance(item.value, ast.Constant))
        return Choice(values, is_enum=True) if values else Anything()
    return Anything() if bases & {"Protocol", "TypedDict", "NamedTuple"} else Call(name)


def _subscript(node: ast.Subscript, source: Source | None) -> Type:
    head = node.value
    name = head.id if isinstance(head, ast.Name) else head.attr if isinstance(head, ast.Attribute) else ""
    arguments = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return Choice(tuple(item.value for item in arguments if isinstance(item, ast.Constant)))
    if name == "Optional":
        return _union([read_annotation(arguments[0], source), Kind("null")])
    if name == "Union":
        return _union([read_annotation(item, source) for item in arguments])
    if name in _WRAPPERS:
        return read_annotation(arguments[0], source)
    if name in {"tuple", "Tuple"}:
        variadic = isinstance(arguments[-1], ast.Constant) and arguments[-1].value is Ellipsis
        items = tuple(read_annotation(item, source) for item in arguments)
        return Items(items[0]) if variadic else Items(Anything(), items)
    if name in _LISTS:
        return Items(read_annotation(arguments[0], source))
    if name in _MAPS:
        return Mapped(read_annotation(arguments[-1], source))
    if name == "Callable":
        return Call("callable")
    return Anything()


def _union(options: Iterable[Type]) -> Type:
    flat: list[Type] = []
    for option in options:
        flat.extend(option.options if isinstance(option, Union) else [option])
    if any(isinstance(option, Choice) and option.is_enum for option in flat):
        # `IntervalStrategy | str`: the text is turned into the Enum, so the Enum's values are what is allowed
        flat = [option for option in flat if option != Kind("str")]
    return Anything() if any(isinstance(option, Anything) for option in flat) else Union(tuple(flat))


def mismatches(value: Any, wanted: Type, key: str) -> list[tuple[str, Any, str]]:
    """Return (key, value, what is wrong with it) for each part of a plain YAML value that `wanted` does not take.

    >>> mismatches(["train", "evall"], Items(Choice(("train", "eval"))), "phases")
    [('phases[1]', 'evall', 'is not one of train, eval; did you mean eval?')]
    """
    if _accepts(value, wanted):
        return []
    options = wanted.options if isinstance(wanted, Union) else (wanted,)
    for option in options:
        if isinstance(value, list) and isinstance(option, Items):
            types = option.fixed or (option.item,) * len(value)
            if len(types) == len(value):
                places = [f"{key}[{place}]" for place in range(len(value))]
                parts = map(mismatches, value, types, places)
                return [found for part in parts for found in part]
        if isinstance(value, dict) and "_target_" not in value and isinstance(option, Mapped):
            return [found for name, item in value.items() for found in mismatches(item, option.value, f"{key}.{name}")]
    return [(key, value, _advice(key, value, options))]


def is_scalar(wanted: Type) -> bool:
    """Tell whether a type is made of text, numbers, choices and null only.

    >>> is_scalar(Union((Kind("str"), Kind("null")))), is_scalar(Call("Template"))
    (True, False)
    """
    options = wanted.options if isinstance(wanted, Union) else (wanted,)
    return all(isinstance(option, Kind | Choice) for option in options)


def _accepts(value: Any, wanted: Type) -> bool:
    if isinstance(value, dict) and "_target_" in value:
        return True  # what a call returns is not known before it is made
    match wanted:
        case Anything():
            return True
        case Union(options):
            return any(_accepts(value, option) for option in options)
        case Choice(values):
            return any(type(value) is type(allowed) and value == allowed for allowed in values)
        case Items(item, fixed) if isinstance(value, list):
            types = fixed or (item,) * len(value)
            return len(types) == len(value) and all(map(_accepts, value, types))
        case Mapped(of) if isinstance(value, dict):
            return all(_accepts(item, of) for item in value.values())
        case Kind(name):
            return _kind(value) == name or (name == "float" and _kind(value) == "int")
    return False


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _advice(key: str, value: Any, options: tuple[Type, ...]) -> str:
    """Say what is allowed instead of `value`, and the likely remedy."""
    choices = [allowed for option in options if isinstance(option, Choice) for allowed in option.values]
    text = f"is not {' or '.join(_describe(option) for option in options)}"
    if isinstance(value, str) and choices:
        names = [str(choice) for choice in choices]
        close = difflib.get_close_matches(value, names, 1, 0.5)
        return text + (f"; did you mean {close[0]}?" if close else "")
    if isinstance(value, bool | int | float) and Kind("str") in options:
        return text + f"; on the command line quote it twice: '{key}=\"{value}\"'"
    if isinstance(value, float) and value.is_integer() and Kind("int") in options:
        return text + f"; write {int(value)}"
    if any(isinstance(option, Items) for option in options) and not isinstance(value, list | dict | None):
        return text + f"; write {key}=[{value}]"
    if isinstance(value, dict) and any(isinstance(option, Call) for option in options):
        return text + "; its _target_ is missing: choose an option of the group first"
    return text


def _describe(wanted: Type) -> str:
    words = {"int": "an integer", "float": "a number", "str": "text", "bool": "true or false", "null": "null"}
    match wanted:
        case Kind(name):
            return words[name]
        case Choice(values):
            return f"one of {', '.join(map(str, values))}" if len(values) > 1 else str(values[0])
        case Items(_, None):
            return "a list [...]"
        case Items(_, tuple() as fixed):
            return f"a list of {len(fixed)} values"
        case Mapped():
            return "a mapping {key: value}"
        case Call(name):
            return (
                "a node with _target_ that makes a function"
                if name == "callable"
                else f"a node with _target_ that makes a {name}"
            )
        case Union(options):
            return " or ".join(_describe(option) for option in options)
    return "a value"
