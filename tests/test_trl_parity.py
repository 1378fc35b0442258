"""The same rows, weights and order as TRL's RewardTrainer: the same losses, step by step, and the same gradients.

TRL pads chosen and rejected to the longest row of the batch and computes every prompt twice; rmx does neither.
Float32 adds in another order then, so single steps agree to about 1e-7 and 20 of them to 1e-5.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from training_bench import make_trainer

STEPS = 20


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    folder: Path = tmp_path_factory.mktemp("parity")
    common = {
        "learning_rate": 1e-4,  # at ten times that, Adam makes chaos of rounding errors
        "per_device_train_batch_size": 4,
        "max_steps": STEPS,
        "logging_steps": 1,
        "lr_scheduler_type": "linear",
        "train_sampling_strategy": "sequential",
        "max_grad_norm": 1.0,
    }
    ours = make_trainer(folder / "ours", size=4 * STEPS, **common)
    rows = [
        {
            "chosen_ids": [*map(int, c.prefix_ids), *map(int, c.suffix_ids[c.pairs[0].winner])],
            "rejected_ids": [*map(int, c.prefix_ids), *map(int, c.suffix_ids[c.pairs[0].loser])],
        }
        for c in ours.steps.comparisons
    ]
    from rmx.models import RewardModelSource

    fresh = RewardModelSource(name="tiny").load(seed=3)  # its own copy: the engine has not touched it
    theirs = RewardTrainer(
        model=fresh.model,
        args=RewardConfig(
            output_dir=str(folder / "theirs"),
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            seed=5,
            pad_token=fresh.tokenizer.pad_token,
            **common,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=copy.deepcopy(fresh.tokenizer),
    )
    return ours, theirs


def first_gradients(ours, theirs) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    ours.begin(None)
    ours.gradients(ours.steps[(0, 0)])
    mine = {name: p.grad.clone() for name, p in ours.model.named_parameters()}
    ours.model.zero_grad()
    batch = theirs._prepare_inputs(next(iter(theirs.get_train_dataloader())))
    theirs.compute_loss(theirs.model, batch).backward()
    reference = {name: p.grad.clone() for name, p in theirs.model.named_parameters()}
    theirs.model.zero_grad()
    return mine, reference


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_gradients_and_twenty_losses_are_those_of_trl(both) -> None:
    ours, theirs = both
    mine, reference = first_gradients(ours, theirs)
    assert mine.keys() == reference.keys()
    worst = max(
        float((mine[name] - reference[name]).abs().max() / reference[name].abs().max().clamp(min=1e-8)) for name in mine
    )
    assert worst <= 5e-5  # float32 sums in another order: 0.8e-5 to 1.7e-5 by CPU
    ours.train(), theirs.train()
    our_losses = [row["loss"] for row in ours.state.log_history if "pairs_per_second" in row]
    their_losses = [row["loss"] for row in theirs.state.log_history if "loss" in row]
    assert len(our_losses) == len(their_losses) == STEPS
    assert our_losses == pytest.approx(their_losses, abs=1e-5)
    assert abs(our_losses[0] - our_losses[-1]) > 0.01  # it trained: equal losses of a model at rest would mean nothing
