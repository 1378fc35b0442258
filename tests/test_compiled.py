"""Compiled layers compute what they computed before, in few graphs whatever the rows; and a wish without effect stops.

The backend `eager` traces the layers and runs the traced graphs as they are: the numbers are the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CONFIGS
from torch._dynamo.utils import counters
from training_bench import make_trainer
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, TrainingArguments

from rmx.engine import Engine
from rmx.errors import ModelError
from rmx.records import Batch, EncodedComparison, Pair
from rmx.training import compiled
from rmx.training.arguments import trainer_settings
from rmx.training.compiled import compile_layers, graphs, named_limit, require_graphs
from rmx.training.token_budget import checkpoint_activations


class AddsOne(torch.nn.Module):
    """Compiled anew for every number of dimensions."""

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + 1


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Forget what other tests have compiled, and take the limits back afterwards."""
    torch.compiler.reset()
    counters.clear()
    names = ("recompile_limit", "fail_on_recompile_limit_hit")
    with torch.compiler.config.patch({name: getattr(torch.compiler.config, name) for name in names}):
        yield


def arguments(**more: Any) -> TrainingArguments:
    """Naming a backend turns compiling on, as in transformers."""
    return TrainingArguments("run", use_cpu=True, report_to="none", **more)


ASKED = {"torch_compile": True, "torch_compile_backend": "eager"}


def model_of(family: str) -> Any:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**{**CONFIGS[family], "num_labels": 1, "pad_token_id": 0})
    return AutoModelForSequenceClassification.from_config(config)


def batches(engine: Engine, count: int) -> list[Batch]:
    """Rows of 1 to 4 comparisons with 2 or 3 responses each: hardly two of them have the same length."""
    generator = torch.Generator().manual_seed(1)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    def ids(length: int) -> list[int]:
        return torch.randint(3, 200, (length,), generator=generator).tolist()

    def comparison() -> EncodedComparison:
        return EncodedComparison(
            "", "", ids(number(3, 30)), tuple(ids(number(1, 20)) for _ in range(number(2, 4))), (Pair(0, 1),)
        )

    return [engine.collate([comparison() for _ in range(number(1, 5))]) for _ in range(count)]


def results(engine: Engine, rows: list[Batch]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rewards of each batch, and all gradients of a loss that weighs every reward differently."""
    found = []
    for batch in rows:
        engine.model.zero_grad()
        rewards = engine.rewards(batch)
        (rewards * torch.linspace(-1, 1.5, len(rewards))).sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in engine.model.parameters() if p.grad is not None])
        found.append((rewards.detach(), gradients))
    return found


TABLE = list(itertools.product(["llama", "gemma3_text"], [False, True], ["auto", "separate"]))


@pytest.mark.parametrize(
    ("family", "again", "encoding"),
    [TABLE[0], *(pytest.param(*cell, marks=pytest.mark.slow) for cell in TABLE[1:])],
    ids=str,
)
def test_many_lengths_share_few_graphs(family: str, again: bool, encoding: Any, tmp_path: Path) -> None:
    """Twelve rows, all of other shapes: what was compiled for the first two of them serves the others."""
    model = model_of(family).train()
    settings = trainer_settings(gradient_checkpointing=again, use_cpu=True)
    checkpoint_activations(model, settings.training_arguments(tmp_path, 0, evaluates=False))
    engine = Engine(model, encoding=encoding)
    assert engine.encoding == {"auto": "shared", "separate": "flat"}[encoding]
    rows = batches(engine, 12)
    expected = results(engine, rows)
    compile_layers(model, arguments(**ASKED))
    found = results(engine, rows[:2])
    first = graphs()
    found += results(engine, rows[2:])
    assert 0 < first == graphs() <= 24
    for (rewards, gradients), (wanted, whole) in zip(found, expected, strict=True):
        assert torch.equal(rewards, wanted)
        assert torch.equal(gradients, whole)


def test_a_compiled_run_is_the_run(tmp_path: Path) -> None:
    runs = [make_trainer(tmp_path / "plain"), make_trainer(tmp_path / "compiled", **ASKED)]
    for loop in runs:
        loop.train()
    assert graphs() > 0
    for one, other in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_is_not_asked_for_is_not_compiled() -> None:
    model = model_of("llama")
    compile_layers(model, arguments())
    require_graphs(arguments())
    assert graphs() == 0 and all(getattr(m, "_compiled_call_impl", None) is None for m in model.modules())


def test_a_wish_without_effect_stops_the_run() -> None:
    with pytest.raises(ModelError, match=r"trainer\.torch_compile: torch could compile nothing of this model"):
        require_graphs(arguments(**ASKED))
    with pytest.raises(ModelError, match=r"trainer\.torch_compile: the model has no list of layers"):
        compile_layers(torch.nn.Linear(2, 2), arguments(**ASKED))


def test_a_run_that_compiles_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to itself, torch would go on without compiling, after a line in its log."""
    monkeypatch.setattr(compiled, "MOST", 2)
    model = torch.nn.Sequential(torch.nn.ModuleList([AddsOne()]))
    compile_layers(model, arguments(**ASKED))
    with (
        pytest.raises(ModelError, match="was compiled 2 times, once for each of too many kinds of rows"),
        named_limit(),
    ):
        for dims in range(1, 5):
            model[0][0](torch.ones([2] * dims))
