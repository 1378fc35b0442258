"""The space a sweep searches: named dimensions, each with a list of values or an interval."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rmx.errors import ConfigError

__all__ = ["Dimension", "ParamValue", "Params", "SearchSpace"]

ParamValue = str | int | float
Params = dict[str, ParamValue]

_ENUMERATION_LIMIT = 100_000  # combinations; beyond it a grid is a mistake and a search need not list them
_LARGEST_INTEGER = 2**53  # samplers compute in double precision, which holds every whole number up to here


@dataclass(frozen=True)
class Dimension:
    """One override key that varies: a choice of texts, or numbers from `low` to `high`, both included.

    >>> Dimension("seed", low=1, high=7, step=3, integer=True).grid()
    range(1, 8, 3)
    >>> Dimension("peft", choices=("none", "lora")).grid()
    ['none', 'lora']
    """

    name: str  # the key as on the command line, such as trainer.learning_rate or +peft@adapter
    choices: tuple[str, ...] = ()  # values as they stand on the command line
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    integer: bool = False

    def __post_init__(self) -> None:
        if self.choices:
            return
        ends = f"{self.name}: the interval from {self.low} to {self.high}"
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ConfigError(f"{ends} has no finite ends; give two numbers, as in interval(1e-6,1e-3)")
        if not self.low < self.high:
            raise ConfigError(f"{ends} is empty; give the smaller end first")
        if self.integer and max(abs(self.low), abs(self.high)) > _LARGEST_INTEGER:
            raise ConfigError(f"{ends} goes beyond 2^53; whole numbers that far out cannot be told apart")
        if self.log and self.low <= 0:
            raise ConfigError(f"{self.name}: a logarithmic interval starts above 0, not at {self.low}")
        if self.step is not None and not (math.isfinite(self.step) and 0 < self.step <= self.high - self.low):
            raise ConfigError(f"{ends} has the step {self.step}; give one above 0 that fits into it")
        if self.log and self.step is not None:
            raise ConfigError(f"{self.name}: a logarithmic interval has no step; leave out the step or the log")

    @property
    def kind(self) -> str:
        """What the values are: "choice", "int" or "float"."""
        return "choice" if self.choices else "int" if self.integer else "float"

    @property
    def count(self) -> int | None:
        """How many values there are, or None for a continuum; none is listed for it."""
        if self.choices:
            return len(self.choices)
        if self.step is None:
            return int(self.high) - int(self.low) + 1 if self.integer else None
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def grid(self) -> Sequence[ParamValue] | None:
        """Return all values, or None when there is a continuum of them; of whole numbers a range, never a list.

        >>> Dimension("seed", low=0, high=4294967295, integer=True).grid()
        range(0, 4294967296)
        """
        if self.choices or self.count is None:
            return list(self.choices) or None
        if self.integer:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        return [self.low + index * float(self.step or 1) for index in range(self.count)]

    def describe(self) -> dict[str, Any]:
        """Return the entry of sweep.json's `parameters`."""
        if self.choices:
            return {"name": self.name, "kind": "choice", "values": list(self.choices)}
        low, high = (int(self.low), int(self.high)) if self.integer else (self.low, self.high)
        return {"name": self.name, "kind": self.kind, "low": low, "high": high, "step": self.step, "log": self.log}


@dataclass(frozen=True)
class SearchSpace:
    """All dimensions; `expansions` are values that stand for several overrides (a whole candidate of a sweep).

    >>> space = SearchSpace((Dimension("peft", choices=("none", "lora")), Dimension("seed", choices=("1",))))
    >>> space.overrides({"peft": "lora", "seed": "1"})
    ['peft=lora', 'seed=1']
    """

    dimensions: tuple[Dimension, ...] = ()
    expansions: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    @property
    def size(self) -> int | None:
        """Number of combinations, or None for a continuum."""
        counts = [dimension.count for dimension in self.dimensions]
        return None if None in counts else math.prod(count or 1 for count in counts)

    def enumerate(self) -> Iterator[Params]:
        """Yield every combination; the last dimension varies fastest, as in Hydra's own multirun.

        Raises:
            ConfigError: a dimension is continuous, or there are more than 100 000 combinations.
        """
        for dimension in self.dimensions:
            if dimension.count is None:
                raise ConfigError(
                    f"{dimension.name}: a grid needs listed values, not an interval; list them "
                    f"({dimension.name}=a,b,c) or search with hydra.sweeper.n_trials=20"
                )
        if not self.enumerable:
            raise ConfigError(
                f"the grid has {self.size} combinations, more than {_ENUMERATION_LIMIT}; list fewer values or search "
                "with hydra.sweeper.n_trials=20"
            )
        values = [dimension.grid() or () for dimension in self.dimensions]
        names = [dimension.name for dimension in self.dimensions]
        for combination in itertools.product(*values):
            yield dict(zip(names, combination, strict=True))

    @property
    def enumerable(self) -> bool:
        """Whether listing all combinations is possible and sensible."""
        return self.size is not None and self.size <= _ENUMERATION_LIMIT

    def overrides(self, params: Mapping[str, ParamValue]) -> list[str]:
        """Return the command-line words of one point."""
        words: list[str] = []
        for dimension in self.dimensions:
            value = params[dimension.name]
            expansion = self.expansions.get(dimension.name)
            words += list(expansion[str(value)]) if expansion else [f"{dimension.name}={_text(value)}"]
        return words


def _text(value: ParamValue) -> str:
    return value if isinstance(value, str) else repr(value)
