"""Signatures read from source: which keys a `_target_` takes, of which type, and which must be given.

A function that passes unknown keys on names the receiver in its module, so that typos in them are found too:
    FORWARDS = {"trainer_settings": "transformers.training_args.TrainingArguments"}
and keys of the receiver that it keeps for itself, with what to write instead:
    OWNED = {"output_dir": "the root key output_dir"}
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from dataclasses import dataclass, field

from rmx.config.annotations import Anything, Call, Type, read_annotation
from rmx.config.sources import Definition, Source, find_definition, follow, literal
from rmx.errors import ConfigError

__all__ = ["Parameter", "Signature", "read_signature"]


@dataclass(frozen=True)
class Parameter:
    """One key that a target takes."""

    type: Type
    required: bool


@dataclass(frozen=True)
class Signature:
    """The keys that a target takes; `is_open` when it takes any other key too."""

    parameters: dict[str, Parameter]
    is_open: bool = False
    owned: dict[str, str] = field(default_factory=dict)  # keys that the target refuses, and what to use instead


def read_signature(target: str) -> Signature:
    """Return the signature of an allowed target; its module is imported only where the source does not tell.

    >>> list(read_signature("rmx.config.signatures.Parameter").parameters)
    ['type', 'required']

    Raises:
        ConfigError: there is no such name.
    """
    definition = find_definition(target)
    static = _read(definition) if definition is not None else None
    return _imported(target) if static is None else static


def _read(definition: Definition) -> Signature | None:
    signature = None
    if isinstance(definition.node, ast.FunctionDef):
        signature = _function(definition.node, definition.source, skip=0)
    elif isinstance(definition.node, ast.ClassDef):
        signature = _class(definition.node, definition.source)
    return _forwarded(definition, signature) if signature is not None and signature.is_open else signature


def _forwarded(definition: Definition, signature: Signature) -> Signature:
    """Close an open signature where its module says who receives the other keys."""
    forwards = literal(definition.source, "FORWARDS")
    receiver = forwards.get(definition.name) if isinstance(forwards, dict) else None
    if not isinstance(receiver, str):
        return signature
    owned = literal(definition.source, "OWNED")
    reasons = {str(key): str(reason) for key, reason in owned.items()} if isinstance(owned, dict) else {}
    behind = read_signature(receiver)
    optional = {name: Parameter(taken.type, False) for name, taken in behind.parameters.items() if name not in reasons}
    return Signature(optional | signature.parameters, behind.is_open, reasons)


def _function(node: ast.FunctionDef, source: Source, skip: int) -> Signature:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    parameters = {
        argument.arg: Parameter(read_annotation(argument.annotation, source), place < first_default)
        for place, argument in enumerate(positional)
        if place >= max(skip, len(arguments.posonlyargs))
    }
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters[argument.arg] = Parameter(read_annotation(argument.annotation, source), default is None)
    return Signature(parameters, is_open=arguments.kwarg is not None)


def _class(node: ast.ClassDef, source: Source) -> Signature | None:
    """Return the signature of a class: a dataclass's fields, its `__init__`, or that of its base."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name in {"__init__", "__new__"}:
            return _function(statement, source, skip=1)
    bases = [_base(base, source) for base in node.bases if not (isinstance(base, ast.Name) and base.id == "object")]
    decorators = [item.func if isinstance(item, ast.Call) else item for item in node.decorator_list]
    is_dataclass = any(_last_name(item) == "dataclass" for item in decorators)
    if not is_dataclass:
        if not bases:
            return Signature({})
        return bases[0] if len(bases) == 1 else None
    parameters: dict[str, Parameter] = {}
    for inherited in reversed(bases):
        if inherited is None:
            return None
        parameters |= inherited.parameters
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            parameter = _field(statement, source)
            if parameter is not None:
                parameters[statement.target.id] = parameter
    return Signature(parameters)


def _base(node: ast.expr, source: Source) -> Signature | None:
    found = follow(source, node.id) if isinstance(node, ast.Name) else None
    if found is None or not isinstance(found.node, ast.ClassDef):
        return None
    return _class(found.node, found.source)


def _field(statement: ast.AnnAssign, source: Source) -> Parameter | None:
    """Return the parameter that one dataclass field makes; None for class variables and `init=False`."""
    outer = statement.annotation.value if isinstance(statement.annotation, ast.Subscript) else statement.annotation
    if _last_name(outer) in {"ClassVar", "KW_ONLY"}:
        return None
    required = statement.value is None
    if isinstance(statement.value, ast.Call) and _last_name(statement.value.func) == "field":
        options = {keyword.arg: keyword.value for keyword in statement.value.keywords}
        init = options.get("init")
        if isinstance(init, ast.Constant) and init.value is False:
            return None
        required = "default" not in options and "default_factory" not in options
    return Parameter(read_annotation(statement.annotation, source), required)


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _imported(target: str) -> Signature:
    """Import the target's module and ask Python: for compiled modules and classes built at run time."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"there is no module {error.name}; is its package installed?") from error
    except AttributeError as error:
        raise ConfigError(f"the module {module} has no {name}") from error
    try:
        described = inspect.signature(found)
    except (TypeError, ValueError):
        return Signature({}, is_open=True)
    parameters, is_open = {}, False
    for parameter in described.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind not in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY}:
            required = parameter.default is inspect.Parameter.empty
            parameters[parameter.name] = Parameter(_runtime_type(parameter.annotation), required)
    return Signature(parameters, is_open)


def _runtime_type(annotation: object) -> Type:
    if annotation is inspect.Parameter.empty:
        return Anything()
    if dataclasses.is_dataclass(annotation):
        return Call(getattr(annotation, "__name__", "object"))
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    try:
        return read_annotation(ast.parse(text, mode="eval").body, None)
    except SyntaxError:
        return Anything()
