"""Python modules read as text: what a dotted name is, found without importing anything.

A config error has to come before torch is imported, and a hostile `_target_` must not run so much as an
`__init__.py`. So names are followed through the source: definitions, `from x import y`, aliases.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

__all__ = ["Definition", "Source", "exists", "find_definition", "find_source", "follow", "literal"]

_MAX_HOPS = 20  # re-exports followed before a name counts as unreadable


@dataclass(frozen=True)
class Source:
    """One module's syntax tree, parsed and not run."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """Name that a relative import starts from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Definition:
    """Where a name is truly defined: a class, a function, or the value of a module-level assignment."""

    source: Source
    name: str
    node: ast.ClassDef | ast.FunctionDef | ast.expr

    @property
    def qualified_name(self) -> str:
        """The defining module and the name, whatever alias led here."""
        return f"{self.source.name}.{self.name}"


def _find_spec(name: str) -> ModuleSpec | None:
    """Return the import spec of `name` as `import` would find it; unlike `find_spec`, parents are not imported."""
    spec, search = None, None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        partial = ".".join(parts[:depth])
        specs = (finder.find_spec(partial, search) for finder in sys.meta_path)
        spec = next((found for found in specs if found is not None), None)
        if spec is None:
            return None
        search = spec.submodule_search_locations
        if search is None and depth < len(parts):
            return None
    return spec


@functools.lru_cache(maxsize=256)
def _parse(path: str, modified_ns: int) -> ast.Module | None:
    try:
        return ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError):
        return None


def exists(name: str) -> bool:
    """Tell whether there is a module of this name; nothing is imported.

    >>> exists("rmx.config"), exists("rmx.nope"), exists("rmx.errors.ConfigError")
    (True, False, False)
    """
    return _find_spec(name) is not None


def find_source(name: str) -> Source | None:
    """Return the parsed source of a module, or None where there is none to read (missing, compiled, broken)."""
    spec = _find_spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py") or not Path(spec.origin).is_file():
        return None
    tree = _parse(spec.origin, Path(spec.origin).stat().st_mtime_ns)
    return None if tree is None else Source(name, Path(spec.origin), tree)


def find_definition(target: str) -> Definition | None:
    """Return the definition that `package.module.name` leads to; None where the source does not tell.

    Only a module-level name counts: `module.other_module.name` and `module.Class.method` lead nowhere.

    >>> find_definition("rmx.config.sources.Source").qualified_name
    'rmx.config.sources.Source'
    >>> find_definition("rmx.config.sources.sys.exit") is None
    True
    """
    module, _, name = target.rpartition(".")
    source = find_source(module) if module else None
    return None if source is None else follow(source, name)


def follow(source: Source, name: str, hops: int = 0) -> Definition | None:
    """Return what `name` means in a module, through re-exports and aliases."""
    if hops > _MAX_HOPS:
        return None
    stars: list[str] = []
    for statement in _statements(source.tree.body):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return Definition(source, name, statement)
        if isinstance(statement, ast.ImportFrom):
            module = _absolute(source, statement)
            for alias in statement.names:
                if alias.name == "*":
                    stars.append(module)
                elif (alias.asname or alias.name) == name:
                    origin = find_source(module)
                    return None if origin is None else follow(origin, alias.name, hops + 1)
        value = _assigned(statement, name)
        if isinstance(value, ast.Name) and value.id != name:
            return follow(source, value.id, hops + 1)
        if value is not None:
            return Definition(source, name, value)
    for module in stars:
        origin = find_source(module)
        found = follow(origin, name, hops + 1) if origin is not None else None
        if found is not None:
            return found
    return None


def literal(source: Source, name: str) -> object:
    """Return the value of a module-level constant written as a literal, or None.

    >>> literal(find_source("rmx.config.sources"), "_MAX_HOPS")
    20
    """
    for statement in _statements(source.tree.body):
        value = _assigned(statement, name)
        if value is not None:
            try:
                return ast.literal_eval(value)
            except ValueError:
                return None
    return None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Walk a module's own statements, into `if TYPE_CHECKING:` and `try:`, not into functions or classes."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _statements(statement.body)
            yield from _statements(statement.orelse)
        elif isinstance(statement, ast.Try):
            yield from _statements(statement.body)
            for handler in statement.handlers:
                yield from _statements(handler.body)
            yield from _statements(statement.orelse)
        else:
            yield statement


def _assigned(statement: ast.stmt, name: str) -> ast.expr | None:
    if isinstance(statement, ast.AnnAssign):
        targets: list[ast.expr] = [statement.target]
    elif isinstance(statement, ast.Assign):
        targets = statement.targets
    else:
        return None
    named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
    return statement.value if named else None


def _absolute(source: Source, statement: ast.ImportFrom) -> str:
    if statement.level == 0:
        return statement.module or ""
    parts = source.package.split(".")
    base = parts[: len(parts) - (statement.level - 1)]
    return ".".join([*base, *([statement.module] if statement.module else [])])
