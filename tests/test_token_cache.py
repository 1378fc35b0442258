"""The token cache: a hit equals a fresh encoding, all that matters is in the key, nothing half-written is read."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from family_tokenizers import family_tokenizer

from rmx.errors import ConfigError, DataError
from rmx.records import Comparison, EncodedComparison, Pair
from rmx.templates import Template
from rmx.tokens import EncodedRows, cache_folder, cached_encode, content_key, encode
from rmx.tokens import cache as cache_module
from rmx.tokens.trim import trim

TOKENIZER = family_tokenizer("qwen")
TEMPLATE = Template("chatml").bind(TOKENIZER)


def make_rows(count: int = 7) -> list[Comparison]:
    """Rows with 2 and 3 responses, several pairs, sources, odd ids and known truths."""
    rows = []
    for i in range(count):
        responses = [f"answer {i}", f"no {i}", "dog" * i][: 2 + i % 2]
        rows.append(
            Comparison(
                id=f"zeile-{i}-ü" if i % 3 else f"{i}",
                source=("a", "b")[i % 2],
                prompt=({"role": "user", "content": "How do I bake bread? " * (i + 1)},),
                responses=tuple(({"role": "assistant", "content": text},) for text in responses),
                pairs=(Pair(0, 1, margin=i / 3),) + ((Pair(0, 2, target=0.7, weight=2.0, tie=True),) if i % 2 else ()),
                truth=tuple(float(k) / 7 for k in range(len(responses))) if i % 3 == 1 else None,
            )
        )
    return rows


def same(one: EncodedComparison, other: EncodedComparison) -> bool:
    parts = zip((one.prefix_ids, *one.suffix_ids), (other.prefix_ids, *other.suffix_ids), strict=True)
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in parts) and (
        one.id,
        one.source,
        one.pairs,
        one.truncated,
        one.truth,
    ) == (other.id, other.source, other.pairs, other.truncated, other.truth)


def run(rows: object, folder: Path, **changed: object) -> EncodedRows:
    limits = {"max_tokens": 40, **changed}
    found, _ = cached_encode(rows, TOKENIZER, TEMPLATE, folder=folder, **limits)  # type: ignore[arg-type]
    assert isinstance(found, EncodedRows)
    return found


def test_hit_and_miss_equal_a_fresh_encoding(tmp_path: Path) -> None:
    rows = make_rows()
    fresh, report = encode(rows, TOKENIZER, TEMPLATE, max_tokens=40)
    for _ in range(2):
        found = run(rows, tmp_path)
        assert len(found) == len(fresh)
        assert all(same(a, b) for a, b in zip(found, fresh, strict=True))
        assert found.report == report
    assert same(found[-1], fresh[-1])
    assert [row.id for row in found[2:5]] == [row.id for row in fresh[2:5]]
    with pytest.raises(IndexError):
        found[len(fresh)]
    assert report.truncated > 0


def test_rows_pickle_as_their_path_and_take_part_in_torch(tmp_path: Path) -> None:
    import torch

    found = run(make_rows(), tmp_path)
    text = pickle.dumps(found)
    assert len(text) < 1000
    assert same(pickle.loads(text)[3], found[3])
    ids = torch.from_numpy(found[0].prefix_ids)  # a read-only array would warn, and warnings are errors here
    ids[0] = 0  # and a write must not reach the file
    assert run(make_rows(), tmp_path)[0].prefix_ids[0] != 0


def test_second_run_does_not_encode_and_need_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, reads = make_rows(), []

    def read() -> Iterator[Comparison]:
        reads.append(1)
        return iter(rows)

    run(read, tmp_path, content="rows of today")
    assert len(reads) == 1
    monkeypatch.setattr(cache_module.ChunkEncoder, "encode", None)
    assert len(run(read, tmp_path, content="rows of today")) == len(rows)
    assert len(reads) == 1


def test_everything_that_matters_is_in_the_key(tmp_path: Path) -> None:
    rows = make_rows()

    def sets() -> int:
        return len([entry for entry in (tmp_path / "tokens").iterdir() if entry.is_dir()])

    run(rows, tmp_path)
    assert sets() == 1
    run(rows, tmp_path, max_tokens=41)
    run(rows, tmp_path, truncation="drop")
    run(rows[:-1], tmp_path)
    run(list(reversed(rows)), tmp_path)
    cached_encode(rows, TOKENIZER, Template("plain").bind(TOKENIZER), max_tokens=40, folder=tmp_path)
    other = family_tokenizer("qwen")
    other.add_tokens(["bread"])
    cached_encode(rows, other, Template("chatml").bind(other), max_tokens=40, folder=tmp_path)
    assert sets() == 7
    TOKENIZER(["a", "b c"], padding=True)  # the tokenizer's passing state does not matter
    run(rows, tmp_path)
    assert sets() == 7


def test_content_key_sees_every_field() -> None:
    row = make_rows()[1]
    keys = {content_key([row])}
    for name, value in (
        ("id", "x"),
        ("source", "x"),
        ("prompt", ()),
        ("responses", row.responses[:2]),
        ("pairs", (Pair(1, 0),)),
        ("tools", ({"name": "t"},)),
        ("truth", None),
    ):
        fields = {field: getattr(row, field) for field in Comparison.__slots__}
        keys.add(content_key([Comparison(**{**fields, name: value})]))
    assert len(keys) == 8
    fields["where"] = "elsewhere:3"
    assert content_key([Comparison(**fields)]) in keys


@pytest.mark.parametrize("damage", ["delete", "empty", "half", "flip"])
@pytest.mark.parametrize("name", ["ids.npy", "parts_end.npy", "pairs.npy", "rows.npy", "meta.json"])
def test_damaged_sets_are_made_again(tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = make_rows()
    folder = run(rows, tmp_path).folder
    file = folder / name
    data = bytearray(file.read_bytes())
    data[len(data) * 3 // 4] ^= 16
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "half": bytes(data[: len(data) // 2]), "flip": bytes(data)}[damage])
    if name == "meta.json" and damage == "flip":
        file.write_text(file.read_text().replace('"version": 1', '"version": 0'))
    fresh, _ = encode(rows, TOKENIZER, TEMPLATE, max_tokens=40)
    found = run(rows, tmp_path)
    assert all(same(a, b) for a, b in zip(found, fresh, strict=True))
    assert "is made again" in caplog.text
    assert not list((tmp_path / "tokens").glob(".*"))


def test_unwritable_cache_is_no_obstacle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tokens").write_text("a file where the folder should be")
    rows, report = cached_encode(make_rows(), TOKENIZER, TEMPLATE, max_tokens=40, folder=tmp_path)
    assert isinstance(rows, list) and report.kept == len(rows) == 7
    assert "encoding into memory" in caplog.text


def test_full_disk_leaves_nothing_and_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, rows: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module.Writer, "add", full)
    rows, report = cached_encode(make_rows(), TOKENIZER, TEMPLATE, max_tokens=40, folder=tmp_path)
    assert report.read == len(rows) == 7
    assert [entry.suffix for entry in (tmp_path / "tokens").iterdir()] == [".lock"]


def test_bad_rows_stop_it_and_leave_nothing(tmp_path: Path) -> None:
    bad = Comparison("x", "s", (), (({"role": "assistant", "content": 3},),) * 2, (Pair(0, 1),), where="f:3")
    with pytest.raises(DataError, match="f:3"):
        run([*make_rows(), bad], tmp_path)
    assert not [entry for entry in (tmp_path / "tokens").iterdir() if entry.is_dir()]


def test_sets_that_were_not_used_for_longest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sets, used 3, 2 and 0 days ago: a limit of one set removes the oldest first, and none of today's."""
    folders = [run(make_rows(count), tmp_path).folder for count in (7, 8, 9)]
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in folders]
    now = time.time()
    for folder, days in zip(folders, (3, 2, 0), strict=True):
        os.utime(folder, (now - days * 86_400, now - days * 86_400))
    assert trim(tmp_path / "tokens", sum(sizes)) == []
    assert trim(tmp_path / "tokens", sum(sizes) - 1) == folders[:1]
    assert trim(tmp_path / "tokens", 0) == folders[1:2]  # the last was used within a day
    assert sorted(entry.name for entry in (tmp_path / "tokens").iterdir()) == sorted(
        [folders[2].name, f"{folders[2].name}.lock"]
    )
    old = now - 2 * 86_400
    os.utime(folders[2], (old, old))
    assert run(make_rows(9), tmp_path).folder == folders[2]  # and opening it counts as use
    assert folders[2].stat().st_mtime > now - 60
    monkeypatch.setenv("RMX_CACHE_GB", "0")
    os.utime(folders[2], (old, old))
    fresh = run(make_rows(10), tmp_path).folder  # making one looks at the limit
    assert fresh.is_dir() and not folders[2].exists()


@pytest.mark.parametrize("given", ["many", "-1", "nan"])
def test_a_limit_that_is_no_number_is_refused(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMX_CACHE_GB", given)
    with pytest.raises(ConfigError, match=f"RMX_CACHE_GB='{given}': give gigabytes"):
        run(make_rows(), tmp_path)


def test_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMX_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.setenv("RMX_CACHE", "off")
    assert cache_folder() is None
    rows, _ = cached_encode(make_rows(), TOKENIZER, TEMPLATE, max_tokens=40)
    assert isinstance(rows, list)
    monkeypatch.delenv("RMX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "rmx"


def _together(folder: Path, results: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    rows = run(make_rows(300), folder)
    results.put((str(rows.folder), sum(int(row.prefix_ids.sum()) for row in rows)))


def test_two_runs_at_once_end_with_one_set(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    runs = [context.Process(target=_together, args=(tmp_path, results)) for _ in range(2)]
    for process in runs:
        process.start()
    answers = [results.get(timeout=120) for _ in runs]
    for process in runs:
        process.join(60)
    assert answers[0] == answers[1]
    assert len([entry for entry in (tmp_path / "tokens").iterdir() if entry.is_dir()]) == 1


_VICTIM = """
import sys, time
sys.path.insert(0, {tests!r})
import test_token_cache as t
add = t.cache_module.Writer.add
def slow(self, rows):
    add(self, rows); print("writing", flush=True); time.sleep(60)
t.cache_module.Writer.add = slow
t.run(t.make_rows(), t.Path({folder!r}))
"""


def test_killed_run_is_no_obstacle_and_is_swept_up(tmp_path: Path) -> None:
    code = _VICTIM.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "writing\n"
        victim.send_signal(signal.SIGKILL)
    (left,) = (tmp_path / "tokens").glob(".*")
    assert left.is_dir()
    assert len(run(make_rows(), tmp_path)) == 7

    assert not left.exists()


def test_meta_is_json_with_the_report(tmp_path: Path) -> None:
    found = run(make_rows(), tmp_path)
    meta = json.loads((found.folder / "meta.json").read_text())
    assert meta["report"]["kept"] == 7
    assert meta["sources"] == ["a", "b"]
