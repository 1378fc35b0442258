"""Which keys a `_target_` takes, of which type and range, and which must be given: asked of Python itself.

The modules of rmx's own targets are light, and a module that the user allows is imported as the call itself would do
it. Library classes that take seconds to import are described beforehand, in library.json (`rmx.config.library`).

A function that passes unknown keys on names the receiver in its module, so that typos in them are found too, with
what it knows better about some of them, those it keeps for itself, and those that others switch off:
    FORWARDS = {"trainer_settings": "transformers.training_args.TrainingArguments"}
    RANGES = {"learning_rate": AtLeastZero}
    OWNED = {"output_dir": "the root key output_dir"}
    IDLE = idle  # (keys and values) -> [(a key that does nothing, the key because of which), ...]
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from rmx.config.library import stored_signature
from rmx.errors import ConfigError
from rmx.values import Schema, hints_of, schema_of

__all__ = ["Parameter", "Signature", "import_name", "read_signature"]


@dataclass(frozen=True)
class Parameter:
    """One key that a target takes."""

    schema: Schema
    required: bool


@dataclass(frozen=True)
class Signature:
    """The keys that a target takes; `is_open` when it takes any other key too."""

    parameters: dict[str, Parameter]
    is_open: bool = False
    owned: dict[str, str] = field(default_factory=dict)  # keys that the target refuses, and what to use instead
    idle: Callable[[Mapping[str, Any]], list[tuple[str, str]]] = lambda _: []  # pairs (does nothing, because of)
    of_other_version: bool = False  # from library.json, and another version of the library is installed


@functools.lru_cache(maxsize=256)
def read_signature(target: str, installed: bool = False) -> Signature:
    """Return the signature of an allowed target.

    Args:
        target: the dotted name; its module is imported, unless library.json describes it.
        installed: import library classes too: the truth about a version that library.json does not describe.

    >>> list(read_signature("rmx.config.signatures.Parameter").parameters)
    ['schema', 'required']

    Raises:
        ConfigError: there is no such name, or its module cannot be imported.
    """
    stored = None if installed else stored_signature(target)
    if stored is not None:
        required = set(stored["required"])
        parameters = {name: Parameter(schema, name in required) for name, schema in stored["parameters"].items()}
        return Signature(parameters, stored["is_open"], of_other_version=stored["of_other_version"])
    found = import_name(target)
    signature = _described(found)
    return _forwarded(found, signature, installed) if signature.is_open else signature


def import_name(target: str) -> Any:
    """Import what a dotted name means; `package.module.Class.method` leads nowhere.

    Raises:
        ConfigError: there is no such module or name, or importing the module fails.
    """
    module, _, name = target.rpartition(".")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"there is no module {error.name}; is its package installed?") from error
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        line = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({line.filename}:{line.lineno})"
        raise ConfigError(f"the module {module} cannot be imported: {reason}") from error
    if name not in dir(imported):
        raise ConfigError(f"the module {module} has no {name}")
    return getattr(imported, name)


def _described(found: Any) -> Signature:
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not say
        return Signature({}, is_open=True)
    hints = hints_of(found)
    taken = {
        parameter.name: Parameter(
            schema_of(hints[parameter.name]) if parameter.name in hints else {},
            parameter.default is inspect.Parameter.empty,
        )
        for parameter in parameters
        if parameter.kind in {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    }
    return Signature(taken, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters))


def _forwarded(found: Any, signature: Signature, installed: bool) -> Signature:
    """Close an open signature where its module says who receives the other keys."""
    module = sys.modules.get(getattr(found, "__module__", ""))
    receiver = getattr(module, "FORWARDS", {}).get(getattr(found, "__name__", ""))
    if receiver is None:
        return signature
    behind = read_signature(receiver, installed)
    ranges, owned = getattr(module, "RANGES", {}), getattr(module, "OWNED", {})
    schemas = {name: parameter.schema for name, parameter in behind.parameters.items() if name not in owned}
    schemas |= {name: schema_of(annotation) for name, annotation in ranges.items() if name in schemas}
    optional = {name: Parameter(schema, False) for name, schema in schemas.items()}
    return replace(
        behind,
        parameters=optional | signature.parameters,
        owned=dict(owned),
        idle=getattr(module, "IDLE", behind.idle),
    )


def signature_as_json(target: str) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a signature as library.json keeps them; only defaults that JSON can hold are among them."""
    found = import_name(target)
    described = _described(found)
    yield "parameters", {name: parameter.schema for name, parameter in described.parameters.items()}
    yield "required", sorted(name for name, parameter in described.parameters.items() if parameter.required)
    yield "is_open", described.is_open
    yield "defaults", dict(_plain_defaults(found))


def _plain_defaults(found: Any) -> Iterator[tuple[str, Any]]:
    for parameter in inspect.signature(found).parameters.values():
        value = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
        if value is None or isinstance(value, bool | int | float | str):
            yield parameter.name, value
