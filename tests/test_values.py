"""Annotations, which plain values they take, and what is said of those that they do not take."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Protocol

import pytest
from annotated_types import Ge, Interval, MinLen

from rmx.errors import ConfigError
from rmx.values import Count, Seed, Share, checked, is_scalar, mismatches, refuse_wrong_fields, schema_of


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Plain:
    pass


class Shape(Protocol):
    def area(self) -> float: ...


INTEGER, TEXT, NULL = {"type": "integer"}, {"type": "string"}, {"type": "null"}


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (int, INTEGER),
        (Optional[int], {"anyOf": [INTEGER, NULL]}),  # noqa: UP045  the old spelling is what is tried
        (str | int, {"anyOf": [INTEGER, TEXT]}),
        (Path, TEXT),
        (os.PathLike, TEXT),
        (Literal["a", 1], {"enum": ["a", 1]}),
        (Colour, {"enum": ["red", "blue"], "type": "string"}),
        (Colour | str, {"enum": ["red", "blue"], "type": "string"}),  # the text is turned into the Enum
        (list[str], {"items": TEXT, "type": "array"}),
        (Sequence[int], {"items": INTEGER, "type": "array"}),
        (Iterable[int], {"items": INTEGER, "type": "array"}),
        (tuple[int, ...], {"items": INTEGER, "type": "array"}),
        (dict[str, int], {"additionalProperties": INTEGER, "type": "object"}),
        (Callable[..., int], {"node": "function"}),
        (Plain, {"node": "Plain"}),
        (Plain | None, {"anyOf": [{"node": "Plain"}, NULL]}),
        (Annotated[int, "unit"], INTEGER),
        (Count, {"minimum": 1, "type": "integer"}),
        (Share | None, {"anyOf": [{"maximum": 1, "minimum": 0, "type": "number"}, NULL]}),
        (Any, {}),
        (object, {}),
        (int | Any, {}),
        (Shape, {}),  # whatever has its methods, text included
        ("no annotation at all", {}),
    ],
)
def test_schemas(annotation: Any, schema: dict[str, Any]) -> None:
    assert schema_of(annotation) == schema


@pytest.mark.parametrize(
    ("value", "annotation", "fine"),
    [
        (1, float, True),
        (1.0, int, False),
        (True, int, False),
        (True, float, False),
        (1, bool, False),
        ("1e-5", float, False),
        (None, int, False),
        (None, int | None, True),
        ("auto", int | Literal["auto"], True),
        ("aut", int | Literal["auto"], False),
        (True, Literal[1], False),
        (1.0, Literal[1], False),
        ([1, 2], list[int], True),
        ([1, "x"], list[int], False),
        ([], Annotated[list[int], MinLen(1)], False),
        ([1, "x"], tuple[int, str], True),
        ([1], tuple[int, str], False),
        ({"a": 1}, dict[str, int], True),
        ({"a": "x"}, dict[str, int], False),
        ({"a": {"b": [1]}}, dict[str, Any], True),
        ({"a": 1}, str | dict[str, Any], True),
        ({"_target_": "x.y"}, Callable[[int], int], True),
        ("x", Callable[[int], int], False),
        (Path("x"), str, True),  # what YAML cannot hold is not judged
        (0, Count, False),
        (1, Count, True),
        (0.0, Share, True),
        (1.5, Share, False),
        (2**32 - 1, Seed, True),
        (2**32, Seed, False),
        (2**63, int, False),
        (-(2**63), int, True),
        (math.nan, float, False),
        (math.inf, float | None, False),
        (math.nan, Share, False),
    ],
)
def test_values(value: Any, annotation: Any, fine: bool) -> None:
    assert (mismatches(value, schema_of(annotation), "it") == []) is fine


@pytest.mark.parametrize(
    ("value", "annotation", "line"),
    [
        (0, Count, "it: 0 is not an integer from 1 up"),
        (-1, Seed, "it: -1 is not an integer from 0 to 4294967295"),
        (1.5, Share | None, "it: 1.5 is not a number from 0 to 1 or null"),
        (0.5, Annotated[float, Interval(ge=0, lt=0.5)], "it: 0.5 is not a number from 0 to below 0.5"),
        (-2.0, Annotated[float, Interval(gt=-1)], "it: -2.0 is not a number above -1"),
        (5, Annotated[int, Interval(le=4)], "it: 5 is not an integer up to 4"),
        (5.0, Annotated[float, Interval(lt=4)], "it: 5.0 is not a number below 4"),
        (math.nan, float | None, "it: nan is not finite; give a number or null"),
        (2**63, Count, "it: 9223372036854775808 is not a number of 64 bits; give an integer from 1 up"),
        (20.0, Count, "it: 20.0 is not an integer from 1 up; write 20"),
        ("aut", Count | Literal["auto"], "it: 'aut' is not an integer from 1 up or auto; did you mean auto?"),
        ("a", list[str], "it: 'a' is not a list [...]; write it=[a]"),
        ([], Annotated[list[str], MinLen(1)], "it: [] is not a list [...] (not empty)"),
        (" ", Annotated[str, MinLen(1)], "it: ' ' is not text (not empty)"),
        ([1], tuple[int, str], "it: [1] is not a list of 2 values"),
        ({"a": 1}, Plain, "it: {...} is not a Plain (a node with _target_); its _target_ is missing"),
        (7, str, "it: 7 is not text; on the command line quote it twice: 'it=\"7\"'"),
        ({"a": [1, "x"]}, dict[str, list[int]], "it.a[1]: 'x' is not an integer"),
        ({"a": 1, "b": 2.0}, dict[str, Share], "it.b: 2.0 is not a number from 0 to 1"),
    ],
)
def test_sentences(value: Any, annotation: Any, line: str) -> None:
    (mistake,) = mismatches(value, schema_of(annotation), "it")
    assert str(mistake).startswith(line)


def test_a_long_value_is_cut_and_a_secret_hidden() -> None:
    (mistake,) = mismatches("x" * 1000, INTEGER, "key")
    assert len(str(mistake)) < 100
    (mistake,) = mismatches("hf_abc", INTEGER, "hub_token")
    assert mistake.text == "*** is not an integer"
    (mistake,) = mismatches(123456, TEXT, "hub_token")
    assert "123456" not in mistake.text and "quote it twice" in mistake.text


def test_scalars() -> None:
    assert is_scalar(schema_of(str | Count | Literal["x"] | None))
    assert not is_scalar(schema_of(str | list[str])) and not is_scalar(schema_of(Plain))


@dataclass
class Mixed:
    share: Share
    sizes: dict[str, Count] = field(default_factory=dict)
    made: Plain | None = None
    hidden: int = field(default=0, init=False)


@dataclass
class Heir(Mixed):
    steps: Annotated[int, Ge(10)] = 10

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "heir")


def test_a_dataclass_checks_its_own_and_inherited_fields() -> None:
    Heir(share=0.5, sizes={"a": 1}, made=Plain())
    with pytest.raises(ConfigError) as caught:
        Heir(share=2, sizes={"a": 0}, steps=9)
    assert str(caught.value).splitlines() == [
        "heir.share: 2 is not a number from 0 to 1",
        "heir.sizes.a: 0 is not an integer from 1 up",
        "heir.steps: 9 is not an integer from 10 up",
    ]


def test_a_function_checks_its_keywords() -> None:
    @checked("loss")
    def loss(x: object, *, share: Share = 0.5) -> float:
        return share

    assert loss("anything", share=1) == 1 and loss("anything") == 0.5
    with pytest.raises(ConfigError, match=re.escape("loss.share: -1 is not a number from 0 to 1")):
        loss("anything", share=-1)
