"""How exact the engine is, family by family: `python -m benchmarks.exactness` prints and writes the table.

The reference is the model's own code: each sequence alone, no padding, no rmx. Differences are the largest
over all rewards, or over all parameters' gradients of one loss, relative to the largest reference value. What is left
of float64 gradients is about 3e-8 where a model's own norms compute in float32.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.families import NOT_SHARED, SHARED, Family, comparisons
from rmx.engine import Engine

RESULTS = Path(__file__).parent / "results" / "exactness.json"


class Difference(NamedTuple):
    """Largest relative differences between the engine and each sequence run alone."""

    encoding: str
    reward: float
    gradient: float


def alone(model: Any, rows: list[Any]) -> torch.Tensor:
    """Rewards of each sequence of `rows` through transformers' own forward."""
    logits = [
        model(input_ids=torch.tensor([[*row.prefix_ids, *suffix]])).logits[0, 0]
        for row in rows
        for suffix in row.suffix_ids
    ]
    return torch.stack(logits)


def gradients(model: Any, rewards: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of a loss that weighs every reward differently."""
    model.zero_grad()
    weights = torch.linspace(-1, 1.5, len(rewards), dtype=rewards.dtype)
    (weights * torch.tanh(rewards)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@contextmanager
def float64_softmax() -> Iterator[None]:
    """Let eager attention's `softmax(..., dtype=float32)` stay in float64, as the rest of a float64 model does."""
    softmax = torch.nn.functional.softmax

    def keep(x: torch.Tensor, dim: int | None = None, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
        return softmax(x, dim=dim, dtype=x.dtype if x.dtype == torch.float64 else dtype, **kwargs)

    torch.nn.functional.softmax = keep
    try:
        yield
    finally:
        torch.nn.functional.softmax = softmax


@float64_softmax()
def difference(family: Family, dtype: torch.dtype, encoding: Any = "auto") -> Difference:
    """Run `family` both ways."""
    rows = comparisons()
    model = family.build(dtype)
    expected = alone(model, rows)
    expected_gradients = gradients(model, expected)
    engine = Engine(model, encoding=encoding)
    rewards = engine.rewards(engine.collate(rows))
    found = gradients(model, rewards)
    assert found.keys() == expected_gradients.keys()
    largest = max(g.abs().max() for g in expected_gradients.values())
    return Difference(
        engine.encoding,
        ((rewards - expected).abs().max() / expected.abs().max()).item(),
        max(((found[n] - g).abs().max() / largest).item() for n, g in expected_gradients.items()),
    )


def main() -> None:
    table = {}
    print(f"{'family':34} {'encoding':9} {'float64 reward':>14} {'gradient':>9} {'float32 reward':>15} {'gradient':>9}")
    for family in SHARED + NOT_SHARED:
        double, single = difference(family, torch.float64), difference(family, torch.float32)
        numbers = double[1:] + single[1:]
        print(f"{family.name:34} {single.encoding:9} " + "{:14.1e} {:9.1e} {:15.1e} {:9.1e}".format(*numbers))
        keys = ("reward_float64", "gradient_float64", "reward_float32", "gradient_float32")
        table[family.name] = {"encoding": single.encoding, **dict(zip(keys, numbers, strict=True))}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")
    print(f"wrote {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    main()
