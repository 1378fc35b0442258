from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import prediction_rows, write_jsonl, write_run
from test_report_run import Page

from rmx.cli.report import main
from rmx.errors import DataError
from rmx.metrics import paired_comparison
from rmx.report import write_comparison


def margins(rows: list[dict[str, float]]) -> list[float]:
    return [row["margin"] for row in rows]


def test_paired_test_is_that_of_the_common_rows(tmp_path: Path) -> None:
    """300 pairs against 250 of the same in another order: the test runs on the 250, matched by id."""
    write_run(tmp_path / "a", pairs=300, seed=0)
    other = prediction_rows(250, seed=1, skill=0.2)
    write_run(tmp_path / "b", pairs=5)
    write_jsonl(tmp_path / "b" / "generated_predictions.jsonl", other[::-1])
    page = Page(write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "c.html"))
    expected = paired_comparison(margins(prediction_rows(300))[:250], margins(other))
    points = f"{100 * expected['difference']:+.1f} points"
    interval = f"{100 * expected['difference_low']:+.1f} to {100 * expected['difference_high']:+.1f}"
    assert f"b 250 {points} {interval} {expected['first_only']:.0f} {expected['second_only']:.0f}" in page.text
    assert len(set(page.ids)) == len(page.ids)


def test_better_worse_and_noise(tmp_path: Path) -> None:
    """b turns every pair of a round: surely worse where a is mostly right; c is a itself: within noise."""
    rows = prediction_rows(200)
    for name in "abc":
        write_run(tmp_path / name, pairs=200, steps=20)
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    write_jsonl(tmp_path / "b" / "generated_predictions.jsonl", turned)
    text = Page(write_comparison([tmp_path / name for name in "abc"], tmp_path / "c.html")).text
    assert "< 0.001 worse" in text and "+0.0 points" in text and "within noise" in text
    assert "adjusted for 2 comparisons" in text


def test_runs_without_common_pairs_say_so(tmp_path: Path) -> None:
    write_run(tmp_path / "a", pairs=20, steps=5)
    write_run(tmp_path / "b", pairs=20, steps=5)
    rows = [row | {"id": f"other-{row['id']}"} for row in prediction_rows(20)]
    write_jsonl(tmp_path / "b" / "generated_predictions.jsonl", rows)
    assert "no pair in common" in Page(write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "c.html")).text


def test_sets_that_only_one_run_has(tmp_path: Path) -> None:
    write_run(tmp_path / "a", pairs=20, steps=5)
    write_run(tmp_path / "b", pairs=20, steps=5)
    write_jsonl(tmp_path / "b" / "generated_predictions_code.jsonl", prediction_rows(10))
    text = Page(write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "c.html")).text
    assert "Evaluation on code" in text and "no predictions on this set" in text


def test_labels_grow_until_they_differ(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_run(tmp_path / name / "run", pairs=20, steps=5)
    folders = [tmp_path / "x" / "run", tmp_path / "y" / "run"]
    assert "Comparison of x/run and y/run" in Page(write_comparison(folders, tmp_path / "c.html")).text


def test_refusals(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", pairs=5, steps=2)
    with pytest.raises(DataError, match="two runs or more"):
        write_comparison([folder], tmp_path / "c.html")
    with pytest.raises(DataError, match="given twice"):
        write_comparison([folder, folder], tmp_path / "c.html")


def test_command_compares_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = []
    for name in "ab":
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "metrics.jsonl", [{"step": 1, "train/loss": 0.5}])
        folders.append(str(tmp_path / name))
    assert main([*folders, "--output", str(tmp_path / "c.html")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "c.html")
