"""The order of training: a pure function of (seed, epoch, step, ranks)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rmx.engine import Collator
from rmx.records import EncodedComparison, Pair
from rmx.training.steps import MicroBatches, Step, StepDataset, StepLoader


def rows(lengths: list[int], weight: float = 1.0) -> list[EncodedComparison]:
    return [
        EncodedComparison(str(i), "s", list(range(n)), ([1], [2]), (Pair(0, 1, weight=weight),))
        for i, n in enumerate(lengths)
    ]


def dataset(n: int = 10, per_rank: int = 2, **options) -> StepDataset:
    per_step = per_rank * options.get("ranks", 1)
    return StepDataset(rows([i + 1 for i in range(n)]), per_step=per_step, collate=lambda c: [], seed=7, **options)


def ids(steps: list[Step]) -> list[list[str]]:
    return [[c.id for c in step.comparisons] for step in steps]


def test_an_epoch_visits_every_comparison_once_and_the_next_in_another_order() -> None:
    """10 comparisons in steps of 4: 4 + 4 + 2; both epochs hold 0..9."""
    data = dataset(per_rank=4)
    epochs = [[data[(epoch, step)] for step in range(len(data))] for epoch in (0, 1)]
    assert [len(step.comparisons) for step in epochs[0]] == [4, 4, 2]
    seen = [[i for step in ids(epoch) for i in step] for epoch in epochs]
    assert sorted(seen[0]) == sorted(seen[1]) == sorted(map(str, range(10)))
    assert seen[0] != seen[1]
    assert [step.index for step in epochs[1]] == [3, 4, 5]


def test_drop_last_leaves_the_ragged_step_out() -> None:
    assert len(dataset(per_rank=4, drop_last=True)) == 2


def test_without_shuffling_the_order_is_the_one_given() -> None:
    data = dataset(shuffle=False)
    assert ids([data[(5, 0)], data[(5, 1)]]) == [["0", "1"], ["2", "3"]]


def test_ranks_share_each_global_step_and_know_its_pair_weight() -> None:
    """3 ranks × 2: every global step of 6 is split; the last has 10 - 6 = 4 comparisons, weight 4 on each rank."""
    parts = [dataset(ranks=3, rank=r) for r in range(3)]
    alone = dataset(per_rank=6)
    for step in (0, 1):
        together = sorted(i for part in parts for i in ids([part[(0, step)]])[0])
        assert together == sorted(ids([alone[(0, step)]])[0])
        assert {part[(0, step)].pair_weight for part in parts} == {alone[(0, step)].pair_weight}


def test_longest_goes_first_to_the_least_loaded_rank() -> None:
    """Token loads 12, 7, 6, 5 (prefix + 2): 12 | 7 → then 6 joins 7 (13), 5 joins 12 (17)."""
    data = StepDataset(rows([10, 5, 4, 3]), per_step=4, collate=lambda c: [], seed=0, ranks=2, shuffle=False)
    assert data.share([0, 1, 2, 3]) == [[0, 3], [1, 2]]


def test_a_rank_without_work_gets_a_filler() -> None:
    """1 comparison for 2 ranks: the second rank computes it too, but its gradient will count zero."""
    first, second = (dataset(n=1, ranks=2, rank=r)[(0, 0)] for r in (0, 1))
    assert not first.is_filler and second.is_filler
    assert first.pair_weight == second.pair_weight == 1.0


def test_the_loader_starts_at_any_step_of_any_epoch() -> None:
    """What a resume does: two steps of epoch 3 are done."""
    loader = StepLoader(dataset())
    straight = ids(list(loader.epoch(3)))
    assert ids(list(loader.epoch(3, first=2))) == straight[2:]
    assert len(straight) == 5 and ids(list(loader.epoch(3))) == straight


@pytest.mark.parametrize("how", ["fork", "forkserver", "spawn"])
def test_worker_processes_see_the_same_steps(how: str) -> None:
    """Also those that are sent their data set as a pickle; batches are laid out by the workers."""
    alone = list(StepLoader(dataset_for_workers()).epoch(1))
    steps = list(StepLoader(dataset_for_workers(), num_workers=2, multiprocessing_context=how).epoch(1))
    assert ids(steps) == ids(alone)
    for step, other in zip(steps, alone, strict=True):
        assert step.collate == other.collate
        assert [batch.input_ids.tolist() for batch in step.batches] == [b.input_ids.tolist() for b in other.batches]


def dataset_for_workers() -> StepDataset:
    return StepDataset(rows([1] * 10), per_step=2, collate=MicroBatches(Collator("shared"), 4), seed=7)


@pytest.mark.parametrize(
    "how", ["fork", *(pytest.param(how, marks=pytest.mark.slow) for how in ("forkserver", "spawn"))]
)
def test_workers_that_are_left_at_the_end_do_not_hold_the_process_up(how: str, tmp_path: Path) -> None:
    """A worker is alive when the parent ends: it has survived a SIGTERM of its group, and obeys its parent now."""
    script = tmp_path / "job.py"
    script.write_text(
        f"""
import multiprocessing, os, signal, time
from test_steps import dataset
from transformers import TrainingArguments
from rmx.training.steps import make_loader

if __name__ == "__main__":
    args = TrainingArguments("run", use_cpu=True, dataloader_num_workers=1, dataloader_persistent_workers=True)
    args.dataloader_multiprocessing_context = {how!r}
    data = dataset()
    data.collate = list  # can be pickled
    steps = make_loader(data, args).epoch(0)
    next(steps)
    (worker,) = [child for child in multiprocessing.active_children() if child.daemon]
    os.kill(worker.pid, signal.SIGTERM)
    time.sleep(0.2)
    print("alive", worker.is_alive(), len(list(steps)))
"""
    )
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parent}"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive True 4\n"), done.stderr
