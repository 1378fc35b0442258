"""A command of TRL and the command that `rmx import` makes of it train the same model."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_rewards import save_reward_model

from rmx.cli.importing import imported

ROOT = Path(__file__).parents[2]
ROWS = 24


def conversation(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def run(words: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_losses_and_rates_are_those_of_the_command_it_came_from(tmp_path: Path) -> None:
    """Every step holds all rows, so the order that each program draws them in cannot matter.

    TRL's defaults are three epochs, here of one step each, on a line down from the rate: 1e-3, 2/3 and 1/3 of it. Adam,
    its epsilon, the clipping at 1, the template, the limit of 1,024 tokens and the loss are defaults, too.
    """
    save_reward_model(tmp_path / "start")
    (tmp_path / "pairs").mkdir()
    rows = [
        {
            "prompt": conversation("user", f"What is {i} plus {i % 5}?"),
            "chosen": conversation("assistant", f"It is {i + i % 5}."),
            "rejected": conversation("assistant", f"It may be {i + i % 5 + 1 + i % 3}, I think."),
        }
        for i in range(ROWS)
    ]
    (tmp_path / "pairs/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = (
        "trl reward --model_name_or_path start --dataset_name pairs --learning_rate 1e-3 --logging_steps 1 "
        f"--bf16 False --per_device_train_batch_size {ROWS} --center_rewards_coefficient 0.01 --weight_decay 0.1 "
        "--use_cpu --report_to none --output_dir theirs"
    )
    run(["-m", "trl.scripts.reward", *shlex.split(command)[2:]], tmp_path)
    words = imported("trl", [command.replace("output_dir theirs", "output_dir ours")]).words
    run(["-m", "rmx", *words], tmp_path)
    (state,) = tmp_path.glob("theirs/checkpoint-*/trainer_state.json")
    theirs = [row for row in json.loads(state.read_text())["log_history"] if "loss" in row]
    ours = [json.loads(line) for line in (tmp_path / "ours/metrics.jsonl").read_text().splitlines()]
    ours = [row for row in ours if "train/loss" in row]
    assert len(theirs) == len(ours) == 3
    for name, within in (("loss", 2e-5), ("learning_rate", 1e-9), ("grad_norm", 1e-2), ("accuracy", 1e-9)):
        expected = [row[name] for row in theirs]
        assert [row[f"train/{name}"] for row in ours] == pytest.approx(expected, abs=within), name
    assert abs(theirs[0]["loss"] - theirs[-1]["loss"]) > 0.01  # equal losses of a model at rest would mean nothing
