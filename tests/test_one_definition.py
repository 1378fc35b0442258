"""One number, one definition: on the same pairs, training's sums, evaluation, sources and predictions agree.

`pair_metrics` defines every number. Sums add in another order, so they agree to the rounding of float64: 1e-12 of the
number, and 1e-9 for `reward_std`, a difference of squares. The others agree exactly.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_bench import make_trainer

from rmx.losses import bradley_terry
from rmx.metrics import by_source, pair_metrics
from rmx.records import EncodedComparison, Pair, PairTable
from rmx.results.predictions import read_predictions
from rmx.scoring.evaluation import evaluate_pairs, predictions_paths, write_predictions
from rmx.training.sums import HOST_SUMS, SUMS, Totals, means, share_of_totals, step_sums

rewards = st.floats(-20, 20, width=32)
weights = st.one_of(st.just(0.0), st.floats(0.125, 8, width=32))
pair = st.tuples(rewards, rewards, weights, st.floats(0, 1, width=32), st.booleans(), st.booleans())


def table(rows: list[tuple[Any, ...]]) -> tuple[torch.Tensor, torch.Tensor, PairTable]:
    """Winner's and loser's rewards; the fifth value makes a labelled tie, the last equal rewards."""
    winner = torch.tensor([row[0] for row in rows])
    loser = torch.tensor([row[0] if row[5] else row[1] for row in rows])
    index = torch.arange(len(rows))
    columns = [torch.tensor([float(row[k]) for row in rows]) for k in (2, 3)]
    tie = torch.tensor([row[4] for row in rows])
    target = torch.where(tie, torch.tensor(0.5), columns[1])
    return winner, loser, PairTable(index, index, torch.zeros(len(rows)), target, columns[0], tie)


@settings(max_examples=200, deadline=None)
@given(st.lists(pair, min_size=1, max_size=12), st.integers(1, 4), st.booleans())
def test_sums_of_any_split_are_the_metrics_of_all_pairs(
    rows: list[tuple[Any, ...]], size: int, two_ranks: bool
) -> None:
    """Micro-batches of `size` pairs, dealt out to one rank or two."""
    ranks = [Totals(), Totals()]
    parts = [table(rows[start : start + size]) for start in range(0, len(rows), size)]
    for place, (winner, loser, pairs) in enumerate(parts):
        terms = bradley_terry(winner, loser, pairs)
        ranks[place % 2 if two_ranks else 0].add([*step_sums(winner, loser, terms, pairs).tolist(), 3, 2, 7, 9])
    found = means(share_of_totals([rank.values() for rank in ranks], 0, 1)[: len(SUMS)])
    work = {name: found.pop(name) / len(parts) for name in HOST_SUMS}
    assert work == {"tokens": 3, "unique_tokens": 2, "flops": 7, "padded_flops": 9}
    winner, loser, pairs = table(rows)
    if not pairs.weight.sum():
        assert found == {"pairs": len(rows), "labelled_ties": int(pairs.tie.sum())}
        return
    terms = np.concatenate([bradley_terry(*part).numpy() for part in parts])
    expected = pair_metrics(winner.numpy(), loser.numpy(), tie=pairs.tie, weight=pairs.weight, loss=terms)
    assert found.keys() == expected.keys() - {"accuracy_low", "accuracy_high", "accuracy_ties_half"}
    for name, value in found.items():
        exact = {"reward_std": 1e-6} if name == "reward_std" else {}
        assert value == pytest.approx(expected[name], rel=1e-9, abs=exact.get(name, 1e-12)), name


def odd_rows(comparisons: list[EncodedComparison]) -> list[EncodedComparison]:
    """Two sources; weights of which float32 has no exact value, weight 0, soft labels, and labelled ties."""
    changed = []
    for place, comparison in enumerate(comparisons):
        first = comparison.pairs[0]
        new = (
            Pair(first.winner, first.loser, weight=0.1 + 0.3 * (place % 4), target=0.75),
            Pair(first.winner, first.loser, weight=1.0),
            Pair(first.winner, first.loser, target=0.5, weight=0.7, tie=True),
            Pair(first.loser, first.winner, weight=0.0 if place == 2 else 2.5),
        )[place % 4]
        changed.append(dataclasses.replace(comparison, pairs=(new,), source=("books", "web")[place % 2]))
    return changed


def test_training_evaluation_sources_and_predictions_agree(tmp_path: Path) -> None:
    """At rate 0 a step's rewards are those of evaluation; micro-batches of a few comparisons each."""
    plain = make_trainer(tmp_path / "plain")
    rows = odd_rows(list(plain.steps.comparisons))
    sets = {"first": rows[:10], "second": rows[10:]}
    arguments: dict[str, Any] = {"learning_rate": 0.0, "per_device_train_batch_size": 24, "max_steps": 1}
    loop = make_trainer(tmp_path / "run", rows=rows, max_tokens_per_micro_batch=400, **arguments)
    loop.train()
    (line,) = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    done = evaluate_pairs(loop.scorer, sets, bradley_terry)

    paths = predictions_paths(done, tmp_path)
    write_predictions(done, paths)
    read = [read_predictions(path, []) for path in paths.values()]
    names = ("chosen", "rejected", "tie", "weight", "loss")
    columns = {name: np.concatenate([getattr(one, name) for one in read]) for name in names}
    sources = [source for one in read for source in one.source]

    # From the files, exactly: both sets together, each alone, and each source.
    metrics = done.metrics["eval"]
    defined = pair_metrics(**columns)
    for name in defined.keys() - {"accuracy_low", "accuracy_high"}:  # those know which pairs share a comparison
        assert metrics[name] == defined[name], name
    for name, one in zip(sets, read, strict=True):
        alone = pair_metrics(one.chosen, one.rejected, tie=one.tie, weight=one.weight, loss=one.loss)
        for key in ("accuracy", "loss", "margin", "tie_rate", "reward_std"):
            assert done.metrics[f"eval_{name}"][key] == alone[key]
    for name, values in by_source(sources, **columns).items():
        assert metrics[f"source/{name}/accuracy"] == values["accuracy"]

    # Training: float32 rewards of the same model, added up in another order.
    for name in ("loss", "accuracy", "tie_rate", "margin", "chosen_reward", "rejected_reward", "reward_std"):
        assert line[f"train/{name}"] == pytest.approx(defined[name], rel=2e-5, abs=2e-6), name
    assert (line["train/pairs"], line["train/labelled_ties"]) == (24, 6)


def test_a_step_of_weight_0_moves_nothing_and_has_no_loss(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path / "plain")
    rows = [dataclasses.replace(c, pairs=(Pair(0, 1, weight=0.0),)) for c in plain.steps.comparisons]
    loop = make_trainer(tmp_path / "run", rows=rows, max_steps=1)
    before = [p.detach().clone() for p in loop.model.parameters()]
    loop.train()
    (line,) = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert "train/loss" not in line and "train/accuracy" not in line
    assert all(torch.equal(a, b) for a, b in zip(before, loop.model.parameters(), strict=True))


def test_sums_of_an_older_checkpoint_are_read() -> None:
    """Window and run of 0.1.0: 3 pairs, of which 1 was a labelled tie."""
    old = [1.5, 3.0, 1.0, 0.0, 2.0, 4.0, 5.0, 1.0, 9.0, 3.0, 40.0]
    new = dict(zip(SUMS, share_of_totals([old * 2], 0, 1)[len(SUMS) :], strict=True))
    assert new == {
        "loss": 1.5, "weight": 3.0, "decided": 2.0, "correct": 1.0, "ties": 0.0, "margin": 4.0, "chosen": 5.0,
        "rejected": 1.0, "rewards": 6.0, "squares": 9.0, "pairs": 3.0, "labelled_ties": 1.0, "tokens": 40.0,
        "unique_tokens": 0.0, "flops": 0.0, "padded_flops": 0.0,
    }  # fmt: skip


def test_sums_of_a_checkpoint_without_work_are_read() -> None:
    old = [float(number) for number in range(13)]
    assert share_of_totals([old * 2], 0, 1) == [*old, 0.0, 0.0, 0.0] * 2
