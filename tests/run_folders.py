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


def sweep_content(trials: int = 12, *, name: str = "sweep") -> dict[str, Any]:
    """sweep.json of a search over a logarithmic rate, a choice of peft and an integer rank; every fourth is pruned."""
    rng = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for number in range(trials):
        rate = float(10 ** rng.uniform(-6, -3))
        peft, rank = ("none", "lora", "dora")[number % 3], int(rng.integers(4, 33))
        accuracy = 0.72 - 0.02 * abs(math.log10(rate) + 4.3) + 0.01 * (peft == "lora") + float(rng.normal(0, 0.005))
        status = "pruned" if number % 4 == 3 else "failed" if number == 5 else "finished"
        done = status == "finished"
        last = 10 if done else 4
        steps = {str(20 * s): 0.5 + (accuracy - 0.5) * (1 - math.exp(-s / 3)) for s in range(1, last + 1)}
        rows.append(
            {
                "number": number,
                "name": f"trial-{number:03d}",
                "rank": None,
                "status": status,
                "params": {"trainer.learning_rate": rate, "peft": peft, "peft.r": rank},
                "values": {"eval/accuracy": accuracy} if done else {},
                "accuracy": accuracy if status != "failed" else None,
                "accuracy_low": accuracy - 0.04 if status != "failed" else None,
                "accuracy_high": accuracy + 0.04 if status != "failed" else None,
                "loss": 1.2 - accuracy if status != "failed" else None,
                "pairs_per_second": 50.0 + number,
                "seconds": 60.0 * last / 10 + number,
                "step": 20 * last,
                "steps": {} if status == "failed" else steps,
                "pareto": False,
                "vs_winner": None,
                "folder": f"trial-{number:03d}",
                "log": f"jobs/trial-{number:03d}.log",
                "exit_code": {"finished": 0, "pruned": 75, "failed": -9}[status],
                "processes": 1,
                "max_rss_bytes": 10**9,
                "reason": "killed by signal 9 (out of memory?)" if status == "failed" else "",
                "overrides": [],
            }
        )
    ranked = sorted((row for row in rows if row["status"] == "finished"), key=lambda row: -row["accuracy"])
    for rank, row in enumerate(ranked, start=1):
        row["rank"], row["pareto"] = rank, rank == 1
        if rank > 1:
            difference = row["accuracy"] - ranked[0]["accuracy"]
            row["vs_winner"] = {
                "method": "paired",
                "difference": difference,
                "low": difference - 0.02,
                "high": difference + 0.02,
                "p_value": 0.0004 if difference < -0.02 else 0.31,
                "within_noise": difference > -0.02,
            }
    counts = {status: sum(row["status"] == status for row in rows) for status in ("finished", "pruned", "failed")}
    return {
        "format": 1,
        "name": name,
        "command": "python -m rmx -m hydra.sweeper.n_trials=12",
        "version": "0.1.0",
        "updated": 1.79e9,
        "sampler": "tpe",
        "pruner": "hyperband",
        "pruner_metric": "eval/accuracy",
        "evaluation": "eval",
        "objectives": [{"metric": "eval/accuracy", "direction": "maximize"}],
        "parameters": [
            {"name": "trainer.learning_rate", "kind": "float", "low": 1e-6, "high": 1e-3, "step": None, "log": True},
            {"name": "peft", "kind": "choice", "values": ["none", "lora", "dora"]},
            {"name": "peft.r", "kind": "int", "low": 4, "high": 32, "step": None, "log": False},
        ],
        "fixed": ["model=tiny"],
        "counts": counts,
        "winner": ranked[0]["number"] if ranked else None,
        "importance": {"trainer.learning_rate": 0.81, "peft": 0.12, "peft.r": 0.07},
        "stopped_because": "",
        "trials": rows,
    }


def write_sweep(folder: Path, trials: int = 12) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(sweep_content(trials, name=folder.name)), encoding="utf-8")
    return folder
