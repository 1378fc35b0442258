"""Checkpoints and folders made by an attacker run nothing and reach nothing outside (F17)."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_harness import at, die, finish, needs_fork, run_child, train, workflow

from rmx.checkpoints import CheckpointFolder, read_manifest, verify
from rmx.checkpoints.sealing import MANIFEST, seal
from rmx.checkpoints.tensors import load_state, save_state
from rmx.errors import CheckpointError

pytestmark = needs_fork


class Payload:
    """A pickle that leaves a marker file where it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.marker}",))


def reseal(checkpoint: Path) -> None:
    """Give a changed checkpoint a manifest that fits, as an attacker would."""
    manifest = read_manifest(checkpoint)
    (checkpoint / MANIFEST).unlink()
    seal(checkpoint, step=manifest.step, facts=manifest.facts)


@pytest.fixture(scope="module")
def stopped(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")

    def work() -> None:
        at("begin", 4, die)
        train(workflow(folder / "run", models))

    assert run_child(work, folder / "log").code == -9
    return folder / "run"


def test_no_pickle_in_a_checkpoint(stopped: Path) -> None:
    """Safetensors and JSON, text files of the tokenizer, and nothing else."""
    for checkpoint in (stopped / "checkpoints").glob("checkpoint-*"):
        assert {path.suffix for path in checkpoint.iterdir()} <= {".safetensors", ".json", ".jinja"}
        for path in checkpoint.iterdir():
            assert path.read_bytes()[:2] not in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")


def test_pickles_are_never_read(stopped: Path, models: Path, tmp_path: Path) -> None:
    """Every name under which some library looks for one, sealed with a fitting manifest: not used, and nothing runs."""
    shutil.copytree(stopped, tmp_path / "run")
    marker = tmp_path / "marker"
    newest = tmp_path / "run" / "checkpoints" / "checkpoint-3"
    for name in ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin",
                 "adapter_model.bin", "optimizer.bin"):  # fmt: skip
        (newest / name).write_bytes(pickle.dumps(Payload(marker)))
    reseal(newest)
    child = finish(lambda: workflow(tmp_path / "run", models), tmp_path / "log")
    assert not marker.exists() and "may run code when it is read" in child.text


def test_a_file_added_later_is_noticed(stopped: Path, tmp_path: Path) -> None:
    """Without a fitting manifest such a checkpoint is not used at all."""
    shutil.copytree(stopped, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "checkpoint-3"
    (newest / "notes.json").write_text("{}")
    with pytest.raises(CheckpointError, match="was added after"):
        verify(newest)
    used = CheckpointFolder(newest.parent).newest_valid()
    assert used is not None and used[0].name == "checkpoint-2"


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff\xfe", b'{"format": 1}', b'{"self": 1, "files": {"../../x": {}}}', b"null", b"1" * 5000],
)
def test_hostile_manifests(content: bytes, tmp_path: Path) -> None:
    """Any bytes are an error of one line."""
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError):
        verify(tmp_path / "checkpoint-1")


def test_links_and_paths_lead_nowhere(stopped: Path, tmp_path: Path) -> None:
    """A manifest cannot vouch for a file outside its folder, nor for a link to one."""
    shutil.copytree(stopped, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "checkpoint-3"
    weights = newest / "model.safetensors"
    os.rename(weights, tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        verify(newest)


def test_hostile_optimizer_state(tmp_path: Path) -> None:
    """The structure beside the tensors knows five kinds of values and no names of code."""
    save_state({"state": {0: {"step": torch.ones(())}}, "groups": [{"betas": (0.9, 0.999)}]}, tmp_path, "optimizer")
    for structure in ({"__reduce__": ["os.system"]}, {"tensor": "../x"}, {"dict": 3}, {"dict": [], "list": []}):
        (tmp_path / "optimizer.json").write_text(json.dumps(structure))
        with pytest.raises(CheckpointError, match="does not fit"):
            load_state(tmp_path, "optimizer")
