"""The table of metrics against what a real run logs and writes, both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmx.reference.metric_names import METRICS, SOURCE, metric_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ON_A_GPU = {"mfu", "padded_mfu", "peak_memory_gb"}


def logged(run: Path) -> set[str]:
    return {key for line in (run / "metrics.jsonl").read_text().splitlines() for key in json.loads(line)}


def results(run: Path) -> set[str]:
    return {key for path in run.glob("*_results.json") for key in json.loads(path.read_text())}


def test_every_number_of_a_run_is_in_the_table(real_run: Path) -> None:
    assert sorted(name for name in logged(real_run) | results(real_run) if metric_of(name) is None) == []


def test_every_number_of_the_table_is_in_a_run_where_the_table_says(real_run: Path) -> None:
    """`<set>` is hard, `<source>` is one; all but what needs a GPU is there, in each of its places."""
    found, missing = logged(real_run) | results(real_run), []
    for metric in METRICS:
        for written in metric.written():
            only_in_eval = metric.only.startswith("the true rewards") and "_<set>" not in written
            if metric.name in ON_A_GPU or only_in_eval:  # of all sets together the truth is not known: `hard` has none
                continue
            known = "eval" if metric.only.startswith("the true rewards") or metric.name == SOURCE else "hard"
            name = written.replace("<set>", known).replace("<source>", "one")
            missing += [name] if name not in found else []
    assert missing == []


def test_nothing_stands_where_the_table_does_not_say(real_run: Path) -> None:
    """In the log there are no names of the result files, and the other way round."""
    for name in logged(real_run):
        places = metric_of(name).places  # type: ignore[union-attr]
        wanted = "train log" if name.startswith("train/") else "eval log" if "/" in name else "every log"
        assert wanted in places, name
    for name in results(real_run):
        places = metric_of(name).places  # type: ignore[union-attr]
        wanted = "train results" if name.startswith("train_") else "eval results" if "_" in name else "results"
        assert wanted in places or "results" in places, name


def test_names_are_told_apart() -> None:
    """The longest end wins: accuracy_low is no `low`, and a set may be called as a metric is."""
    for written, name in {
        "eval_accuracy_low": "accuracy_low",
        "train/unique_tokens_per_second": "unique_tokens_per_second",
        "eval_loss/accuracy": "accuracy",
        "predict_code_samples_per_second": "samples_per_second",
        "epoch": "epoch",
    }.items():
        found = metric_of(written)
        assert found is not None and found.name == name
    for unknown in ("train/acuracy", "test_accuracy", "evaluation", "eval/"):
        assert metric_of(unknown) is None
