"""Two processes are one: the same weights, metrics and predictions as a single one with the same global step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

TESTS = Path(__file__).parent


def train(folder: Path, *, ranks: int, device_batch: int, size: int) -> Path:
    job = [str(TESTS / "ranks_job.py"), str(folder), str(device_batch), str(size)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        (launch if ranks > 1 else [sys.executable]) + job, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """45 comparisons: 34 to train on (global steps 8, 8, 8, 8, 2 of the first epoch), 11 to evaluate on."""
    parent = tmp_path_factory.mktemp("ranks")
    return (
        train(parent / "one", ranks=1, device_batch=8, size=46),
        train(parent / "two", ranks=2, device_batch=4, size=46),
    )


def test_weights_are_the_same(both: tuple[Path, Path]) -> None:
    """Plain gradient descent, 4 steps: the sums of gradients differ by float32 rounding only."""
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in both)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert (tensor - two[name]).abs().max() <= 1e-6, name


def test_training_metrics_count_every_pair_once(both: tuple[Path, Path]) -> None:
    one, two = ([r for r in rows(f, "metrics.jsonl") if r["phase"] == "train"] for f in both)
    assert [row["train/pairs"] for row in one] == [row["train/pairs"] for row in two]
    for a, b in zip(one, two, strict=True):
        assert b["train/loss"] == pytest.approx(a["train/loss"], abs=1e-5)
        assert b["train/accuracy"] == a["train/accuracy"]


def test_predictions_are_complete_and_in_order(both: tuple[Path, Path]) -> None:
    one, two = (rows(folder, "generated_predictions.jsonl") for folder in both)
    assert [row["id"] for row in one] == [row["id"] for row in two]
    assert [row["chosen"] for row in two] == pytest.approx([row["chosen"] for row in one], abs=1e-4)
