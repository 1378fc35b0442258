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


@dataclass(frozen=True)
class Dimension:
    """One override key that varies: a choice of texts, or numbers from `low` to `high`, both included.

    >>> Dimension("seed", low=1, high=7, step=3, integer=True).grid()
    [1, 4, 7]
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
        if not self.low < self.high:
            raise ConfigError(f"{self.name}: the interval from {self.low} to {self.high} is empty")
        if self.log and self.low <= 0:
            raise ConfigError(f"{self.name}: a logarithmic interval starts above 0, not at {self.low}")

    @property
    def kind(self) -> str:
        """What the values are: "choice", "int" or "float"."""
        return "choice" if self.choices else "int" if self.integer else "float"

    def grid(self) -> list[ParamValue] | None:
        """Return all values, or None when there is a continuum of them."""
        if self.choices:
            return list(self.choices)
        if self.step is None:
            return list(range(int(self.low), int(self.high) + 1)) if self.integer else None
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        numbers = [self.low + index * self.step for index in range(count)]
        return [int(number) for number in numbers] if self.integer else list(numbers)

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
        lengths = []
        for dimension in self.dimensions:
            values = dimension.grid()
            if values is None:
                return None
            lengths.append(len(values))
        return math.prod(lengths)

    def enumerate(self) -> Iterator[Params]:
        """Yield every combination; the last dimension varies fastest, as in Hydra's own multirun.

        Raises:
            ConfigError: a dimension is continuous, or there are more than 100 000 combinations.
        """
        values = []
        for dimension in self.dimensions:
            listed = dimension.grid()
            if listed is None:
                raise ConfigError(
                    f"{dimension.name}: a grid needs listed values, not an interval; list them "
                    f"({dimension.name}=a,b,c) or search with hydra.sweeper.n_trials=20"
                )
            values.append(listed)
        if not self.enumerable:
            raise ConfigError(
                f"the grid has {self.size} combinations, more than {_ENUMERATION_LIMIT}; list fewer values or search "
                "with hydra.sweeper.n_trials=20"
            )
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
