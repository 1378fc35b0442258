"""Signatures and annotations read from source, compared with what Python itself says."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest

from rmx.config.annotations import Anything, Call, Choice, Items, Kind, Mapped, Type, Union, mismatches, read_annotation
from rmx.config.signatures import read_signature
from rmx.config.sources import find_definition, find_source
from rmx.errors import ConfigError


def read(text: str) -> Type:
    return read_annotation(ast.parse(text, mode="eval").body, None)


INT, TEXT, NULL = Kind("int"), Kind("str"), Kind("null")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("int", INT),
        ("int | None", Union((INT, NULL))),
        ("Optional[int]", Union((INT, NULL))),
        ("typing.Union[int, 'str']", Union((INT, TEXT))),
        ("'int | str'", Union((INT, TEXT))),
        ("Path", TEXT),
        ("Literal['a', 1]", Choice(("a", 1))),
        ("list[str]", Items(TEXT)),
        ("Sequence[int]", Items(INT)),
        ("tuple[int, ...]", Items(INT)),
        ("tuple[int, str]", Items(Anything(), (INT, TEXT))),
        ("dict[str, int]", Mapped(INT)),
        ("Callable[..., int]", Call("callable")),
        ("Annotated[int, 'unit']", INT),
        ("Any", Anything()),
        ("int | Whatever", Anything()),
        ("object", Anything()),
        ("3 +", Anything()),
    ],
)
def test_annotations(text: str, wanted: Type) -> None:
    if text == "3 +":
        assert read_annotation(ast.Constant(text), None) == wanted  # a string that is no expression
    else:
        assert read(text) == wanted


@pytest.mark.parametrize(
    ("value", "annotation", "fine"),
    [
        (1, "float", True),
        (1.0, "int", False),
        (True, "int", False),
        (1, "bool", False),
        ("1e-5", "float", False),
        (None, "int", False),
        (None, "int | None", True),
        ("auto", "int | Literal['auto']", True),
        ("aut", "int | Literal['auto']", False),
        (True, "Literal[1]", False),
        ([1, 2], "list[int]", True),
        ([1, "x"], "list[int]", False),
        ([1, "x"], "tuple[int, str]", True),
        ([1], "tuple[int, str]", False),
        ({"a": 1}, "dict[str, int]", True),
        ({"a": "x"}, "dict[str, int]", False),
        ({"a": {"b": [1]}}, "dict[str, Any]", True),
        ({"a": 1}, "str | dict[str, Any]", True),
        ({"_target_": "x.y"}, "Callable[[int], int]", True),
        ("x", "Callable[[int], int]", False),
    ],
)
def test_values(value: Any, annotation: str, fine: bool) -> None:
    assert (mismatches(value, read(annotation), "key") == []) is fine


def test_the_wrong_item_is_named() -> None:
    assert [key for key, _, _ in mismatches({"a": [1, "x"]}, read("dict[str, list[int]]"), "key")] == ["key.a[1]"]


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with every way to write a signature; importing it would raise."""
    package = tmp_path / "rmx_shapes"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .inner import Child as Renamed\n"
        "from rmx_shapes.inner import *\nraise RuntimeError('imported')\n"
    )
    (package / "inner.py").write_text(
        "from dataclasses import InitVar, dataclass, field, KW_ONLY\n"
        "from enum import Enum\nfrom typing import ClassVar, Literal\n"
        "Level = Literal['low', 'high']\nclass Colour(Enum):\n    RED = 'red'\n    BLUE = 'blue'\n"
        "@dataclass\nclass Parent:\n    a: int\n    shared: ClassVar[int] = 1\n"
        "    hidden: int = field(init=False, default=0)\n"
        "@dataclass(frozen=True)\nclass Child(Parent):\n    _: KW_ONLY\n    b: Level = 'low'\n"
        "    c: Colour | str = Colour.RED\n    d: list[int] = field(default_factory=list)\n    e: InitVar[int] = 1\n"
        "class Plain:\n    def __init__(self, x: int, /, y: str = 'y', *rest, z: float, **more): ...\n"
        "class Heir(Plain):\n    pass\nclass Empty:\n    pass\n"
        "def call(first, second: int = 2, *, third: 'int | None' = None): ...\nAlias = call\n"
        "FORWARDS = {'passes_on': 'rmx_shapes.inner.Child'}\nOWNED = {'e': 'the root key e'}\n"
        "def passes_on(*, own: int = 1, **others): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "rmx_shapes"


def test_signatures_of_every_shape(shapes: str) -> None:
    child = read_signature(f"{shapes}.Renamed")
    assert {name: parameter.required for name, parameter in child.parameters.items()} == {
        "a": True, "b": False, "c": False, "d": False, "e": False,
    }  # fmt: skip
    assert child.parameters["b"].type == Choice(("low", "high"))
    assert child.parameters["c"].type == Union((Choice(("red", "blue"), is_enum=True),))
    assert child.parameters["e"].type == INT
    heir = read_signature(f"{shapes}.inner.Heir")
    assert (list(heir.parameters), heir.is_open, heir.parameters["z"].required) == (["y", "z"], True, True)
    assert list(read_signature(f"{shapes}.Alias").parameters) == ["first", "second", "third"]
    assert read_signature(f"{shapes}.Empty").parameters == {}
    assert shapes not in sys.modules


def test_forwarded_keys_come_from_the_receiver(shapes: str) -> None:
    signature = read_signature(f"{shapes}.inner.passes_on")
    assert set(signature.parameters) == {"own", "a", "b", "c", "d"} and not signature.is_open
    assert not signature.parameters["a"].required  # the receiver asks for it, and says so itself
    assert signature.owned == {"e": "the root key e"}


def test_definitions_are_followed_to_where_they_stand(shapes: str) -> None:
    found = find_definition(f"{shapes}.Renamed")
    assert found is not None and found.qualified_name == f"{shapes}.inner.Child"
    assert find_definition(f"{shapes}.dataclass.x") is None
    assert find_definition("nowhere") is None
    assert find_source("math") is None and find_source("rmx.nope.deeper") is None


@pytest.mark.parametrize(
    "target",
    ["rmx.models.RewardModelSource", "rmx.models.Adapter", "rmx.data.PreferenceData", "rmx.data.SyntheticData",
     "rmx.templates.Template", "rmx.losses.bradley_terry", "rmx.workflow.Workflow", "peft.LoraConfig",
     "transformers.EarlyStoppingCallback", "transformers.training_args.TrainingArguments"],
)  # fmt: skip
def test_the_static_reading_agrees_with_python(target: str) -> None:
    """Names and required-ness as `inspect.signature` gives them, for all that conf/ uses."""
    module, _, name = target.rpartition(".")
    __import__(module)
    parameters = inspect.signature(getattr(sys.modules[module], name)).parameters.values()
    wanted = {p.name: p.default is inspect.Parameter.empty for p in parameters if p.kind is not p.VAR_KEYWORD}
    found = {name: parameter.required for name, parameter in read_signature(target).parameters.items()}
    assert found == wanted


def test_compiled_targets_are_imported_and_asked() -> None:
    assert list(read_signature("math.gcd").parameters) == []
    with pytest.raises(ConfigError, match="there is no module nowhere"):
        read_signature("nowhere.at_all")
    with pytest.raises(ConfigError, match="the module math has no nope"):
        read_signature("math.nope")
