"""Command-line words → what is fixed and what varies."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from rmx.errors import ConfigError
from rmx.sweep import Dimension

__all__ = ["split_overrides"]


def split_overrides(words: Sequence[str], parser: OverridesParser) -> tuple[list[str], tuple[Dimension, ...]]:
    """Return the overrides that every job gets and the dimensions of those that vary.

    `a,b` and `choice(a,b)` are choices, `range(1,10,3)` and `int(interval(1,9))` whole numbers, `interval(0,1)` real
    ones; `tag(log, ...)` makes an interval logarithmic.

    Raises:
        ConfigError: a key that the sweep itself sets, or two values for one key.
    """
    fixed: list[str] = []
    dimensions: dict[str, Dimension] = {}
    for word, override in zip(words, parser.parse_overrides(list(words)), strict=True):
        key = override.get_key_element()
        if key.lstrip("+~") == "output_dir":
            raise ConfigError(
                f"output_dir: {word!r} cannot hold for every job of a sweep; each has a folder of its own in "
                "hydra.sweep.dir (or hydra.sweeper.name=<name>)"
            )
        if not override.is_sweep_override():
            fixed.append(word)
        elif key in dimensions:
            raise ConfigError(f"{key}: given twice with several values; give all of them at once: {key}=a,b,c")
        else:
            dimensions[key] = dimension(key, override)
    return fixed, tuple(dimensions.values())


def dimension(key: str, override: Override) -> Dimension:
    """Return one varying override as a dimension of the space."""
    value = override.value()
    tags = value.tags if isinstance(value, ChoiceSweep | IntervalSweep | RangeSweep) else set()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        if low is None or high is None:
            raise ConfigError(f"{key}: an interval needs two ends, as in interval(1e-6,1e-3)")
        return Dimension(key, low=low, high=high, log="log" in tags, integer=isinstance(low, int))
    if isinstance(value, RangeSweep) and not value.shuffle:
        values = list(value.range())
        if len(values) > 1 and values[1] > values[0]:
            whole = all(isinstance(item, int) for item in values)
            return Dimension(key, low=values[0], high=values[-1], step=values[1] - values[0], integer=whole)
    choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise ConfigError(f"{key}: {override.input_line!r} names no value")
    return Dimension(key, choices=choices)
