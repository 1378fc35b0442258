"""Every number and every choice of every YAML, tried in this process: a workflow, or one line that names the key."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import OmegaConf

from rmx.config.checking import build, mistakes_in, plain
from rmx.config.composing import Composer
from rmx.config.shipped import option_files
from rmx.config.signatures import read_signature
from rmx.errors import ConfigError
from rmx.sweep.strategy import SweepSettings
from rmx.values import Schema, hints_of, schema_of

ODD_NUMBERS = [0, -1, 2**63, math.nan, math.inf, "many", 0.5, 1]
MUST_GIVE: dict[str, Any] = {
    "model.path": "org/mine", "data.path": "pairs.jsonl", "data.dataset": "dpo_en_demo",
    "data.sources": {"mine": {"path": "pairs.jsonl"}},
}  # fmt: skip
# Keys whose text is judged by what it names, in the objects themselves or later.
FREE = {"template.name"}


@functools.cache
def composed(group: str, option: str) -> dict[str, Any]:
    """The default run with one option chosen, as plain values."""
    cfg, wrong = Composer().compose([f"{group}=[{option}]" if group == "callbacks" else f"{group}={option}"])
    assert cfg is not None and not wrong
    for key in OmegaConf.missing_keys(cfg):
        OmegaConf.update(cfg, key, MUST_GIVE[key])
    values, unresolved = plain(cfg)
    assert not unresolved
    return values


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Schema]]:
    """Every key that a node with `_target_` takes, at any depth, with what it takes; whether a YAML lists it or not."""
    if "_target_" not in values:
        for name, item in values.items():
            if isinstance(item, dict):
                yield from leaves(item, f"{prefix}{name}.")
        return
    for name, parameter in read_signature(values["_target_"]).parameters.items():
        given = values.get(name)
        if isinstance(given, dict) and ("_target_" in given or name == "callbacks"):
            yield from leaves(given, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", parameter.schema


def options_of(schema: Schema) -> list[Schema]:
    return schema.get("anyOf", [schema])


def is_number(schema: Schema) -> bool:
    return any(option.get("type") in {"integer", "number"} and "enum" not in option for option in options_of(schema))


def choices_of(schema: Schema) -> list[Any]:
    return [choice for option in options_of(schema) for choice in option.get("enum", [])]


def tried(values: dict[str, Any], key: str, value: Any) -> list[str]:
    """The mistakes of the configuration with one value changed; constructs everything when the check finds none."""
    changed = copy.deepcopy(values)
    *path, name = key.split(".")
    node = changed
    for part in path:
        node = node[part]
    node[name] = value
    found = mistakes_in(changed)
    if not found:
        workflow, found = build(changed)
        assert found or type(workflow).__name__ == "Workflow"
    return [str(mistake) for mistake in found]


FILES = [(group, option) for group, options in option_files().items() for option in options if group != "experiment"]


def test_there_are_many_numbers_and_choices() -> None:
    keys = {key: schema for group, option in FILES for key, schema in leaves(composed(group, option))}
    assert sum(is_number(schema) for schema in keys.values()) > 45
    assert sum(bool(choices_of(schema)) for schema in keys.values()) > 20


@pytest.mark.parametrize(("group", "option"), FILES)
def test_every_number_of_every_file(group: str, option: str) -> None:
    """0, -1, 2**63, NaN, infinity, text ...: the workflow is built, or one line names the key. Never a traceback."""
    values = composed(group, option)
    for key, schema in leaves(values):
        if not is_number(schema) or not key.startswith((f"{group}.", "seed")):
            continue
        takes_text = any(option.get("type") == "string" for option in options_of(schema))
        for value in ODD_NUMBERS:
            lines = tried(values, key, value)
            assert len(lines) <= 1, (key, value, lines)
            assert all(line.startswith(f"{key}: ") or f" {key} " in line for line in lines), (key, value, lines)
            if value in (2**63, math.inf) or value != value or (isinstance(value, str) and not takes_text):
                assert len(lines) == 1, (key, value)


@pytest.mark.parametrize(("group", "option"), FILES)
def test_every_choice_of_every_file(group: str, option: str) -> None:
    """Every value of an enumeration is taken, or refused by a line that says why; another word is told the nearest."""
    values = composed(group, option)
    for key, schema in leaves(values):
        choices = choices_of(schema)
        if not choices or not key.startswith((f"{group}.", "phases")) or key in FREE:
            continue
        for choice in choices:
            for line in tried(values, key, choice):
                assert "is not one of" not in line and key.partition(".")[0] in line, (key, choice, line)
        (line,) = tried(values, key, str(choices[-1]) + "x")
        assert line.startswith(f"{key}: ") and f"did you mean {choices[-1]}?" in line, (key, line)


def test_every_number_of_the_sweeper() -> None:
    for name, annotation in hints_of(SweepSettings).items():
        schema = schema_of(annotation)
        for value in ODD_NUMBERS if is_number(schema) else ():
            try:
                SweepSettings(**{name: value})
            except ConfigError as error:
                assert str(error).startswith(f"hydra.sweeper.{name}: ") and "\n" not in str(error)
            else:
                assert value not in (2**63, math.inf, "many") and value == value, (name, value)
