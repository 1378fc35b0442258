"""Whole runs on the device: the command, the artefact read back, a run that goes on at its checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from workflows import make_workflow

import rmx
from rmx.models import Adapter

ROOT = Path(__file__).parents[2]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_smoke_runs_on_the_device(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rmx", "experiment=smoke", f"output_dir={tmp_path / 'run'}"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    print(next(line for line in done.stdout.splitlines() + done.stderr.splitlines() if "pairs/s" in line))
    train = [row for row in lines(tmp_path / "run" / "metrics.jsonl") if row["phase"] == "train"]
    assert train[-1]["train/loss"] < train[0]["train/loss"]
    assert train[-1]["train/peak_memory_gb"] > 0  # so it ran on the device


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_artefact_scores_as_the_run_did(tmp_path: Path, precision: str) -> None:
    workflow = make_workflow(tmp_path / "run", trainer_precision=precision, trainer_eval_precision=precision)
    workflow.run()
    found = lines(tmp_path / "run" / "generated_predictions.jsonl")
    evals = workflow.data.read().evals["eval"]
    scorer = rmx.load(tmp_path / "run" / "model", device="cuda", precision=precision)
    assert scorer.model.device.type == "cuda"
    conversations = [[*c.prompt, *c.responses[c.pairs[0].winner]] for c in evals]
    scores = scorer.score(conversations)
    assert [row["id"] for row in found] == [c.id for c in evals]
    tolerance = {"fp32": 1e-4, "bf16": 5e-2}[precision]
    assert list(scores) == pytest.approx([row["chosen"] for row in found], abs=tolerance)


def test_a_run_goes_on_at_its_checkpoint(tmp_path: Path) -> None:
    """3 steps, then 3 more in a new run: the losses of 6 steps without a break, dropout included."""
    adapter = Adapter(kind="lora", r=4, dropout=0.3)
    options: dict[str, Any] = {
        "peft": adapter, "trainer_lr_scheduler_type": "constant", "trainer_eval_steps": 3, "trainer_save_steps": 3,
        "trainer_load_best_model_at_end": False, "trainer_full_determinism": True, "phases": ["train"],
    }  # fmt: skip
    make_workflow(tmp_path / "whole", max_steps=6, **options).run()
    make_workflow(tmp_path / "parts", max_steps=3, **options).run()
    make_workflow(tmp_path / "parts", max_steps=6, resume_allow=["trainer.max_steps"], **options).run()
    whole, parts = (
        {row["step"]: row["train/loss"] for row in lines(tmp_path / name / "metrics.jsonl") if row["phase"] == "train"}
        for name in ("whole", "parts")
    )
    assert sorted(whole) == sorted(parts) == [1, 2, 3, 4, 5, 6]
    assert parts == pytest.approx(whole, abs=1e-6)
