"""Rows on disk are the rows in memory: the same split, the same audit, the same accounting."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from rmx.data import PreferenceData
from rmx.data.audit import audit
from rmx.data.spool import Spool
from rmx.errors import ConfigError, OutputError
from rmx.records import Comparison, Pair


@pytest.fixture
def path(tmp_path: Path) -> str:
    rows = [
        {
            "prompt": f"Frage {n // 2}? ☃",
            "responses": [f"a{n}", f"b{n}", f"c{n}"],
            "scores": [n % 3, 1.5, 9],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": [1, None, True]}}}],
        }
        for n in range(200)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    return str(file)


def test_streamed_rows_are_the_same(path: str, tmp_path: Path) -> None:
    spec = {"path": path, "on_bad_row": "skip", "margin_from_scores": 0.5}
    plain = PreferenceData(**spec).read()
    streamed = PreferenceData(**spec, streaming=True).read(tmp_path / "out")
    assert isinstance(streamed.train, Spool)
    assert list(streamed.train) == plain.train
    assert list(streamed.evals["eval"]) == plain.evals["eval"]
    assert streamed.accounting.as_dict() == plain.accounting.as_dict()
    assert audit(streamed).as_dict() == audit(plain).as_dict()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["rejects.jsonl"]


def test_max_samples(path: str) -> None:
    spec = {"path": path, "on_bad_row": "skip", "max_samples": 50, "validation_fraction": 0.0}
    assert list(PreferenceData(**spec, streaming=True).read().train) == PreferenceData(**spec).read().train


def test_sequence() -> None:
    rows = [Comparison(str(n), "s", (), (), (Pair(0, 1, n / 3),), truth=(0.5, -0.5)) for n in range(10)]
    spool = Spool.of(iter(rows))
    assert (len(spool), spool[-1], list(spool[2:8:3])) == (10, rows[9], [rows[2], rows[5]])
    part = spool.take([7, 1, 3])
    assert [row.id for row in part[1:]] == ["1", "3"]
    del spool
    assert part[0] == rows[7]
    with pytest.raises(IndexError):
        part[3]
    assert "3" in repr(part)


def test_own_ids_are_not_used(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"id": "same", "chosen": "a", "rejected": "b"}
    file.write_text("".join(json.dumps({**row, "prompt": str(n)}) + "\n" for n in range(3)))
    splits = PreferenceData(path=str(file), streaming=True, validation_fraction=0).read()
    assert [row.id for row in splits.train] == ["rows:1", "rows:2", "rows:3"]


def test_folder_that_cannot_be_written(path: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match=r"data\.streaming"):
        PreferenceData(path=path, on_bad_row="skip", streaming=True).read(tmp_path / "taken")


def test_a_mixture_does_not_stream() -> None:
    from rmx.data import Mixture

    with pytest.raises(ConfigError, match=r"data\.sources\.a\.streaming"):
        Mixture(sources={"a": {"path": "a.jsonl", "streaming": True}})


def test_the_audit_of_a_large_spool_looks_at_a_part(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rmx.data.audit import audit as module_function

    monkeypatch.setitem(module_function.__globals__, "_PART_OF_SPOOL", 40)
    found = audit(PreferenceData(path=path, on_bad_row="skip", streaming=True, validation_by="count").read())
    assert found.numbers["looked_at"] == {"train": 40, "eval": 20}
    assert any("40 of its 180 comparisons" in finding.text for finding in found.findings)


def test_cells_of_a_table_become_plain_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("system,prompt,chosen,rejected,id\nBe kind.,q,a,b,7\n,,c,d,8\n")
    spec = {"path": str(file), "validation_fraction": 0.0}
    plain = PreferenceData(**spec).read().train
    assert [row.id for row in plain] == ["7", "8"]
    messages = [message for row in plain for part in (row.prompt, *row.responses) for message in part]
    assert {type(message["content"]) for message in messages} == {str}
    streamed = PreferenceData(**spec, streaming=True).read().train
    assert [row.responses for row in streamed] == [row.responses for row in plain]


def test_streamed_evaluation_sets_lie_in_the_run_folder_too(path: str, tmp_path: Path, monkeypatch) -> None:
    """The set `test` has rows of its own; no file is made in the system's temporary folder, which may be small."""
    made: list[str] = []
    make = tempfile.mkstemp
    monkeypatch.setattr(tempfile, "mkstemp", lambda *a, **k: made.append(k.get("dir")) or make(*a, **k))
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "Other?", "responses": ["a", "b"], "scores": [1, 2]}) + "\n")
    spec = PreferenceData(path=path, on_bad_row="skip", streaming=True, eval_sets={"test": str(other)})
    splits = spec.read(tmp_path / "out")
    assert isinstance(splits.evals["test"], Spool) and len(splits.evals["test"]) == 1
    assert [folder for folder in made if folder is None] == [] and made.count(tmp_path / "out") >= 2
