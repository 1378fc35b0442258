"""A finished run that is given a later end goes on; one that stopped early stays stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fault_harness import needs_fork, start

import rmx

SETTINGS = [
    "model=tiny", "data.size=120", "trackers=[]", "phases=[train]", "verbose=false",
    "trainer.per_device_train_batch_size=8", "trainer.precision=fp32", "trainer.logging_steps=1",
    "trainer.eval_strategy=no",    "trainer.load_best_model_at_end=false", "trainer.save_steps=4",
]  # fmt: skip

pytestmark = [needs_fork, pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")]


def run(folder: Path, *overrides: str) -> list[int]:
    """Run into `folder`; returns the steps that have a training row."""

    def work() -> None:  # in a process of its own: the tests of two ranks fork from one that never trained
        rmx.instantiate(rmx.compose([*SETTINGS, f"output_dir={folder / 'run'}", *overrides])).run()

    child = start(work, folder / "log").wait()
    assert child.code == 0, child.text[-1500:]
    rows = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return [row["step"] for row in rows if row["phase"] == "train"]


def test_a_later_end_continues(tmp_path: Path) -> None:
    """3 steps, then max_steps=5 allowed: steps 4 and 5 are really trained, each logged once."""
    assert run(tmp_path, "trainer.max_steps=3") == [1, 2, 3]
    assert run(tmp_path, "trainer.max_steps=5", "resume_allow=[trainer.max_steps]") == [1, 2, 3, 4, 5]


def test_the_same_end_trains_nothing_more(tmp_path: Path) -> None:
    assert run(tmp_path, "trainer.max_steps=3") == [1, 2, 3]
    assert run(tmp_path, "trainer.max_steps=3") == [1, 2, 3]
