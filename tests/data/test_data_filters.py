"""`data.where`: what each condition keeps, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from rmx.data.rows.drafts import Cell
from rmx.data.where import compile_where
from rmx.errors import ConfigError

ROW: dict[str, Any] = {
    "lang": "en",
    "score": 3,
    "tags": ["math", "code"],
    "flag": False,
    "meta": {"year": 2024},
    "empty": None,
}


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({"lang": "en"}, True),
        ({"lang": ["de", "fr"]}, False),
        ({"score": {"min": 3}}, True),
        ({"score": {"min": 3.5}}, False),
        ({"score": {"min": 1, "max": 2}}, False),
        ({"lang": {"not": "de"}}, True),
        ({"lang": {"not": ["de", "en"]}}, False),
        ({"lang": {"in": ["en"]}}, True),
        ({"tags": {"contains": "math"}}, True),
        ({"lang": {"starts_with": "e"}}, True),
        ({"missing": {"exists": False}}, True),
        ({"empty": {"exists": True}}, False),
        ({"lang": "en", "score": 4}, False),
        ({"meta.year": 2024}, True),
        ({"lang": {"min": 3}}, False),
        ("lang == 'en'", True),
        ("lang == 'en' and score > 3", False),
        ("lang == 'de' or not flag", True),
        ("1 < score <= 3", True),
        ("score > -1", True),
        ("'math' in tags", True),
        ("lang in ['de', 'fr']", False),
        ("lang not in ('de', 'fr')", True),
        ("meta.year >= 2020", True),
        ("missing > 3", False),
        ("missing == null", True),
        ("flag == false", True),
        ("lang > 3", False),
        ("flag", False),
    ],
)
def test_conditions(where: Any, kept: bool) -> None:
    assert compile_where(where)(ROW) is kept


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("score >= 3", True),
        ("3.5 < score", False),
        ({"score": {"max": 2}}, False),
        ({"score": 3}, True),
        ({"score": [1, 3]}, True),
        ({"score": "3"}, True),
        ("score == '3'", True),
        ("word > 3", False),
    ],
)
def test_cells_of_a_table_compare_as_numbers_with_numbers(where: Any, kept: bool) -> None:
    assert compile_where(where)({"score": Cell("3"), "word": Cell("x")}) is kept


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os').system('true')",
        "lang.__class__()",
        "[x for x in tags]",
        "lambda: 1",
        "score + 1 > 2",
        "tags[0] == 'math'",
        "f'{lang}'",
        "lang ==",
        "(" * 1000,
        "x := 3",
        {"score": {"above": 3}},
    ],
)
def test_everything_else_is_refused(where: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.where"):
        compile_where(where)
