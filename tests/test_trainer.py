"""The optimisation loop: the same numbers for every split, the numbers of TRL, and a stop before harm is done."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from training_bench import make_trainer

from rmx.errors import ModelError, NonFiniteError
from rmx.losses import bradley_terry
from rmx.records import Pair
from rmx.training.sums import DEVICE_SUMS, SUMS, Totals, share_of_totals, step_sums

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def logged(folder: Path, phase: str = "train") -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["phase"] == phase]


def gradients(trainer, max_tokens: int) -> dict[str, torch.Tensor]:
    if not hasattr(trainer, "module"):
        trainer.begin(None)
    trainer.use_budget(max_tokens)
    trainer.model.zero_grad()
    trainer.gradients(trainer.steps[(0, 0)])
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def test_gradients_do_not_depend_on_the_token_budget(tmp_path: Path) -> None:
    """8 comparisons at once, in unequal parts, and one by one: the same up to float32's rounding of longer sums."""
    trainer = make_trainer(tmp_path)
    whole = gradients(trainer, 10**6)
    parts = len(trainer.steps[(0, 0)].batches)
    assert parts == 1
    for budget in (300, 1):
        split = gradients(trainer, budget)
        assert len(trainer.steps[(0, 0)].batches) > 1
        difference = sum(float((split[name] - gradient).square().sum()) for name, gradient in whole.items())
        assert difference**0.5 <= 3e-6 * sum(float(g.square().sum()) for g in whole.values()) ** 0.5


def test_accumulation_is_part_of_the_step(tmp_path: Path) -> None:
    """8 × 1 and 2 × 4 are the same optimizer step, so the same weights."""
    a, b = make_trainer(tmp_path / "a"), make_trainer(
        tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=4
    )  # fmt: skip
    a.train(), b.train()
    assert all(torch.equal(weights(b)[name], tensor) for name, tensor in weights(a).items())


def test_the_logged_loss_is_the_mean_over_the_windows_pairs(tmp_path: Path) -> None:
    """Learning rate 0: both steps are evaluated at the initial weights, 8 + 8 pairs logged as one window."""
    trainer = make_trainer(tmp_path, learning_rate=0.0, logging_steps=2)
    rewards = {
        c.id: r
        for c, r in zip(trainer.steps.comparisons, trainer.scorer.rewards(trainer.steps.comparisons), strict=True)
    }
    seen = [c for step in (0, 1) for c in trainer.steps[(0, step)].comparisons]
    margins = [float(rewards[c.id][c.pairs[0].winner] - rewards[c.id][c.pairs[0].loser]) for c in seen]
    trainer.train()
    (row,) = logged(tmp_path)
    assert row["train/loss"] == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 16, abs=1e-6)
    assert row["train/accuracy"] == sum(m > 0 for m in margins) / 16
    assert row["train/margin"] == pytest.approx(sum(margins) / 16, abs=1e-6)
    assert row["train/pairs"] == 16


def test_pair_weights_count_in_the_loss_and_its_divisor(tmp_path: Path) -> None:
    """Terms a (weight 3) and b (weight 1): loss (3a + b) / 4."""
    trainer = make_trainer(tmp_path, size=2, learning_rate=0.0, max_steps=1, per_device_train_batch_size=2)
    comparisons = list(trainer.steps.comparisons)
    pair = comparisons[0].pairs[0]
    comparisons[0] = dataclasses.replace(comparisons[0], pairs=(dataclasses.replace(pair, weight=3.0),))
    trainer.steps.comparisons = comparisons
    terms = []
    for c, r in zip(comparisons, trainer.scorer.rewards(comparisons), strict=True):
        terms.append(math.log1p(math.exp(-(r[c.pairs[0].winner] - r[c.pairs[0].loser]))))
    trainer.train()
    assert logged(tmp_path)[0]["train/loss"] == pytest.approx((3 * terms[0] + terms[1]) / 4, abs=1e-6)


def test_reads_from_the_device_per_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps, logged every third: one read per step and none besides, and no gather on one process."""
    trainer = make_trainer(tmp_path, max_steps=6, logging_steps=3, size=48)
    reads: list[str] = []
    inside = False

    def counting(name: str):
        original = getattr(torch.Tensor, name)

        def method(self, *args, **kwargs):
            if inside:
                reads.append(name)
            return original(self, *args, **kwargs)

        return method

    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, counting(name))
    original_step, original_log = trainer.gradients, trainer.end_step

    def step(*args, **kwargs):
        nonlocal inside
        inside = True
        return original_step(*args, **kwargs)

    def after(*args, **kwargs):
        nonlocal inside
        original_log(*args, **kwargs)
        inside = False

    monkeypatch.setattr(trainer, "gradients", step)
    monkeypatch.setattr(trainer, "end_step", after)
    trainer.train()
    # The optimizer's own step counters live on the CPU; what counts is what reads a result of the model.
    assert reads.count("tolist") == 6
    assert len(logged(tmp_path)) == 2
    assert reads.count("item") == 0, reads


def test_a_non_finite_loss_stops_before_the_optimizer_moves(tmp_path: Path) -> None:
    """A NaN margin in one row: the error names step 1 and its rows, and no weight has changed."""
    trainer = make_trainer(tmp_path)
    poisoned = trainer.steps[(0, 0)].comparisons[3]
    trainer.steps.comparisons = [
        dataclasses.replace(c, pairs=(Pair(0, 1, margin=math.nan),)) if c.id == poisoned.id else c
        for c in trainer.steps.comparisons
    ]
    before = weights(trainer)
    with pytest.raises(NonFiniteError, match="step 1: the loss or the gradient is not finite") as error:
        trainer.train()
    assert "Rows: " in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(trainer).items())


def test_a_reward_that_explodes_names_the_rows_of_its_batch(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.model.score.weight.fill_(math.inf)
    with pytest.raises(NonFiniteError, match="step 1: a reward is not finite"):
        trainer.train()


def test_running_out_of_gpu_memory_halves_the_budget_and_repeats_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attempts fail; the third, at a quarter of the budget, gives the gradients of one that never failed."""
    trainer = make_trainer(tmp_path)
    expected = gradients(trainer, 4096)
    rewards, failures = trainer.engine.rewards, 2

    def failing(batch, model=None):
        nonlocal failures
        if failures:
            failures -= 1
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return rewards(batch, model)

    monkeypatch.setattr(trainer.engine, "rewards", failing)
    got = gradients(trainer, 4096)
    assert failures == 0 and trainer.layout.max_tokens == 1024
    for name, gradient in expected.items():
        assert torch.allclose(got[name], gradient, atol=1e-7, rtol=1e-5), name


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_workers_laid_out_before_memory_ran_out_are_cut_again(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One failure halves the budget once: no later step of either epoch comes in the old, larger parts."""
    trainer = make_trainer(
        tmp_path, dataloader_num_workers=workers, max_steps=6, max_tokens_per_micro_batch=600, logging_steps=6
    )
    rewards, failures, positions = trainer.engine.rewards, 1, []

    def failing(batch, model=None):
        nonlocal failures
        if model is None:  # the count of operations, before the first step
            return rewards(batch)
        if failures:
            failures -= 1
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        positions.append(batch.input_ids.numel())
        return rewards(batch, model)

    monkeypatch.setattr(trainer.engine, "rewards", failing)
    trainer.train()
    assert failures == 0 and trainer.layout.max_tokens == 300
    assert trainer.state.global_step == 6 and len(positions) > 6 and max(positions) <= 300


def test_when_nothing_is_left_to_halve_the_error_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path)
    trainer.begin(None)

    def failing(batch, model=None):
        raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    monkeypatch.setattr(trainer.engine, "rewards", failing)
    with pytest.raises(ModelError, match=r"trainer.max_tokens_per_micro_batch=\d+ .*gradient_checkpointing"):
        gradients(trainer, 4096)


def test_evaluating_more_often_does_not_change_the_weights(tmp_path: Path) -> None:
    """With dropout on (the adapter's): the randomness of a step depends on its number alone."""
    from rmx.models import Adapter

    ends = []
    for name, every in (("never", 100), ("often", 1)):
        trainer = make_trainer(
            tmp_path / name, adapter=Adapter(kind="lora", r=4, dropout=0.3), evaluate=True, size=40, max_steps=3,
            eval_strategy="steps", eval_steps=every, learning_rate=1e-2,
        )  # fmt: skip
        trainer.train()
        ends.append(weights(trainer))
        assert len(logged(tmp_path / name, "eval")) == (1 if every == 100 else 3)  # the end is evaluated, too
    assert all(torch.equal(ends[1][name], tensor) for name, tensor in ends[0].items())


def test_step_sums_by_hand() -> None:
    """Pairs (2, 1), (0, 0), (1, 3): one right, one equal, one wrong; margins 1, 0, -2; squares 5 + 0 + 10."""
    table = make_table(3)
    winner, loser = torch.tensor([2.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 3.0])
    sums = dict(zip(DEVICE_SUMS, step_sums(winner, loser, torch.ones(3), table).tolist(), strict=True))
    assert sums == {
        "loss": 3.0, "weight": 3.0, "decided": 3.0, "correct": 1.0, "ties": 1.0, "margin": -1.0, "chosen": 3.0,
        "rejected": 4.0, "rewards": 7.0, "squares": 15.0, "pairs": 3.0, "labelled_ties": 0.0,
    }  # fmt: skip


def make_table(n: int):
    from rmx.records import PairTable

    return PairTable(
        torch.arange(n), torch.arange(n), torch.zeros(n), torch.ones(n), torch.ones(n), torch.zeros(n, dtype=torch.bool)
    )


def test_totals_survive_being_stored(tmp_path: Path) -> None:
    totals = Totals()
    totals.add([1.0] * len(SUMS))
    stored = json.loads(json.dumps([totals.values()]))
    again = Totals(share_of_totals(stored, 0, 1))
    assert again.window == totals.window and again.run == totals.run


def test_ranked_comparisons_train_on_all_their_pairs(tmp_path: Path) -> None:
    """K = 3: three pairs each, so 8 comparisons are 24 pairs."""
    trainer = make_trainer(tmp_path, responses=3, max_steps=1)
    trainer.train()
    assert logged(tmp_path)[0]["train/pairs"] == 24


def test_a_loss_of_ones_own_is_used(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        max_steps=1,
        learning_rate=0.0,
        loss=lambda w, lo, pairs: bradley_terry(w, lo, pairs) * 0 + 7.0 + 0 * w,
    )
    trainer.train()
    assert logged(tmp_path)[0]["train/loss"] == pytest.approx(7.0)
