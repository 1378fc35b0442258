"""`rmx watch` on folders written by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from rmx.cli.watch import Watcher, main, sparkline
from rmx.errors import InputError


def write(folder: Path, *rows: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def text_of(watcher: Watcher, now: float) -> str:
    console = Console(width=160, file=io.StringIO(), color_system=None)
    console.print(watcher.table(now))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_sweep_shows_every_run_with_its_state(tmp_path: Path) -> None:
    write(tmp_path / "trial-000", {"step": 5, "epoch": 0.5, "time": 100.0, "phase": "train", "train/loss": 0.61})
    write(tmp_path / "trial-000", {"step": 5, "time": 101.0, "phase": "eval", "eval/accuracy": 0.75})
    write(tmp_path / "trial-001", {"step": 2, "time": 20.0, "phase": "train", "train/loss": 0.7})
    write(tmp_path / "trial-002", {"step": 3, "time": 90.0, "phase": "train", "train/loss": 0.7})
    (tmp_path / "trial-002" / "PRUNE").touch()
    write(tmp_path / "trial-003", {"step": 3, "time": 90.0, "phase": "train", "train/loss": 0.7})
    (tmp_path / "jobs").mkdir()
    record = [{"started": 80.0, "ended": 95.0, "exit_code": 1, "signal": None}]
    (tmp_path / "jobs" / "trial-003.json").write_text(json.dumps(record))
    (tmp_path / "best").symlink_to("trial-000")
    watcher = Watcher(tmp_path)
    watcher.look()
    lines = text_of(watcher, now=110.0).splitlines()
    assert len(lines) == 1 + 4 + 1  # `best` is no run of its own
    assert lines[1].split() == ["trial-000", "running", "5", "0.50", "0.6100", "0.750", "▁", "9.0s"]
    assert "silent 1m30s" in lines[2]
    assert "pruned" in lines[3]
    assert "exit 1" in lines[4]


def test_new_rows_and_new_runs_appear(tmp_path: Path) -> None:
    write(tmp_path, {"step": 1, "time": 1.0, "train/loss": 2.0})
    watcher = Watcher(tmp_path)
    watcher.look()
    write(tmp_path, {"step": 2, "time": 2.0, "train/loss": 1.0})
    write(tmp_path / "other", {"step": 1, "time": 1.0, "train/loss": None})
    watcher.look()
    text = text_of(watcher, now=3.0)
    assert "2 runs" in text
    assert "█▁" in text


def test_sparkline_of_nothing_and_of_a_constant() -> None:
    assert sparkline([]) == ""
    assert sparkline([float("nan")]) == ""
    assert sparkline([1.0, 1.0]) == "▁▁"


def test_once_prints_and_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", {"step": 1, "time": 1.0, "train/loss": 2.0})
    assert main([str(tmp_path), "--once"]) == 0
    assert "2.0000" in capsys.readouterr().out


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        main([str(tmp_path / "nowhere")])


def test_a_small_terminal_shows_what_matters_first(tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path / f"trial-{number}", {"step": 1, "time": 100.0, "train/loss": 2.0, "epoch": 0.5})
        if number < 4:
            (tmp_path / f"trial-{number}" / "PRUNE").touch()
    watcher = Watcher(tmp_path)
    watcher.look()
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(watcher.table(101.0, 80, 5))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 4  # heads, two runs, the note
    assert lines[1].startswith("trial-4")
    assert "3 not shown" in lines[3]
    assert "pairs/s" not in lines[0]
