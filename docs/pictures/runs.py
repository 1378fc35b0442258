"""The runs behind the pictures of the concept pages: what they measured goes into measured.json.

    python docs/pictures/runs.py        about ten minutes on two cores; `make pictures` draws from the file

All runs train the embedded model on generated conversations, whose true reward is known (`rmx.data.SyntheticData`).
Every number is the run's own or `rmx.metrics`' of its predictions; nothing is smoothed or left out.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rmx
from rmx.data.synthetic import SENTENCES, SyntheticData, true_reward
from rmx.metrics import calibration, length_bias, pair_metrics
from rmx.records import Comparison
from rmx.results import Predictions, read_run

MEASURED = Path(__file__).with_name("measured.json")
CANDIDATES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LATER = ["trainer.save_strategy=no", "trainer.load_best_model_at_end=false", "trainer.eval_strategy=no"]


def main() -> None:
    """Make the runs and write what they measured."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        measured = {
            "first": of_first(root / "first"),
            "seeds": [of_seed(root / f"seed-{seed}", seed) for seed in range(1, 6)],
            "calibration": {name: of_noise(root / name, epochs) for name, epochs in EPOCHS.items()},
            "length": of_length(root),
        }
        measured["ensemble"] = of_ensemble([root / f"seed-{seed}" for seed in range(1, 4)], root)
        measured["best_of_n"] = of_best({"fair": root / "seed-1" / "model", "length": root / "length" / "model"})
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def run(folder: Path, *overrides: str) -> Predictions:
    """One run of the command line, and its prediction columns."""
    words = [sys.executable, "-m", "rmx", *overrides, f"output_dir={folder}", "trackers=[]", "verbose=false"]
    subprocess.run(words, check=True)
    (predictions,) = read_run(folder).predictions.values()
    return predictions


# --- the quickstart's run, every step of it ---


def of_first(folder: Path) -> dict[str, Any]:
    """Train and evaluation loss by step, and the least that is possible."""
    run(folder, "data.size=1000", "trainer.logging_steps=1")
    record = read_run(folder)
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    curves = {key: record.curve(key) for key in ("train/loss", "eval/loss")}
    return {"best_possible_loss": results["predict_ceiling_loss"]} | {
        name: {"step": curve.steps.tolist(), "loss": curve.values.tolist()} for name, curve in curves.items()
    }


# --- one configuration, five seeds: what a reward does not say ---


def of_seed(folder: Path, seed: int) -> dict[str, Any]:
    """Accuracy and mean reward of one seed, on the evaluation set that all of them share."""
    run(folder, "data.size=1000", f"seed={seed}")
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    keys = ("accuracy", "accuracy_low", "accuracy_high", "margin", "chosen_reward", "rejected_reward", "pairs")
    return {"seed": seed} | {key: results[f"predict_{key}"] for key in keys}


# --- three of the seeds as an ensemble: does disagreement say where it is wrong? ---


def of_ensemble(folders: Sequence[Path], root: Path) -> dict[str, Any]:
    """Share of fresh rows on which the label says otherwise, by thirds of the rows in three orders.

    The rows are drawn as those of the training were, with another seed. An answer's `margin` is its lead.
    """
    rows = SyntheticData(size=4000, seed=1, validation_fraction=0).read().train
    write_rows(root / "fresh.jsonl", rows)
    words = [sys.executable, "-m", "rmx", "score", f"model=[{','.join(map(str, folders))}]"]
    subprocess.run([*words, f"input={root / 'fresh.jsonl'}", f"output={root / 'answers.jsonl'}"], check=True)
    answers = [json.loads(line) for line in (root / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    members = np.array([answer["members"] for answer in answers])  # [rows, models, chosen and rejected]
    return {
        "rows": len(answers),
        "wrong": sum(answer["best"] != 0 for answer in answers) / len(answers),
        "wrong_of_one": (members[..., 0] <= members[..., 1]).mean(axis=0).tolist(),
        "margin_std": (members[..., 0] - members[..., 1]).std(axis=0).tolist(),
        "thirds": wrong_by_thirds(answers),
    }


def wrong_by_thirds(answers: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Share of wrong rows in each third of them, from the surest to the least sure, the first response being right."""
    wrong = np.array([answer["best"] != 0 for answer in answers])
    lead, disagreement = (np.array([answer[key] for answer in answers]) for key in ("margin", "disagreement"))
    orders = {"disagreement": disagreement, "disagreement_per_lead": disagreement / lead, "lead": -lead}
    return {
        name: [float(part.mean()) for part in np.array_split(wrong[np.argsort(key, kind="stable")], 3)]
        for name, key in orders.items()
    }


# --- noisy labels, trained for one and a half and for twelve epochs: calibration ---

EPOCHS = {"short": 1.5, "long": 12}


def of_noise(folder: Path, epochs: float) -> dict[str, Any]:
    """Calibration after so many epochs on labels that are often wrong."""
    pairs = run(folder, "data.size=2000", "data.temperature=2", f"trainer.num_train_epochs={epochs}", *LATER)
    numbers = pair_metrics(pairs.chosen, pairs.rejected)
    return {"epochs": epochs, "accuracy": numbers["accuracy"], "loss": numbers["loss"]} | calibration(pairs.margin)


# --- annotators who like long answers: length bias ---


def of_length(root: Path) -> dict[str, Any]:
    """A model of pairs in which the longer response nearly always won, looked at where length tells nothing."""
    draw = random.Random(0)
    rows = SyntheticData(size=4000, temperature=2.0, validation_fraction=0.25).read()
    biased = [row for row in rows.train if is_longer(row) or draw.random() < 0.1]
    write_rows(root / "biased.jsonl", biased)
    write_rows(root / "fair.jsonl", rows.evals["eval"])
    pairs = run(
        root / "length",
        *("data=jsonl", f"data.path={root / 'biased.jsonl'}", "data.validation_fraction=0"),
        *(f"data.eval_sets={{fair: {root / 'fair.jsonl'}}}", "data.on_overlap=drop_train", *LATER),
    )
    return {"train_pairs": len(biased), "train_longer": sum(map(is_longer, biased)) / len(biased)} | length_bias(
        pairs.chosen, pairs.rejected, pairs.chosen_tokens, pairs.rejected_tokens
    )


def is_longer(row: Comparison) -> bool:
    """Whether the chosen response has more characters."""
    chosen, rejected = (response[0]["content"] for response in row.responses)
    return len(chosen) > len(rejected)


def write_rows(path: Path, rows: Sequence[Comparison]) -> None:
    """Comparisons as JSON lines."""
    names = ("chosen", "rejected")
    texts = [
        {"prompt": row.prompt[0]["content"]}
        | {name: response[0]["content"] for name, response in zip(names, row.responses, strict=True)}
        for row in rows
    ]
    path.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")


# --- the best of n candidates by a learned reward: over-optimisation ---


def of_best(models: dict[str, Path], prompts: int = 40) -> dict[str, Any]:
    """Learned and true reward of the response that each model picks from n, and the best true reward there was.

    The writer of the candidates draws one to eight sentences, with repetition. The true reward counts a sentence
    once. The training data had one to three different sentences: most candidates are unlike any text the models saw.
    """
    draw, sentences = random.Random(1), tuple(SENTENCES)
    asked = [{"role": "user", "content": f"How do I fix a red lamp? ({number})"} for number in range(prompts)]
    texts = [[" ".join(draw.choices(sentences, k=draw.randint(1, 8))) for _ in range(CANDIDATES[-1])] for _ in asked]
    true = np.array([[true_reward(text) for text in row] for row in texts])
    means: dict[str, Any] = {"n": CANDIDATES, "kl": [math.log(n) - (n - 1) / n for n in CANDIDATES]}
    for name, model in models.items():
        scorer = rmx.load(str(model))
        learned = [
            scorer.score([[prompt, {"role": "assistant", "content": text}] for text in row])
            for prompt, row in zip(asked, texts, strict=True)
        ]
        means[name] = best_of(np.array(learned), true)
    return means


def best_of(learned: np.ndarray, true: np.ndarray) -> dict[str, list[float]]:
    """Means over prompts of the picked response's rewards, and of the best true reward there was."""
    table: dict[str, list[float]] = {"learned": [], "true": [], "possible": []}
    rows = np.arange(len(learned))
    for n in CANDIDATES:
        # Disjoint groups of n: each candidate is used once, so small n average over many groups.
        shape = (len(rows), learned.shape[1] // n, n)
        grouped, truth = learned.reshape(shape), true.reshape(shape)
        place = grouped.argmax(axis=2)[..., None]
        table["learned"].append(float(np.take_along_axis(grouped, place, 2).mean()))
        table["true"].append(float(np.take_along_axis(truth, place, 2).mean()))
        table["possible"].append(float(truth.max(axis=2).mean()))
    return table


if __name__ == "__main__":
    main()
