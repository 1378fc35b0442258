"""The run folder: claimed once, written whole, and free of secrets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rmx.errors import OutputError
from rmx.files import write_json, write_lines
from rmx.run.folder import environment, open_folder, write_results


def test_two_runs_in_one_second_get_two_folders(tmp_path: Path) -> None:
    folders = {open_folder(None, "org/model", "data set", root=tmp_path) for _ in range(3)}
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {tmp_path / "org_model-data_set"}


def test_an_unwritable_place_is_one_message(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(OutputError, match=r"output_dir: .*cannot be written to .* choose another folder"):
        open_folder(str(blocked / "run"), "m", "d")


def test_json_is_valid_whatever_the_numbers(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"nan": float("nan"), "inf": [float("inf")], "ok": 1.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"nan": None, "inf": [None], "ok": 1.5}


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", ["old"])

    def lines():
        yield "new"
        raise RuntimeError("killed here")

    with pytest.raises(RuntimeError, match="killed here"):
        write_lines(path, lines())
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_results_of_all_phases_are_merged(tmp_path: Path) -> None:
    write_results(tmp_path, "train", {"train_loss": 0.5, "epoch": 1.0})
    write_results(tmp_path, "eval", {"eval_loss": 0.25})
    assert json.loads((tmp_path / "eval_results.json").read_text()) == {"eval_loss": 0.25}
    merged = json.loads((tmp_path / "all_results.json").read_text())
    assert merged == {"epoch": 1.0, "eval_loss": 0.25, "train_loss": 0.5}


def test_the_environment_names_versions_and_the_command() -> None:
    found = environment()
    assert found["versions"]["torch"] and found["command"]
    json.dumps(found)
