"""`key=value` words of a verb → its dataclass: YAML values, types and ranges from its annotations, one message."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import yaml

from rmx.errors import did_you_mean
from rmx.values import Mistake, hints_of, raise_all, schema_of, shown, wrong_values

__all__ = ["from_words", "logged_to_stderr", "mapping_of", "names_of", "verb_help", "yaml_value"]

_Settings = TypeVar("_Settings")


def from_words(cls: type[_Settings], words: Sequence[str], verb: str) -> _Settings:
    """Build `cls` from words such as `model=outputs/hh` and flags such as `--best-of 4` (`best_of_n=4`).

    Raises:
        ConfigError: a line for each unknown, repeated, missing or wrong key.
    """
    known = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]  # a dataclass
    hints = hints_of(cls)
    given: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for word in _as_assignments(words):
        key, sign, text = word.partition("=")
        if key not in known or not sign:
            example = f"; write {key}=VALUE" if key in known else ""
            hint = did_you_mean(key, list(known)) or f"keys: {', '.join(known)}"
            mistakes.append(
                Mistake(key[:60], example.removeprefix("; ") or f"there is no such key of rmx {verb}; {hint}")
            )
        elif key in given:
            mistakes.append(Mistake(key, "is given twice"))
        else:
            given[key] = _value(text, schema_of(hints[key]))
    for key, item in known.items():
        needed = item.default is MISSING and item.default_factory is MISSING
        if needed and key not in given and not any(mistake.key == key for mistake in mistakes):
            mistakes.append(Mistake(key, f"is needed: rmx {verb} {key}=...; see rmx {verb} --help"))
    if mistakes:  # where there are none, the class says what is wrong with its values
        mistakes += wrong_values(given, {key: schema_of(hints[key]) for key in given}, "")
    raise_all(mistakes)
    return cls(**given)


def _as_assignments(words: Sequence[str]) -> list[str]:
    """Flags with a value in the spelling of keys.

    >>> _as_assignments(["model=a", "--best-of", "4", "--max-tokens=8"])
    ['model=a', 'best_of_n=4', 'max_tokens=8']
    """
    out: list[str] = []
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            key = {"best-of": "best_of_n"}.get(name, name.replace("-", "_"))
            value = value if sign else next(rest, "")
            word = f"{key}={value}"
        out.append(word)
    return out


def _value(text: str, schema: dict[str, Any]) -> Any:
    """What a text says: text where the key takes text, and else a YAML value; [a,b] is a list.

    >>> _value("-", {"type": "string"}), _value("[a, b]", {"anyOf": [{"type": "string"}, {"type": "array"}]})
    ('-', ['a', 'b'])
    >>> _value("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}), _value("08", {"type": "integer"})
    (None, '08')
    """
    kinds = {option.get("type") for option in schema.get("anyOf", [schema])}
    if (
        "string" in kinds
        and not (text.startswith("[") and "array" in kinds)
        and not (text == "null" and "null" in kinds)
    ):
        return text
    return yaml_value(text)


def yaml_value(text: str) -> Any:
    """A text as YAML, and as itself where it is none.

    >>> yaml_value("{prompt: question}"), yaml_value("[a, b]"), yaml_value("{a")
    ({'prompt': 'question'}, ['a', 'b'], '{a')
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def mapping_of(text: str) -> dict[str, str]:
    """A flag's mapping, as YAML has it; for argparse.

    >>> mapping_of("{chosen: better}")
    {'chosen': 'better'}
    """
    found = yaml_value(text)
    if isinstance(found, dict) and all(isinstance(part, str) for pair in found.items() for part in pair):
        return found
    raise argparse.ArgumentTypeError(f"{text!r} is no mapping; write {{chosen: better, rejected: worse}}")


def names_of(text: str) -> list[str]:
    """A flag's list of names, as YAML has it, or one name; for argparse.

    >>> names_of("[notes, meta]"), names_of("notes")
    (['notes', 'meta'], ['notes'])
    """
    found = yaml_value(text)
    found = [found] if isinstance(found, str) else found
    if isinstance(found, list) and found and all(isinstance(name, str) for name in found):
        return found
    raise argparse.ArgumentTypeError(f"{text!r} is no list of columns; write [notes, meta]")


def verb_help(cls: type, verb: str, meaning: str) -> str:
    """The help page of a verb: its keys with their defaults, as the docstring explains them."""
    lines = [f"rmx {verb} {' '.join(f'{item.name}=...' for item in _needed(cls))} [key=value ...]", "", meaning, ""]
    doc = inspect.cleandoc(cls.__doc__ or "")
    explained = doc.partition("Args:\n")[2].partition("\n\n")[0]
    defaults = {item.name: item for item in fields(cls)}
    for line in explained.splitlines():
        name = line.strip().partition(":")[0]
        item = defaults.get(name) if line.startswith("    ") and not line.startswith("     ") else None
        optional = item is not None and item not in _needed(cls)
        default = f"  [{shown(name, item.default)}]" if item and optional and item.default is not MISSING else ""
        lines.append(f"  {line[4:]}{default}")
    return "\n".join(lines) + "\n"


def _needed(cls: type) -> list[Any]:
    return [item for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING]


@contextmanager
def logged_to_stderr() -> Iterator[None]:
    """Show what rmx logs inside as lines on standard error, which leaves standard output to the answers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("rmx: %(message)s"))
    logger = logging.getLogger("rmx")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
