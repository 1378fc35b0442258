"""Signatures of targets: asked of Python, of library.json, and through functions that pass their keys on."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from rmx.config import library
from rmx.config.checking import mistakes_in
from rmx.config.describe import describe
from rmx.config.library import TARGETS, stored_signature
from rmx.config.signatures import import_name, read_signature
from rmx.errors import ConfigError

SHAPES = """
from __future__ import annotations
from dataclasses import KW_ONLY, InitVar, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Literal
if TYPE_CHECKING:
    from elsewhere import Unknown
Level = Literal['low', 'high']
class Colour(Enum):
    RED = 'red'
    BLUE = 'blue'
@dataclass
class Parent:
    a: int
    shared: ClassVar[int] = 1
    hidden: int = field(init=False, default=0)
@dataclass(frozen=True)
class Settings:
    level: Level = 'low'
class Plain:
    def __init__(self, x: int, /, y: str = 'y', *rest, z: float, **more): ...
class Heir(Plain):
    pass
class Empty:
    pass
def call(first, second: int = 2, *, third: int | None = None, fourth: Unknown | int = 0): ...
Alias = call
FORWARDS = {'passes_on': 'rmx_shapes.inner.Settings'}
OWNED = {'e': 'the root key e'}
def passes_on(*, own: int = 1, **others): ...
"""
CHILD = """
from __future__ import annotations
from dataclasses import KW_ONLY, InitVar, dataclass, field
from rmx_shapes import inner
from rmx_shapes.inner import Colour, Parent
@dataclass
class Child(Parent):
    _: KW_ONLY
    b: inner.Level = 'low'
    c: Colour | str = Colour.RED
    d: list[int] = field(default_factory=list)
    e: InitVar[int] = 1
"""


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with every way to write a signature."""
    package = tmp_path / "rmx_shapes"
    package.mkdir()
    (package / "__init__.py").write_text("from rmx_shapes.child import Child as Renamed\n")
    (package / "inner.py").write_text(SHAPES)
    (package / "child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("rmx_shapes", "rmx_shapes.inner", "rmx_shapes.child"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    read_signature.cache_clear()
    return "rmx_shapes"


def test_signatures_of_every_shape(shapes: str) -> None:
    child = read_signature(f"{shapes}.Renamed")
    assert {name: parameter.required for name, parameter in child.parameters.items()} == {
        "a": True, "b": False, "c": False, "d": False, "e": False,
    }  # fmt: skip
    assert child.parameters["a"].schema == child.parameters["e"].schema == {"type": "integer"}
    assert child.parameters["b"].schema == {"enum": ["low", "high"], "type": "string"}
    assert child.parameters["c"].schema == {"enum": ["red", "blue"], "type": "string"}
    heir = read_signature(f"{shapes}.inner.Heir")
    assert (list(heir.parameters), heir.is_open, heir.parameters["z"].required) == (["y", "z"], True, True)
    assert heir.parameters["z"].schema == {"type": "number"}
    alias = read_signature(f"{shapes}.inner.Alias")
    assert list(alias.parameters) == ["first", "second", "third", "fourth"]
    assert alias.parameters["first"].schema == alias.parameters["fourth"].schema == {}  # a name for type checkers only
    assert read_signature(f"{shapes}.inner.Empty").parameters == {}


def test_forwarded_keys_come_from_the_receiver(shapes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = read_signature(f"{shapes}.inner.passes_on")
    assert set(signature.parameters) == {"own", "level"} and not signature.is_open
    assert signature.owned == {"e": "the root key e"}
    monkeypatch.setattr(sys.modules["rmx_shapes.inner"], "RANGES", {"level": int}, raising=False)
    read_signature.cache_clear()
    assert read_signature(f"{shapes}.inner.passes_on").parameters["level"].schema == {"type": "integer"}


def test_builtins_take_anything_and_missing_names_are_told() -> None:
    assert list(read_signature("math.gcd").parameters) == []
    with pytest.raises(ConfigError, match="there is no module nowhere"):
        read_signature("nowhere.at_all")
    with pytest.raises(ConfigError, match="the module math has no nope"):
        read_signature("math.nope")


@pytest.mark.parametrize("target", TARGETS)
def test_library_json_describes_the_installed_classes(target: str) -> None:
    """After an update: `python -m rmx.config.describe`, and see what the difference means for rmx.training.ranges."""
    stored = stored_signature(target)
    assert stored is not None and not stored.pop("of_other_version")
    assert stored == describe(target)
    taken = [p for p in inspect.signature(import_name(target)).parameters.values() if p.kind is not p.VAR_KEYWORD]
    assert set(stored["parameters"]) == {parameter.name for parameter in taken}


def test_another_version_is_asked_before_anything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """library.json lacks a key that the installed class has: no mistake; what both lack stays one."""
    entry = stored_signature("transformers.EarlyStoppingCallback")
    assert entry is not None
    monkeypatch.setattr(
        library, "_stored", lambda: {"transformers.EarlyStoppingCallback": entry | {"version": "0", "parameters": {}}}
    )
    read_signature.cache_clear()
    node = {"_target_": "transformers.EarlyStoppingCallback", "early_stopping_patience": 2, "patience": 3}
    found = [str(item) for item in mistakes_in({"_target_": "rmx.workflow.Workflow", "callbacks": {"x": node}})]
    read_signature.cache_clear()
    assert [line for line in found if line.startswith("callbacks.x")] == [
        "callbacks.x.patience: there is no such key in callbacks.x (value 3); "
        "it takes early_stopping_patience, early_stopping_threshold"
    ]


def test_a_check_of_everything_imports_nothing_heavy(tmp_path: Path) -> None:
    """All groups at once, right and wrong values: neither torch nor transformers, datasets, peft, trl or optuna."""
    words = ["model=gpt2", "data=mixture", "data.sources={a: {path: x}}", "loss=focal", "peft=dora", "template=plain"]
    words += ["callbacks=[early_stopping]", "trainer.optim=sgd"]
    code = (
        "import sys\nfrom rmx.config.composing import Composer\ncomposer = Composer()\n"
        f"cfg, wrong = composer.checked({words!r})\nassert not wrong, wrong\n"
        f"cfg, wrong = composer.checked({[*words, 'loss.gamma=-1', 'trainer.optim=sdg', 'data.order=x']!r})\n"
        "assert len(wrong) == 3, wrong\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'trl', 'optuna', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
