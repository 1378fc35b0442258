"""Where numbers go: the jsonl, an offline wandb run read back, other trackers, and trackers that fail."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from workflows import make_workflow

from rmx.errors import ConfigError
from rmx.trackers import HfTracker, MetricsFile, Recorder, WandbTracker


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_has_step_epoch_time_phase_and_prefixed_values(tmp_path: Path) -> None:
    recorder = Recorder([MetricsFile(tmp_path / "metrics.jsonl")])
    recorder.log(3, 0.5, "train", {"loss": 0.25, "grad_norm": float("nan")})
    recorder.close()
    (row,) = lines(tmp_path / "metrics.jsonl")
    assert row.pop("time") > 1e9
    assert row == {"step": 3, "epoch": 0.5, "phase": "train", "train/loss": 0.25, "train/grad_norm": None}


class Failing:
    name = "failing"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def log(self, *args) -> None:
        self.calls.append("log")
        raise RuntimeError("server gone")

    def summary(self, *args) -> None:
        self.calls.append("summary")

    def close(self, exit_code: int) -> None:
        self.calls.append("close")


def test_a_failing_tracker_is_dropped_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    failing = Failing()
    recorder = Recorder([failing, MetricsFile(tmp_path / "metrics.jsonl")])
    logging.getLogger("rmx").propagate = True
    for step in (1, 2):
        recorder.log(step, None, "train", {"loss": 1.0})
    recorder.close()
    assert failing.calls == ["log"]  # never asked again
    assert len(lines(tmp_path / "metrics.jsonl")) == 2
    assert "Tracker failing failed in log" in caplog.text


def test_without_a_key_wandb_is_offline_and_can_be_read_back(tmp_path: Path) -> None:
    """Curves, configuration, group, tags and summary stand in the offline run's own file."""
    tracker = WandbTracker(
        tmp_path, project="rmx-test", run_name="one", group="g", tags=["t"], config={"seed": 7}
    )  # fmt: skip
    assert tracker.offline_because
    recorder = Recorder([tracker])
    recorder.log(1, 0.1, "train", {"loss": 0.5})
    recorder.log(2, 0.2, "eval", {"accuracy": 0.75})
    recorder.summary({"eval_accuracy": 0.75}, [])
    recorder.close()
    (stored,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(stored.parent)]
    shown = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60)
    text = shown.stdout
    for expected in ("train/loss", "eval/accuracy", "rmx-test", '"g"', '"t"', "seed", "eval_accuracy"):
        assert expected in text, expected


def test_a_whole_run_with_wandb_needs_no_account(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_workflow(folder, size=240, max_steps=2, trackers=["wandb"], tags=["demo"]).run()
    assert list(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert "wandb: offline (no API key)" in (folder / "run.log").read_text()


def test_tensorboard_holds_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    make_workflow(folder, size=240, max_steps=2, trackers=["tensorboard"]).run()
    events = sorted(folder.rglob("events.out.tfevents.*"))
    assert events, os.listdir(folder)
    found = EventAccumulator(str(events[0].parent)).Reload()
    logged = [row["train/loss"] for row in lines(folder / "metrics.jsonl") if row["phase"] == "train"]
    assert [event.value for event in found.Scalars("train/loss")] == pytest.approx(logged)


def test_trackio_and_mlflow_hold_the_same_numbers(tmp_path: Path) -> None:
    """Run as a user would, in a process of its own: both keep global state. Read back from their databases."""
    pytest.importorskip("trackio")
    pytest.importorskip("mlflow")
    import sqlite3

    folder, stored = tmp_path / "run", tmp_path / "mlflow.db"
    environment = {
        **os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "MLFLOW_TRACKING_URI": f"sqlite:///{stored}",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    words = [
        "trackers=[trackio,mlflow]", "data.size=240", "trainer.max_steps=4", "trainer.logging_steps=2",
        f"output_dir={folder}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "rmx", *words]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    logged = [row["train/loss"] for row in lines(folder / "metrics.jsonl") if row["phase"] == "train"]
    assert len(logged) == 2
    with sqlite3.connect(stored) as database:
        found = database.execute("select value from metrics where key = 'train/loss' order by step").fetchall()
    assert [value for (value,) in found] == pytest.approx(logged)
    (trackio_file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(trackio_file) as database:
        rows = [json.loads(text) for (text,) in database.execute("select metrics from metrics order by step")]
    assert [row["train/loss"] for row in rows if "train/loss" in row] == pytest.approx(logged)


def test_an_unknown_tracker_names_the_known_ones(tmp_path: Path) -> None:
    workflow = make_workflow(tmp_path, trackers=["wand"])
    args = workflow.trainer.training_arguments(tmp_path, 1, evaluates=False)
    with pytest.raises(ConfigError, match=r"trackers: 'wand' cannot be used .*tensorboard"):
        HfTracker("wand", args)
