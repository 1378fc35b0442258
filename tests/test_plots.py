from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from run_folders import metric_rows, prediction_rows, write_jsonl, write_run

from rmx import plots
from rmx.errors import DataError
from rmx.report import write_run_report
from rmx.results import read_run

CURVES = ["training_loss", "training_accuracy", "training_eval_loss", "training_eval_accuracy"]
SCORES = ["reward_distributions", "margins", "reliability", "reward_vs_length"]


def names(paths: list[Path]) -> set[str]:
    return {path.name for path in paths}


def test_a_whole_run_gives_every_figure_twice(tmp_path: Path) -> None:
    paths = plots.draw_run(write_run(tmp_path / "run")).save()
    assert names(paths) == {f"{name}.{kind}" for name in CURVES + SCORES for kind in ("png", "svg")}
    for path in paths:
        assert path.parent == tmp_path / "run" / "plots"
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        else:
            ET.fromstring(path.read_bytes())  # well-formed
    assert not list((tmp_path / "run" / "plots").glob(".*"))


def test_several_eval_sets_get_llamafactory_names(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "metrics.jsonl", metric_rows(sets=("eval", "eval_code")))
    write_jsonl(tmp_path / "generated_predictions_code.jsonl", prediction_rows(60))
    drawn = names(plots.draw_run(tmp_path).save())
    assert {"training_eval_code_loss.png", "training_eval_code_accuracy.svg", "margins_code.png"} <= drawn
    assert "margins.png" not in drawn


def test_missing_metrics_give_no_file_and_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 1, "train/loss": 0.7}, {"step": 2, "train/loss": 0.6}])
    with caplog.at_level(logging.DEBUG, logger="rmx.plots"):
        assert names(plots.draw_run(tmp_path).save()) == {"training_loss.png", "training_loss.svg"}
    assert "no eval/accuracy in metrics.jsonl" in caplog.text
    assert "no generated_predictions.jsonl" in caplog.text


def test_nan_null_and_torn_lines_are_gaps(tmp_path: Path) -> None:
    """Step 2 is null, 3 is NaN, the last line was cut by a kill: two good values, two gaps, a note, no zero."""
    good = [{"step": 1, "train/loss": 0.7}, {"step": 2, "train/loss": None}]
    text = (
        "".join(json.dumps(row) + "\n" for row in good)
        + '{"step": 3, "train/loss": NaN}\n{"step": 4, "train/loss": 0.5}\n'
    )
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 5, "trai')
    record = read_run(tmp_path)
    curve = record.curve("train/loss")
    assert curve.steps.tolist() == [1, 2, 3, 4]
    assert np.isnan(curve.values).tolist() == [False, True, True, False]
    assert record.notes == ["metrics.jsonl: unreadable lines left out: 1, the first is line 5"]
    assert len(plots.draw_run(tmp_path).save()) == 2


def test_a_curve_of_nothing_but_nan_is_not_drawn(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "metrics.jsonl", [{"step": s, "train/loss": math.nan, "train/accuracy": 0.5} for s in (1, 2)]
    )
    assert names(plots.draw_run(tmp_path).save()) == {"training_accuracy.png", "training_accuracy.svg"}


def test_a_resumed_run_keeps_the_later_value(tmp_path: Path) -> None:
    rows = [{"step": s, "train/loss": v} for s, v in ((1, 0.9), (2, 0.8), (3, 0.7), (2, 0.6), (3, 0.5))]
    write_jsonl(tmp_path / "metrics.jsonl", rows)
    curve = read_run(tmp_path).curve("train/loss")
    assert (curve.steps.tolist(), curve.values.tolist()) == ([1, 2, 3], [0.9, 0.6, 0.5])


def test_rows_without_score_are_counted_not_zero(tmp_path: Path) -> None:
    rows = prediction_rows(20)
    rows[3]["chosen"] = None
    write_jsonl(tmp_path / "generated_predictions.jsonl", rows)
    record = read_run(tmp_path)
    assert len(record.predictions["eval"].ids) == 19 and record.predictions["eval"].unscored == 1
    assert record.notes == ["eval: rows without a finite score left out: 1"]


@pytest.mark.parametrize(
    "rewards",
    [
        [(0.0, 0.0)] * 5,  # an untrained head: all equal
        [(1.0, 0.0)],  # one pair
        [(1e6, -1e6)] + [(0.1, 0.2)] * 40,  # one giant
        [(2.0, 1.0)] * 30,  # all right: no temperature
    ],
)
def test_odd_scores_draw_without_warning(tmp_path: Path, rewards: list[tuple[float, float]]) -> None:
    """Warnings are errors here: log of zero, empty ranges and singular limits would fail."""
    rows = [
        {"id": str(i), "chosen": c, "rejected": r, "tie": c == r, "chosen_tokens": 5, "rejected_tokens": 5}
        for i, (c, r) in enumerate(rewards)
    ]
    write_jsonl(tmp_path / "generated_predictions.jsonl", rows)
    assert {f"{name}.png" for name in SCORES} <= names(plots.draw_run(tmp_path).save())


def test_labelled_ties_stay_out_of_margins(tmp_path: Path) -> None:
    rows = [row | {"labelled_tie": i < 4} for i, row in enumerate(prediction_rows(10))]
    write_jsonl(tmp_path / "generated_predictions.jsonl", rows)
    assert read_run(tmp_path).predictions["eval"].margin.size == 6


def test_drawing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", pairs=50, steps=20)
    first = {path: path.read_bytes() for path in plots.draw_run(folder).save()}
    assert all(path.read_bytes() == content for path, content in first.items())
    assert {path: path.read_bytes() for path in plots.draw_run(folder).save()} == first


def test_a_run_is_read_and_drawn_once_for_its_files_and_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each picture is rendered once as PNG and once as SVG, and the page holds what the SVG file holds."""
    rendered: list[str] = []
    savefig = Figure.savefig

    def counted(self: Figure, *args: object, format: str, **keys: object) -> None:
        rendered.append(format)
        savefig(self, *args, format=format, **keys)

    monkeypatch.setattr(Figure, "savefig", counted)
    drawn = plots.draw_run(write_run(tmp_path / "run", pairs=50, steps=20))
    files = drawn.save()
    page = write_run_report(drawn).read_text()
    assert rendered.count("png") == rendered.count("svg") == len(drawn.pictures) == len(files) / 2
    assert page.count('<svg class="plot"') == len(drawn.pictures)
    monkeypatch.undo()
    assert write_run_report(tmp_path / "run").read_text() == page


def test_inline_svg_follows_the_page(tmp_path: Path) -> None:
    """Two figures on one page share no id; colours are variables; the alt text is escaped; nothing is fetched."""
    pictures = plots.draw_run(write_run(tmp_path / "run", pairs=50, steps=20)).pictures
    first, second = (pictures[name].inline('a "quote" <b>') for name in ("margins", "reliability"))
    ids = [{element.get("id") for element in ET.fromstring(svg).iter()} - {None} for svg in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    assert 'aria-label="a &quot;quote&quot; &lt;b&gt;"' in first
    assert "var(--ink)" in first and "#0072b2" not in first and "DejaVu" not in first
    assert "<script" not in first and 'href="http' not in first


def test_every_figure_has_labelled_axes(tmp_path: Path) -> None:
    run = plots.draw_run(write_run(tmp_path / "run", pairs=50, steps=20))
    assert not run.notes
    for name, drawn in ((name, picture.figure) for name, picture in run.pictures.items()):
        assert drawn.axes[0].get_title(loc="left"), name
        assert all(axes.get_ylabel() for axes in drawn.axes) and drawn.axes[-1].get_xlabel(), name


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        plots.draw_run(tmp_path / "nothing")
    with pytest.raises(DataError, match="not the output folder of a run"):
        plots.draw_run(tmp_path).save()
    (tmp_path / "audit.json").write_text("{}")
    assert plots.draw_run(tmp_path).save() == []  # a run of phases=[audit] has nothing to draw, and that is no mistake


def test_plots_use_no_pyplot_and_no_torch() -> None:
    code = "import sys, rmx.plots; sys.exit(bool({'torch', 'matplotlib.pyplot', 'scipy', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
