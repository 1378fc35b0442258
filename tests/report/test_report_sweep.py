from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from run_folders import sweep_content, write_jsonl, write_run, write_sweep
from test_report_run import EVIL, Page

from rmx.cli.report import main
from rmx.errors import DataError
from rmx.report import write_run_report, write_sweep_report
from rmx.report.sweep_figures import sweep_figures
from rmx.results.sweep import Difference, SweepRow, read_sweep


def write(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_helper_writes_what_the_sweeper_writes() -> None:
    """The made-up sweep.json has exactly the fields of the sweeper's own rows."""
    row = sweep_content()["trials"][0]
    assert set(row) == {field.name for field in dataclasses.fields(SweepRow)}
    compared = next(trial["vs_winner"] for trial in sweep_content()["trials"] if trial["vs_winner"])
    assert set(compared) == {field.name for field in dataclasses.fields(Difference)}


def test_leaderboard_is_ranked_with_what_varies(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s")
    page = Page(write_sweep_report(folder))
    ranked = [t for t in read_sweep(folder).trials if t.rank]
    assert [t.rank for t in ranked] == list(range(1, len(ranked) + 1))
    places = [page.text.index(f" {t.name} ", page.text.index("Select a heading")) for t in ranked]
    assert places == sorted(places)
    assert "trainer.learning_rate" in page.text and "within noise, p 0.31" in page.text
    assert "killed by signal 9" in page.text and "jobs/trial-005.log" in page.text
    assert len(set(page.ids)) == len(page.ids)


def test_parallel_coordinates_hold_pruned_trials(tmp_path: Path) -> None:
    sweep = read_sweep(write_sweep(tmp_path / "s"))
    drawn, words = sweep_figures(sweep)["parallel_coordinates"]
    labels = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
    assert "pruned (3)" in labels and "winner" in labels
    assert words.startswith("Parallel coordinates of 11 trials")  # all but the failed one, which has no number


def test_figures_of_every_kind(tmp_path: Path) -> None:
    names = set(sweep_figures(read_sweep(write_sweep(tmp_path / "s"))))
    assert names == {"parallel_coordinates", "importance", "learning_curves", "compute"} | {
        f"parameter_{place}" for place in range(3)
    }


def test_several_objectives_show_the_front(tmp_path: Path) -> None:
    content = sweep_content()
    content["objectives"].append({"metric": "train/tokens_per_second", "direction": "maximize"})
    for trial in content["trials"]:
        if trial["values"]:
            trial["values"]["train/tokens_per_second"] = 1000.0 + trial["number"]
    sweep = read_sweep(write(tmp_path / "s", content))
    assert "pareto" in sweep_figures(sweep)
    assert "Pareto front" in Page(write_sweep_report(sweep.folder)).text


def test_curves_come_from_the_trials_own_metrics(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s")
    write_run(folder / "trial-000", pairs=5, steps=40)
    curve = next(line for line in sweep_figures(read_sweep(folder))["learning_curves"][0].axes[0].lines)
    assert curve.get_xdata()[0] == 20
    html = write_sweep_report(folder).read_text()
    assert 'href="./trial-000/report.html"' not in html  # not written yet: no dead link
    write_run_report(folder / "trial-000")
    assert 'href="./trial-000/report.html"' in write_sweep_report(folder).read_text()


@pytest.mark.parametrize("status", ["waiting", "running", "failed"])
def test_a_sweep_without_any_result(tmp_path: Path, status: str) -> None:
    content = sweep_content(3) | {"winner": None, "importance": None, "counts": {status: 3}}
    for trial in content["trials"]:
        trial |= {"status": status, "rank": None, "values": {}, "steps": {}, "vs_winner": None, "seconds": 0.0}
        trial |= {key: None for key in ("accuracy", "accuracy_low", "accuracy_high", "loss", "pairs_per_second")}
    page = Page(write_sweep_report(write(tmp_path / "s", content)))
    assert "0 of 3" in page.text and "None" not in page.text


def test_one_trial_and_no_parameters(tmp_path: Path) -> None:
    content = sweep_content(1) | {"parameters": [], "importance": None}
    content["trials"][0]["params"] = {}
    assert "1 of 1" in Page(write_sweep_report(write(tmp_path / "s", content))).text


def test_minimised_objective_and_numeric_choices(tmp_path: Path) -> None:
    """Choices such as 10, 9, 100 are ordered as numbers; with a loss as objective up is still better."""
    content = sweep_content(6)
    content["objectives"] = [{"metric": "eval/loss", "direction": "minimize"}]
    content["parameters"] = [{"name": "trainer.batch", "kind": "choice", "values": ["10", "9", "100"]}]
    for trial in content["trials"]:
        trial["params"] = {"trainer.batch": ("10", "9", "100")[trial["number"] % 3]}
        trial["values"] = {"eval/loss": trial["loss"]} if trial["values"] else {}
    drawn = sweep_figures(read_sweep(write(tmp_path / "s", content)))
    labels = [label.get_text() for label in drawn["parameter_0"][0].axes[0].get_xticklabels()]
    assert labels == ["9", "10", "100"]
    assert drawn["parallel_coordinates"][0].axes[0].get_xticklabels()[-1].get_text() == "eval/loss\n(up is better)"


def test_user_data_is_escaped(tmp_path: Path) -> None:
    content = sweep_content(6)
    content |= {"name": EVIL, "command": EVIL, "stopped_because": EVIL, "fixed": [EVIL]}
    content["parameters"][1] |= {"name": EVIL, "values": [EVIL, "b", "c"]}
    for trial in content["trials"]:
        trial["params"] = {EVIL if key == "peft" else key: value for key, value in trial["params"].items()}
        trial["params"][EVIL] = EVIL if trial["number"] % 2 else "b"
        trial |= {"reason": EVIL, "log": EVIL}
    content["trials"][0]["name"] = EVIL
    path = write_sweep_report(write(tmp_path / "s", content))
    page = Page(path)
    assert page.tags.count("script") == 1 and "img" not in page.tags and EVIL in page.text
    assert "javascript:" not in path.read_text()


def test_links_stay_inside_the_sweep(tmp_path: Path) -> None:
    content = sweep_content(2)
    content["trials"][0]["folder"] = "../outside"
    write_run(tmp_path / "outside", pairs=5, steps=2)
    write_run_report(tmp_path / "outside")
    assert "outside" not in re.findall(
        r'href="([^"]*)"', write_sweep_report(write(tmp_path / "s", content)).read_text()
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "format None is not known"),
        ('{"format": 99}', "format 99 is not known"),
        ('{"format": 1}', "missing or malformed"),
        ('{"format": 1, "trials": [], "objectives": [], "parameters": []}', "objectives is empty"),
    ],
)
def test_broken_sweep_files_are_input_errors(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(DataError, match=message):
        write_sweep_report(tmp_path)


def test_missing_sweep_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        write_sweep_report(tmp_path)


def test_command_draws_sweeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(tmp_path / "s")
    write_jsonl(folder / "unrelated.jsonl", [])
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'sweep.html'}\n"
