"""One `key=value` of the command line at a time: what it says, what a sweep stands for, what is wrong with it."""

from __future__ import annotations

from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from rmx.values import Mistake

__all__ = [
    "absent", "into_nothing", "is_hydra", "lenient", "option_values", "override_value", "parse_override",
    "sweep_values",
]  # fmt: skip

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-/.+%@")


def parse_override(text: str, loader: ConfigLoader | None = None) -> Override | Mistake:
    """Return the parsed override, or what is wrong with its syntax; `loader` knows the options that glob(*) means.

    >>> str(parse_override("reprot"))
    "'reprot' is not key=value"
    >>> str(parse_override("data.columns={prompt:"))
    "data.columns: '{prompt:' cannot be read, it has no end; spaces end a word of the command line; \
put quotes around all of it: 'data.columns={prompt: ...'"
    """
    try:
        return OverridesParser.create(loader).parse_overrides([text])[0]
    except OverrideParseException:
        key, equals, value = text.partition("=")
        if not equals:
            return Mistake("", f"'{text}' is not key=value")
        if value.startswith(("{", "[")) and value[-1] not in "}]":
            advice = f"spaces end a word of the command line; put quotes around all of it: '{key}={value} ...'"
            return Mistake(key, f"{value!r} cannot be read, it has no end; {advice}")
        advice = "quote special characters twice"
        return Mistake(key, f"{value!r} cannot be read; {advice}: '{key}=\"...\"'")


def is_hydra(override: Override) -> bool:
    """Tell whether the override is for Hydra itself: hydra.sweeper.x, hydra/launcher, ..."""
    return override.key_or_group.startswith(("hydra.", "hydra/"))


def lenient(override: Override) -> str:
    """Return an override of a value so that Hydra adds an unknown key instead of stopping at it.

    >>> lenient(parse_override("trainer.adam_beta2=0.95"))
    '++trainer.adam_beta2=0.95'
    """
    line = str(override.input_line)
    fixed = is_hydra(override) or override.package is not None or override.is_delete() or "/" in override.key_or_group
    return line if fixed else "++" + line.lstrip("+")


def option_values(override: Override) -> list[Any]:
    """Return the options that a group override names: one, those of a list, or those of a sweep."""
    if not override.is_sweep_override():
        value = override.value()
        return list(value) if isinstance(value, list) else [value]
    values: list[Any] = []
    for line in sweep_values(override):
        text = line.partition("=")[2]
        values += [item.strip() for item in text[1:-1].split(",")] if text.startswith("[") else [text.strip("'\"")]
    return values


def sweep_values(override: Override) -> list[str]:
    """Return the single overrides that a sweep stands for; an interval is represented by its ends.

    >>> sweep_values(parse_override("peft=none,lora"))
    ['peft=none', 'peft=lora']
    """
    line = str(override.input_line)
    prefix, sweep = line.partition("=")[0], override.value() if override.is_sweep_override() else None
    if override.is_choice_sweep() or override.is_range_sweep() or isinstance(sweep, Glob):
        return [f"{prefix}={value}" for value in override.sweep_string_iterator()]
    if isinstance(sweep, IntervalSweep):
        return [f"{prefix}={sweep.start}", f"{prefix}={sweep.end}"]
    return [] if override.is_sweep_override() else [line]


def absent(override: Override, cfg: DictConfig) -> bool:
    """Tell whether no YAML of this configuration has the key."""
    nothing = object()
    found = OmegaConf.select(cfg, override.key_or_group, default=nothing, throw_on_missing=False)
    return not is_hydra(override) and found is nothing


def into_nothing(override: Override, cfg: DictConfig) -> list[Mistake]:
    """Notice `peft.r=8` while peft is null: there is nothing to set it in. The useless node is taken out again."""
    group, _, rest = override.key_or_group.partition(".")
    node = cfg.get(group) if group == "peft" and rest else None
    if not isinstance(node, DictConfig) or "_target_" in node:
        return []
    cfg[group] = None
    return [Mistake(override.key_or_group, f"{group} is null here: choose an option first, for example {group}=lora")]


def override_value(text: str) -> str:
    """Return text as one value of Hydra's override grammar.

    >>> override_value("/data/a b"), override_value("outputs/x")
    ("'/data/a b'", 'outputs/x')
    """
    if text and all(character in _PLAIN for character in text):
        return text
    return "'" + text.replace("\\'", "\\\\'").replace("'", "\\'") + "'"
