"""Files and folders are whole or as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rmx.errors import OutputError
from rmx.files import FolderLock, new_folder, remove_unfinished, write_json, write_lines, write_text


def test_json_without_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"nan": float("nan"), "inf": [float("inf")], "ok": 1.5})
    assert (tmp_path / "a.json").read_text() == '{\n  "nan": null,\n  "inf": [\n    null\n  ],\n  "ok": 1.5\n}\n'


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", ["old"])

    def lines():
        yield "new"
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left on device"):
        write_lines(path, lines())
    assert path.read_text() == "old\n" and [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with new_folder(final) as made:
        (made / "weights").write_text("old")
    with pytest.raises(RuntimeError), new_folder(final) as made:
        (made / "weights").write_text("half")
        raise RuntimeError
    assert (final / "weights").read_text() == "old" and list(tmp_path.iterdir()) == [final]
    with new_folder(final) as made:
        (made / "weights").write_text("new")
    assert (final / "weights").read_text() == "new" and list(tmp_path.iterdir()) == [final]
    assert final.stat().st_mode & 0o777 == 0o755


def test_the_folder_is_there_at_every_instant(tmp_path: Path) -> None:
    """A reader opens the same file 50 times a millisecond apart from two hundred replacements, and never misses it."""
    final = tmp_path / "model"
    with new_folder(final) as made:
        (made / "weights").write_text("0")
    misses, reads, stop = [], [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                reads.append((final / "weights").read_text())
            except FileNotFoundError as error:
                misses.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 200):
        with new_folder(final) as made:
            (made / "weights").write_text(str(number))
    stop.set()
    reader.join()
    assert len(set(reads)) > 5  # it really read while folders were exchanged
    assert not misses


def test_a_kill_while_writing_is_cleared(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time\n"
        "from rmx.files import new_folder\n"
        "with new_folder(pathlib.Path(sys.argv[1])) as made:\n"
        "    (made / 'weights').write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "model")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "writing\n"
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    assert [entry.name for entry in tmp_path.iterdir()] != []  # the kill left something
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_an_exchange_of_names_a_kill_between_two_renames_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a refused second rename the old folder has its name; after a kill `remove_unfinished` gives it back."""
    monkeypatch.setattr("rmx.files._exchange", lambda one, other: False)
    final, rename, renamed = tmp_path / "model", Path.rename, []
    with new_folder(final) as made:
        (made / "weights").write_text("old")

    def refuse(self: Path, target: Path) -> Path:
        renamed.append(target.name)
        if self == made:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output"), new_folder(final) as made:
        (made / "weights").write_text("new")
    assert renamed == [".model.replaced", "model", "model"]
    assert (final / "weights").read_text() == "old" and list(tmp_path.iterdir()) == [final]
    monkeypatch.undo()

    final.rename(tmp_path / ".model.replaced")  # as a kill between the two leaves it
    remove_unfinished(tmp_path)
    assert (final / "weights").read_text() == "old" and list(tmp_path.iterdir()) == [final]
    (tmp_path / ".model.replaced").mkdir()  # a kill after the second
    remove_unfinished(tmp_path)
    assert (final / "weights").read_text() == "old" and list(tmp_path.iterdir()) == [final]


def test_only_what_is_named_is_cleared(tmp_path: Path) -> None:
    for name in (".a.1.unfinished", ".b.1.unfinished"):
        (tmp_path / name).mkdir()
    remove_unfinished(tmp_path, "a")
    assert [entry.name for entry in tmp_path.iterdir()] == [".b.1.unfinished"]


def test_the_lock_keeps_this_process_and_others_out(tmp_path: Path) -> None:
    """Record locks alone would let the same process in twice, and free the folder when either closes."""
    first = FolderLock(tmp_path)
    with pytest.raises(OutputError, match="another run of this process"):
        FolderLock(tmp_path)
    program = (
        "import pathlib, sys\n"
        "from rmx.errors import OutputError\n"
        "from rmx.files import FolderLock\n"
        "try:\n"
        "    FolderLock(pathlib.Path(sys.argv[1]))\n"
        "except OutputError as error:\n"
        "    sys.exit(2)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == 2  # the refused second try has freed nothing
    first.release()
    assert subprocess.run(command, check=False).returncode == 0
    FolderLock(tmp_path).release()


def test_text_keeps_its_line_ends(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a.csv", "a\r\nb\r\n").read_bytes() == b"a\r\nb\r\n"
