"""The files and tables of a sweep, the upload, and what a spreadsheet or a reader of logs must not find in them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from sweeping import choices, run_fake

from rmx.results.sweep import SweepRow
from rmx.sweep.confirm import mean_and_spread
from rmx.sweep.leaderboard import build_rows
from rmx.sweep.on_screen import last_line, leaderboard_table, print_leaderboard
from rmx.sweep.summary import csv_text, point_to_best
from rmx.sweep.trials import SweepFolder, Trial

ACCURACY = {"eval/accuracy": "maximize"}


def rows_of(tmp_path: Path, *params: dict[str, str | float]) -> list[SweepRow]:
    trials = [Trial(n, dict(p), "finished", {"eval/accuracy": 0.9 - n / 10}) for n, p in enumerate(params)]
    return build_rows(SweepFolder(tmp_path), trials, {}, ACCURACY, {})


def shown(rows: Sequence[SweepRow]) -> str:
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(leaderboard_table(rows, list(ACCURACY), "s"))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_csv_cells_are_never_formulas_and_numbers_stay_numbers(tmp_path: Path) -> None:
    values = ["=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "-2+3", "\t=1", "-1.5", "+3", "plain,comma"]
    text = csv_text(rows_of(tmp_path, *({"=x": value} for value in values)), list(ACCURACY))
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0][2] == "'=x"
    assert [row[2] for row in rows[1:]] == [
        "'=1+1", "'+cmd|' /C calc'!A0", "'@SUM(A1)", "'-2+3", "'\t=1", "-1.5", "+3", "plain,comma",
    ]  # fmt: skip


def test_only_parameters_that_vary_are_shown(tmp_path: Path) -> None:
    text = shown(rows_of(tmp_path, {"lr": 1e-05, "peft": "none"}, {"lr": 0.00031234, "peft": "none"}))
    assert "peft" not in text
    assert "1e-05" in text
    assert "0.0003123" in text


def test_markup_in_parameters_is_shown_as_it_is(tmp_path: Path) -> None:
    assert "[red]x" in shown(rows_of(tmp_path, {"a": "[red]x"}, {"a": "[/]"}))


def test_best_is_replaced_when_the_winner_changes(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    rows = rows_of(tmp_path, {"a": "1"}, {"a": "2"})
    for row in rows:
        (tmp_path / row.folder).mkdir()
        point_to_best(folder, row)
        assert folder.best.resolve() == tmp_path / row.folder


def test_best_is_a_file_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    point_to_best(SweepFolder(tmp_path), rows_of(tmp_path, {"a": "1"})[0])
    assert (tmp_path / "best.txt").read_text() == "trial-000\n"


def test_secrets_do_not_reach_the_files(tmp_path: Path) -> None:
    run_fake(tmp_path, choices(x="0.1"), "model.token=hf_planted", "steps=1")
    assert "model.token=hf_planted" in (tmp_path / "trial-000" / "starts.jsonl").read_text()  # the job needs it
    for name in ("sweep.json", "leaderboard.csv", "study.journal", "jobs/trial-000.json", "jobs/trial-000.log"):
        assert "hf_planted" not in (tmp_path / name).read_text()


def test_failures_name_the_log(tmp_path: Path) -> None:
    result = run_fake(tmp_path, choices(mode="crash,ok"))
    console = Console(width=240, file=io.StringIO(), color_system=None)
    print_leaderboard(console, SweepFolder(tmp_path), result.rows, list(ACCURACY))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Jobs without a result" in text
    assert str(tmp_path / "jobs" / "trial-000.log") in text
    assert "RuntimeError: no luck" in text


def test_of_many_failures_a_few_are_shown(tmp_path: Path) -> None:
    trials = [Trial(n, {"a": str(n)}, "failed", reason="exit 1: no luck") for n in range(20)]
    console = Console(width=160, file=io.StringIO(), color_system=None)
    print_leaderboard(
        console, SweepFolder(tmp_path), build_rows(SweepFolder(tmp_path), trials, {}, ACCURACY, {}), list(ACCURACY)
    )
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count(".log") == 12
    assert "and 8 more" in text


def test_tail_of_a_log_is_one_short_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text("first\n\x1b[31m" + "x" * 500 + "\n\n")
    assert len(last_line(log)) == 120
    assert "\x1b" not in last_line(log)
    log.write_text("rmx: pairs.jsonl:3: no chosen\nmore: rmx explain DataError\n")  # as the door ends a job's log
    assert last_line(log) == "rmx: pairs.jsonl:3: no chosen"


def test_spread_of_one_seed_has_no_interval() -> None:
    """Two values 0.6 and 0.8: s = 0.1414, t(1) = 12.706, half = 12.706 × 0.1414 / √2 = 1.2706."""
    assert mean_and_spread([0.5])[0] == 0.5
    assert math.isnan(mean_and_spread([0.5])[2])
    mean, deviation, half = mean_and_spread([0.6, 0.8])
    assert (mean, deviation, half) == (pytest.approx(0.7), pytest.approx(0.141421, abs=1e-6), pytest.approx(1.2706))


@pytest.mark.slow
def test_the_leaderboard_goes_to_an_offline_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from rmx.sweep.upload import upload_leaderboard

    monkeypatch.setenv("WANDB_MODE", "offline")
    rows = rows_of(tmp_path, {"lr": 0.1}, {"lr": "none"})
    where = upload_leaderboard(tmp_path, rows, list(ACCURACY), project="p", group="g")
    assert where.startswith("offline")
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
    (table,) = run.rglob("*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"][:4] == ["rank", "trial", "lr", "eval/accuracy"]
    assert [row[1] for row in content["data"]] == ["trial-000", "trial-001"]
