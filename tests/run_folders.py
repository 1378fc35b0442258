"""Run folders as a real run leaves them, made up in milliseconds, for tests of plots and reports."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = ("helpful", "harmless", "code <b>&amp;")  # user data may hold anything


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def prediction_rows(pairs: int = 300, seed: int = 0, skill: float = 0.8, truth: bool = True) -> list[dict[str, Any]]:
    """Labels drawn from true rewards; learned rewards follow the truth with some noise and a liking for length.

    Texts and labels depend on the pair's number only, scores on the seed: two runs share their rows.
    """
    world, noise = np.random.default_rng(7), np.random.default_rng(seed)
    rows = []
    for i in range(pairs):
        true = world.normal(0, 1.2, 2)
        tokens = world.integers(20, 400, 2)
        won = 0 if world.random() < 1 / (1 + math.exp(true[1] - true[0])) else 1
        learned = skill * true + noise.normal(0, 0.4, 2) + 0.002 * tokens
        chosen, rejected = float(learned[won]), float(learned[1 - won])
        row: dict[str, Any] = {
            "id": f"row-{i}",
            "source": SOURCES[i % len(SOURCES)],
            "chosen": chosen,
            "rejected": rejected,
            "margin": chosen - rejected,
            "p_chosen": 1 / (1 + math.exp(rejected - chosen)),
            "tie": chosen == rejected,
            "chosen_tokens": int(tokens[won]),
            "rejected_tokens": int(tokens[1 - won]),
            "truncated": i % 50 == 0,
        }
        if truth:
            row |= {"truth_chosen": float(true[won]), "truth_rejected": float(true[1 - won])}
        rows.append(row)
    return rows


def metric_rows(
    steps: int = 200, every: int = 20, seed: int = 0, sets: tuple[str, ...] = ("eval",)
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        learned = 1 - math.exp(-3 * step / steps)
        base = {"step": step, "epoch": round(step / 100, 3), "time": 1.79e9 + step}
        rows.append(
            base
            | {
                "phase": "train",
                "train/loss": 0.69 - 0.2 * learned + float(rng.normal(0, 0.05)),
                "train/accuracy": min(1.0, 0.5 + 0.25 * learned + float(rng.normal(0, 0.06))),
                "train/grad_norm": 1.0,
            }
        )
        if step % every == 0:
            for name in sets:
                accuracy = 0.5 + 0.22 * learned + float(rng.normal(0, 0.01))
                numbers = {"loss": 0.69 - 0.17 * learned, "accuracy": accuracy}
                numbers |= {"accuracy_low": accuracy - 0.05, "accuracy_high": accuracy + 0.05}
                rows.append(base | {"phase": "eval"} | {f"{name}/{key}": value for key, value in numbers.items()})
    return rows


AUDIT = {"rows": 3000, "kept": 2990, "dropped": {"empty response": 4, "chosen == rejected": 6}, "duplicates": 12}


def write_run(folder: Path, *, pairs: int = 300, seed: int = 0, skill: float = 0.8, steps: int = 200) -> Path:
    """A whole, healthy run folder on synthetic data."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "metrics.jsonl", metric_rows(steps, seed=seed))
    write_jsonl(folder / "generated_predictions.jsonl", prediction_rows(pairs, seed, skill))
    (folder / "run.yaml").write_text("model:\n  _target_: rmx.models.RewardModelSource\n  name: tiny\nseed: 42\n")
    (folder / "environment.json").write_text(
        json.dumps(
            {
                "command": "rmx model=tiny data=synthetic",
                "versions": {"rmx": "0.1.0", "torch": "2.13.0"},
                "python": "3.11.7",
                "platform": "Linux",
                "git_commit": "0123456789abcdef",
            }
        )
    )
    (folder / "audit.json").write_text(json.dumps(AUDIT))
    (folder / "all_results.json").write_text(json.dumps({"eval_accuracy": 0.7, "train_runtime": 71.5, "epoch": 2.0}))
    return folder
