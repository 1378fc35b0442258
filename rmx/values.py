"""Which values a key takes, and the sentence for one that it does not.

An annotation such as `Annotated[int, Ge(1)] | None` is the only place where a type and a range are written. pydantic
turns it into JSON Schema, which names exactly what YAML can hold; values are compared with that. The classes of rmx
check themselves by it when they are constructed (`refuse_wrong_fields`), and `rmx.config` checks a whole
configuration by it before anything is constructed, so both say the same.

What the annotations do not name is refused everywhere: NaN, infinity, and integers of more than 64 bits.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, ParamSpec, TypeVar

from annotated_types import Ge, Gt, Interval

from rmx.errors import ConfigError, did_you_mean
from rmx.redact import HIDDEN, is_secret_name, redact_text

__all__ = [
    "AtLeastZero",
    "Count",
    "Mistake",
    "Positive",
    "Schema",
    "Seed",
    "Share",
    "Whole",
    "allowed",
    "checked",
    "hints_of",
    "is_scalar",
    "mismatches",
    "raise_all",
    "refuse_wrong_fields",
    "schema_of",
    "shown",
    "wrong_values",
]

Count = Annotated[int, Ge(1)]  # of rows, tokens, steps, processes
Whole = Annotated[int, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Positive = Annotated[float, Gt(0)]
AtLeastZero = Annotated[float, Ge(0)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]  # what numpy's and Python's generators both take

Schema = dict[str, Any]  # JSON Schema; {"node": "Template"} is ours: an object of that class, so a node with _target_
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_LONGEST_VALUE = 60  # characters of a value that a message repeats
_WORDS = {"integer": "an integer", "number": "a number", "string": "text", "boolean": "true or false", "null": "null"}
_NOT_EMPTY = " (not empty)"
_PYTHON = {"integer": (int,), "number": (int, float), "string": (str,), "boolean": (bool,), "null": (type(None),)}


# --- Mistakes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mistake:
    """One thing to put right: the dotted key, and the rest of the sentence.

    >>> str(Mistake("seed", "'abc' is not an integer"))
    "seed: 'abc' is not an integer"
    """

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text


def raise_all(mistakes: Iterable[Mistake]) -> None:
    """Raise one ConfigError with all mistakes, a line each; return when there are none.

    Raises:
        ConfigError: there is at least one mistake.
    """
    lines = list(dict.fromkeys(str(mistake) for mistake in mistakes))
    if lines:
        raise ConfigError(redact_text("\n".join(lines)))


def shown(key: str, value: Any) -> str:
    """Return a value as a message may repeat it: short, and never a secret.

    >>> shown("trainer.hub_token", "hf_abc"), shown("seed", "abc")
    ('***', "'abc'")
    """
    if is_secret_name(key.rpartition(".")[2]):
        return HIDDEN
    if isinstance(value, dict):
        return "{...}"
    text = str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


# --- Checking Python objects ------------------------------------------------------------------------------------------


def refuse_wrong_fields(instance: Any, prefix: str = "", also: Iterable[Mistake] = ()) -> None:
    """Refuse a dataclass instance whose fields are not what their annotations say; called from `__post_init__`.

    Args:
        instance: of a dataclass; objects in its fields that YAML cannot hold are not judged.
        prefix: the key of the whole, such as "model"; "" for the root.
        also: what else is wrong with it, to be said in the same message.

    Raises:
        ConfigError: a line per wrong field.
    """
    values = {item.name: getattr(instance, item.name) for item in fields(instance) if item.init}
    schemas = _schemas(type(instance))  # type: ignore[arg-type]  # mypy does not see that a class is hashable
    raise_all([*wrong_values(values, schemas, prefix), *also])


def checked(prefix: str) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """Decorate a function so that keyword arguments outside their annotations raise a ConfigError.

    >>> @checked("loss")
    ... def focal(*, gamma: AtLeastZero = 2.0) -> float:
    ...     return gamma
    >>> focal(gamma=-1)
    Traceback (most recent call last):
    rmx.errors.ConfigError: loss.gamma: -1 is not a number from 0 up
    """

    def decorate(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        @functools.wraps(function)
        def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            if kwargs:
                raise_all(wrong_values(kwargs, _schemas(function), prefix))
            return function(*args, **kwargs)

        return call

    return decorate


def wrong_values(values: Mapping[str, Any], schemas: Mapping[str, Schema], prefix: str) -> list[Mistake]:
    """Return a mistake for each value that its schema does not take.

    >>> [str(mistake) for mistake in wrong_values({"r": 0}, {"r": schema_of(Count)}, "peft")]
    ['peft.r: 0 is not an integer from 1 up']
    """
    return [
        mistake
        for name, value in values.items()
        if name in schemas
        for mistake in mismatches(value, schemas[name], f"{prefix}.{name}" if prefix else name)
    ]


@functools.lru_cache(maxsize=64)
def _schemas(target: Any) -> dict[str, Schema]:
    return {name: schema_of(annotation) for name, annotation in hints_of(target).items()}


# --- Annotations and their schemas ------------------------------------------------------------------------------------


def hints_of(target: Any) -> dict[str, Any]:
    """Return parameter -> annotation of a class or function, names in text resolved where that is possible.

    A name that exists for type checkers only leaves its annotation unresolved: it is `Any` then, because a check must
    never refuse what the call would have taken.

    >>> def resize(width: int, how: NotImported = None): ...
    >>> hints_of(resize)
    {'width': <class 'int'>, 'how': typing.Any}
    """
    if isinstance(target, type) and is_dataclass(target):
        owners: Iterable[Any] = reversed(target.__mro__)  # a field's names stand in the module of its own class
    elif isinstance(target, type):
        makers = [
            vars(owner)[name] for owner in target.__mro__ for name in ("__init__", "__new__") if name in vars(owner)
        ]
        owners = makers[:1]
    else:
        owners = [inspect.unwrap(target)]
    found: dict[str, Any] = {}
    for owner in owners:
        try:
            annotations = inspect.get_annotations(owner)
        except TypeError:  # a builtin
            continue
        module = sys.modules.get(getattr(owner, "__module__", None) or "")
        names = getattr(owner, "__globals__", None) or (vars(module) if module else {})
        found |= {name: _resolved(item, names) for name, item in annotations.items()}
    return found


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, dict(names))  # as inspect.get_annotations(eval_str=True) does, name by name
        except Exception:  # noqa: BLE001  whatever an annotation of someone's module does when it is evaluated
            return Any
    return getattr(annotation, "type", Any) if type(annotation).__name__ == "InitVar" else annotation


def schema_of(annotation: Any) -> Schema:
    """Return the JSON Schema of an annotation; {} (anything) for one that pydantic cannot describe.

    >>> schema_of(int | None)
    {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}
    >>> schema_of(Seed)
    {'exclusiveMaximum': 4294967296, 'minimum': 0, 'type': 'integer'}
    """
    from pydantic import ConfigDict, TypeAdapter
    from pydantic.errors import PydanticUserError
    from pydantic_core import SchemaError

    try:  # in a list, because a class with a configuration of its own may not be given another
        adapter = TypeAdapter(list[annotation], config=ConfigDict(arbitrary_types_allowed=True))
        made = adapter.json_schema(ref_template="{model}", schema_generator=_generator())
    except (PydanticUserError, SchemaError, TypeError, AttributeError, NameError, SyntaxError, RecursionError):
        return {}
    return _simplified(made.get("items", {}), made.get("$defs", {}))


@functools.cache
def _generator() -> Any:
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        """JSON Schema in which a class is only named: what YAML can hold in its place is a node that makes one."""

        def callable_schema(self, schema: Any) -> Schema:
            return {"node": "function"}

        def is_instance_schema(self, schema: Any) -> Schema:
            return {"node": schema["cls"].__name__}

        def dataclass_schema(self, schema: Any) -> Schema:
            return {"node": schema["cls"].__name__}

        def model_schema(self, schema: Any) -> Schema:
            return {"node": schema["cls"].__name__}

    return Generator


def _simplified(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Put definitions where they are used, and let an Enum win over the text it is made from."""
    if "$ref" in schema:
        return _simplified(definitions.get(schema["$ref"], {}), {})
    made = {name: item for name, item in schema.items() if name not in {"title", "description", "default", "format"}}
    if "anyOf" in made:
        options = [_simplified(option, definitions) | _enum_mark(option, definitions) for option in made["anyOf"]]
        if any(option.pop("is_enum", False) for option in options):
            options = [option for option in options if option != {"type": "string"}]
        if {} in options:
            return {}
        options.sort(key=_rank)  # `str | int` and `int | str` are one to Python, which gives the first that it met
        return options[0] if len(options) == 1 else {"anyOf": options}
    for name in ("items", "additionalProperties"):
        if isinstance(made.get(name), dict):
            made[name] = _simplified(made[name], definitions)
    if "prefixItems" in made:
        made["prefixItems"] = [_simplified(item, definitions) for item in made["prefixItems"]]
    return made


def _rank(schema: Schema) -> int:
    order = ("integer", "number", "boolean", "string", "array", "object")
    is_choice = {"const", "enum"} & schema.keys()
    return (
        6 if is_choice else order.index(schema["type"]) if schema.get("type") in order else 9 if "type" in schema else 7
    )


def _enum_mark(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    found = definitions.get(schema.get("$ref", ""), schema)
    return {"is_enum": True} if "enum" in found and "title" in found else {}


def is_scalar(schema: Schema) -> bool:
    """Tell whether a schema is made of text, numbers, choices and null only.

    >>> is_scalar(schema_of(str | None)), is_scalar(schema_of(list[str]))
    (True, False)
    """
    return all(option.get("type") in _WORDS or {"const", "enum"} & option.keys() for option in _options(schema))


# --- Comparing --------------------------------------------------------------------------------------------------------


def mismatches(value: Any, schema: Schema, key: str) -> list[Mistake]:
    """Return a mistake for each part of a plain value that `schema` does not take.

    >>> from typing import Literal
    >>> mismatches(["train", "evall"], schema_of(list[Literal["train", "eval"]]), "phases")
    [Mistake(key='phases[1]', text="'evall' is not one of train, eval; did you mean eval?")]
    """
    if _fits(value, schema):
        return []
    for option in _options(schema):
        parts = list(_parts(value, option, key))
        if parts:
            return [mistake for part in parts for mistake in mismatches(*part)]
    return [Mistake(key, f"{shown(key, value)} {_advice(key, value, _options(schema))}")]


def _options(schema: Schema) -> list[Schema]:
    return schema.get("anyOf", [schema])


def _parts(value: Any, schema: Schema, key: str) -> Iterator[tuple[Any, Schema, str]]:
    """Yield the items of a list or mapping with their schemas, where `schema` is of that shape."""
    if isinstance(value, list | tuple) and schema.get("type") == "array":
        wanted = schema.get("prefixItems") or [schema.get("items", {})] * len(value)
        if len(wanted) == len(value):
            yield from ((item, wanted[place], f"{key}[{place}]") for place, item in enumerate(value))
    if isinstance(value, dict) and "_target_" not in value and schema.get("type") == "object":
        named, other = schema.get("properties", {}), schema.get("additionalProperties", {})
        for name, item in value.items():
            yield item, named.get(name, other if isinstance(other, dict) else {}), f"{key}.{name}"


def _fits(value: Any, schema: Schema) -> bool:
    if "anyOf" in schema:
        return any(_fits(value, option) for option in schema["anyOf"])
    if isinstance(value, dict) and "_target_" in value:
        return True  # what a call returns is not known before it is made
    if not isinstance(value, dict | list | tuple | str | int | float | None):
        return True  # an object that only Python can pass
    allowed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if allowed is not None:
        return any(type(value) is type(choice) and value == choice for choice in allowed)
    kind = schema.get("type")
    if kind in {"array", "object"}:
        if not isinstance(value, list | tuple if kind == "array" else dict):
            return False
        wanted = schema.get("prefixItems")
        long_enough = len(value) >= int(schema.get("minItems") or schema.get("minProperties") or 0)
        right_number = wanted is None or len(wanted) == len(value)
        return long_enough and right_number and all(_fits(*part[:2]) for part in _parts(value, schema, ""))
    if kind is None:
        return "node" not in schema
    return (
        isinstance(value, _PYTHON[kind]) and isinstance(value, bool) == (kind == "boolean") and _within(value, schema)
    )


def _within(value: Any, schema: Schema) -> bool:
    if schema["type"] == "string":
        return len(value.strip()) >= schema.get("minLength", 0)
    if schema["type"] not in {"integer", "number"}:
        return True
    return (
        _countable(value)
        and value >= schema.get("minimum", value)
        and value <= schema.get("maximum", value)
        and value > schema.get("exclusiveMinimum", -math.inf)
        and value < schema.get("exclusiveMaximum", math.inf)
    )


def _countable(value: int | float) -> bool:
    return -(2**63) <= value < 2**63 if isinstance(value, int) else math.isfinite(value)


# --- Saying so --------------------------------------------------------------------------------------------------------


def allowed(schema: Schema) -> str:
    """Say what a key takes, in the words of the messages.

    >>> allowed(schema_of(Count | None)), allowed({})
    ('an integer from 1 up or null', 'a value')
    """
    return _either(_options(schema))


def _advice(key: str, value: Any, options: list[Schema]) -> str:
    """Say what is allowed instead of `value`, and the likely remedy."""
    choices = [str(choice) for option in options for choice in _choices(option)]
    types = {option.get("type") for option in options if not _choices(option)}
    if isinstance(value, int | float) and not isinstance(value, bool) and not _countable(value):
        return f"is not {'finite' if isinstance(value, float) else 'a number of 64 bits'}; give {_either(options)}"
    text = f"is not {_either(options)}"
    again = HIDDEN if is_secret_name(key.rpartition(".")[2]) else value
    if isinstance(value, str) and choices:
        hint = did_you_mean(value, choices, 0.5)
        return f"{text}; {hint}" if hint else text
    if isinstance(value, int | float) and "string" in types:
        return text + f"; on the command line quote it twice: '{key}=\"{again}\"'"
    if isinstance(value, float) and value.is_integer() and "integer" in types:
        return text + f"; write {int(value)}"
    if "array" in types and not isinstance(value, list | tuple | dict | None):
        return text + f"; write {key}=[{again}]"
    if isinstance(value, dict) and any("node" in option for option in options):
        return text + "; its _target_ is missing: choose an option of the group first"
    return text


def _choices(schema: Schema) -> list[Any]:
    return schema.get("enum", [schema["const"]] if "const" in schema else [])


def _either(options: Iterable[Schema]) -> str:
    return " or ".join(dict.fromkeys(_described(option) for option in options))


def _described(schema: Schema) -> str:
    choices, kind = _choices(schema), schema.get("type")
    if choices:
        return f"one of {', '.join(map(str, choices))}" if len(choices) > 1 else str(choices[0])
    if "anyOf" in schema:
        return _either(schema["anyOf"])
    if "node" in schema:
        return f"a {schema['node']} (a node with _target_)"
    if kind == "array":
        if "prefixItems" in schema:
            return f"a list of {len(schema['prefixItems'])} values"
        return f"a list [...]{_NOT_EMPTY if 'minItems' in schema else ''}"
    if kind == "object":
        return f"a mapping {{key: value}}{_NOT_EMPTY if 'minProperties' in schema else ''}"
    if kind == "string" and schema.get("minLength"):
        return f"text{_NOT_EMPTY}"
    return _WORDS.get(str(kind), "a value") + _bounds(schema)


def _bounds(schema: Schema) -> str:
    """Spell the range: " from 0 to below 1", " above 0", " from 1 up".

    >>> _bounds({"type": "integer", "minimum": 0, "exclusiveMaximum": 8})
    ' from 0 to 7'
    """
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if below is not None and schema.get("type") == "integer":
        high, below = below - 1, None
    start = f" from {low}" if low is not None else f" above {above}" if above is not None else ""
    if high is not None:
        return f"{start} to {high}" if start else f" up to {high}"
    if below is not None:
        return f"{start} to below {below}" if start else f" below {below}"
    return f"{start} up" if low is not None else start
