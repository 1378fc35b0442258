"""Mixtures: how much of each source, in which order, and that every row is accounted for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rmx.data import Mixture, PreferenceData, Splits, SyntheticData
from rmx.data.audit import audit
from rmx.errors import ConfigError, DataError


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    """Source a with 60 rows, source b with 20 rows."""
    out = {}
    for name, size in (("a", 60), ("b", 20)):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"prompt": f"{name}{n}?", "chosen": "yes", "rejected": "no"} for n in range(size)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out[name] = {"path": str(path)}
    return out


def counts(splits: Splits) -> dict[str, int]:
    assert splits.accounting.adds_up(), splits.accounting.as_dict()
    assert len({row.id for row in splits.train}) == len(splits.train)
    return dict(Counter(row.source for row in splits.train))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"a": 60, "b": 20}),
        ({"fractions": {"a": 0.5}}, {"a": 30, "b": 20}),
        ({"caps": {"a": 10}}, {"a": 10, "b": 20}),
        ({"fractions": {"a": 0.5}, "caps": {"a": 25}}, {"a": 25, "b": 20}),
        ({"epochs": {"b": 2.5}}, {"a": 60, "b": 50}),
        ({"epochs": {"a": 0.5}}, {"a": 30, "b": 20}),
        ({"order": "interleave"}, {"a": 60, "b": 20}),
    ],
)
def test_how_much_of_each(sources: dict[str, Any], keys: dict[str, Any], expected: dict[str, int]) -> None:
    mixture = Mixture(sources=sources, validation_fraction=0, **keys)
    splits = mixture.read()
    assert counts(splits) == expected
    assert [row.id for row in mixture.read().train] == [row.id for row in splits.train]


def test_weights(sources: dict[str, Any]) -> None:
    """Equal weights: the first to end is b with 20, a has about as many; all_exhausted repeats b until a is through."""
    keys: dict[str, Any] = {
        "sources": sources,
        "validation_fraction": 0,
        "order": "interleave",
        "weights": {"a": 1, "b": 1},
    }
    first = Mixture(**keys).read()
    assert counts(first)["b"] == 20 and 8 <= counts(first)["a"] <= 40
    assert first.accounting.sources["a"].unused == 60 - counts(first)["a"]
    everything = Mixture(**keys, stop="all_exhausted").read()
    assert counts(everything)["a"] == 60 and 35 <= counts(everything)["b"] <= 100
    assert everything.accounting.sources["b"].repeated == counts(everything)["b"] - 20
    assert audit(everything).numbers["repeats"]["identical_pairs"] == 0


def test_a_prompt_of_two_sources_stands_on_one_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}?", "chosen": "yes", "rejected": "no"} for n in range(100)]
    for name in ("a", "b"):
        changed = [{**row, "chosen": f"yes from {name}"} for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    sources = {n: {"path": str(tmp_path / f"{n}.jsonl")} for n in ("a", "b")}
    splits = Mixture(sources=sources, validation_by="count").read()
    assert len(splits.evals["eval"]) == 20
    assert audit(splits).numbers["overlap"]["eval"]["with_prompt_in_train"] == 0


def test_max_samples_over_all(sources: dict[str, Any]) -> None:
    splits = Mixture(sources=sources, max_samples=40, validation_fraction=0).read()
    assert sum(counts(splits).values()) == 40
    assert sum(account.unused for account in splits.accounting.sources.values()) == 40


def test_other_specs_and_eval_sets(sources: dict[str, Any], tmp_path: Path) -> None:
    extra = tmp_path / "extra.jsonl"
    extra.write_text(json.dumps({"prompt": "new?", "chosen": "yes", "rejected": "no"}) + "\n")
    mixed = Mixture(sources={**sources, "made": SyntheticData(size=50)}, eval_sets={"extra": str(extra)})
    splits = mixed.read()
    assert set(splits.evals) == {"eval", "extra"}
    assert splits.accounting.sources["made"].read == 50
    assert splits.accounting.adds_up()
    assert mixed.source == "a+b+made"


def test_bad_rows_of_one_source_stop_the_mixture(sources: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(DataError, match=r"data b: 20 of 21 rows.*\n.*b\.jsonl:21: broken JSON"):
        Mixture(sources=sources).read()
    splits = Mixture(sources=sources, on_bad_row="skip").read(tmp_path / "out")
    assert splits.accounting.sources["b"].rejected == {"broken JSON": 1}
    assert (tmp_path / "out" / "rejects.jsonl").is_file()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sources": {}}, "data.sources"),
        ({"caps": {"c": 1}}, "data.caps.c: no such source; sources: a, b"),
        ({"fractions": {"a": 1.5}}, r"data.fractions.a: 1.5 is not a number above 0 to 1"),
        ({"weights": {"a": 1}}, "data.weights: only order=interleave"),
        ({"sources": {"a": {"file": "x"}}}, "data.sources.a: give at least a path"),
        ({"sources": {"a": {"path": "x", "formt": "auto"}}}, "data.sources.a: unknown key formt"),
    ],
)
def test_mistakes(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mixture(**{"sources": {"a": "a.jsonl", "b": "b.jsonl"}, **keys})


def test_a_bad_row_is_judged_by_what_its_own_source_says(sources: dict[str, Any], tmp_path: Path) -> None:
    """Source b has one bad row of 21; the mixture's rule holds where a source says nothing."""
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write("{\n")
    skipping = {**sources["b"], "on_bad_row": "skip"}
    assert Mixture(sources={**sources, "b": skipping}).read().accounting.sources["b"].bad == 1
    strict = {**sources["b"], "on_bad_row": "error"}
    with pytest.raises(DataError, match=r"data b: 20 of 21 rows.*\n.*\n.*on_bad_row=skip"):
        Mixture(sources={**sources, "b": strict}, on_bad_row="skip").read()
    few = {**skipping, "max_bad_fraction": 0.01}
    with pytest.raises(DataError, match=r"more than data.max_bad_fraction=0.01 allows"):
        Mixture(sources={**sources, "b": few}).read()
    tolerant = {"b": {"path": sources["b"]["path"], "on_bad_row": "skip"}}
    splits = Mixture(sources={"a": sources["a"]}, eval_sets=tolerant).read()
    assert (splits.accounting.sources["b"].bad, len(splits.evals["b"])) == (1, 20)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("validation_fraction", 0.5), ("validation_by", "count"), ("eval_sets", {"t": "t.jsonl"}),
        ("on_overlap", "allow"), ("max_tokens", 64), ("truncation", "drop"),
    ],
)  # fmt: skip
def test_what_holds_for_the_whole_cannot_be_said_of_a_source(key: str, value: Any) -> None:
    message = rf"data.sources.a.{key}: holds for the mixture as a whole; give data.{key} instead"
    with pytest.raises(ConfigError, match=message):
        Mixture(sources={"a": {"path": "a.jsonl", key: value}})
    with pytest.raises(ConfigError, match=message):
        Mixture(sources={"a": PreferenceData(path="a.jsonl", **{key: value})})
    same = {} if key == "eval_sets" else {key: value}
    assert Mixture(sources={"a": PreferenceData(path="a.jsonl", **same)}, **{key: value}).specs()
