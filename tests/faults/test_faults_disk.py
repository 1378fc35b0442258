"""Full, limited and read-only disks (F5, F6): one line, nothing lost, and a continuation that ends the same."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_harness import assert_same, at, finish, metrics, needs_fork, run_child, train, workflow

from rmx.errors import OutputError
from rmx.files import readable_bytes, require_room, writing

pytestmark = needs_fork


def limit_file_size(size: int) -> None:
    """From now on this process cannot write beyond `size` bytes of a file: EFBIG, as a quota gives EDQUOT."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def errors_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if "Error" in line]


@pytest.mark.parametrize("size", [20_000, 250_000])
def test_write_refused_in_a_save(size: int, models: Path, reference: Callable[..., Any], tmp_path: Path) -> None:
    """The weights do not fit, or the optimizer state: exit 2, one line, the last checkpoint is used."""

    def refused() -> None:
        at("begin", 6, lambda: limit_file_size(size))
        train(workflow(tmp_path / "run", models, logging_strategy="no", eval_strategy="no"))

    child = run_child(refused, tmp_path / "log")
    assert child.code == 2, child.text[-3000:]
    assert "Traceback" not in child.text and "OutputError" in errors_in(child.text)[-1]
    assert "checkpoint-6: cannot be written (File too large)" in child.text and "are free" in child.text
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["checkpoint-3", "checkpoint-4", "checkpoint-5"]
    again = {"logging_strategy": "no", "eval_strategy": "no"}
    finish(lambda: workflow(tmp_path / "run", models, **again), tmp_path / "log")
    assert_same(tmp_path / "run", reference(**again))


def test_room_is_checked_before_a_save(models: Path, reference: Callable[..., Any], tmp_path: Path) -> None:
    """With 1 MB free nothing is written at all, and the message has both numbers."""

    def full() -> None:
        usage = shutil.disk_usage(tmp_path)
        shutil.disk_usage = lambda path: usage._replace(free=1_000_000)  # type: ignore[assignment]
        train(workflow(tmp_path / "run", models, save_steps=5))

    child = run_child(full, tmp_path / "log")
    assert child.code == 2 and "not enough room" in child.text and "1.0 MB are free" in child.text
    assert "it needs" in child.text and "Traceback" not in child.text
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    finish(lambda: workflow(tmp_path / "run", models, save_steps=5), tmp_path / "log")
    assert_same(tmp_path / "run", reference(save_steps=5))


def test_metrics_refused(models: Path, reference: Callable[..., Any], tmp_path: Path) -> None:
    """metrics.jsonl itself cannot grow: one line as well, and no half line stays after the resume."""

    def refused() -> None:
        at("begin", 6, lambda: limit_file_size(os.path.getsize(tmp_path / "run" / "metrics.jsonl") + 20))
        train(workflow(tmp_path / "run", models, save_steps=5))

    child = run_child(refused, tmp_path / "log")
    assert child.code == 2 and "metrics.jsonl: cannot be written" in child.text and "Traceback" not in child.text
    finish(lambda: workflow(tmp_path / "run", models, save_steps=5), tmp_path / "log")
    assert metrics(tmp_path / "run")
    assert_same(tmp_path / "run", reference(save_steps=5))


def test_full_file_system(models: Path, reference: Callable[..., Any], tmp_path: Path) -> None:
    """A real disk of 3 MB that fills up: needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount")
    try:
        (disk / "other").write_bytes(bytes(2_000_000))
        child = run_child(lambda: train(workflow(disk / "run", models)), tmp_path / "log")
        assert child.code == 2 and "Traceback" not in child.text and "cannot be written" in child.text
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_folder_problems_show_before_anything_is_loaded(models: Path, tmp_path: Path) -> None:
    """A file where the folder should be: exit 2 before data or model is read."""
    (tmp_path / "file").write_text("")

    def refused() -> None:
        from rmx.data import SyntheticData

        def read(self: Any, *args: Any) -> None:
            raise AssertionError("data was read")

        SyntheticData.read = read  # type: ignore[assignment,method-assign]
        train(workflow(tmp_path / "file" / "run", models))

    child = run_child(refused, tmp_path / "log")
    assert child.code == 2 and "output_dir" in child.text and "data was read" not in child.text
    assert len(errors_in(child.text)) == 1


def test_what_is_a_disk_error() -> None:
    """Native code's messages count by the number in them; other errors pass as they are."""
    with pytest.raises(OutputError, match="No space left on device"), writing(Path("/tmp/x"), 10):
        raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(ValueError, match="other"), writing(Path("/tmp/x")):
        raise ValueError("other")
    with pytest.raises(FileNotFoundError), writing(Path("/tmp/x")):
        raise FileNotFoundError(2, "gone")
    with pytest.raises(OutputError, match=r"it needs 9000000\.0 TB"):
        require_room(Path("/tmp/not/there"), 9 * 10**18)
    assert readable_bytes(1_500) == "1.5 kB"
