"""Files of every kind give the same rows, with the place of each."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from rmx.data import PreferenceData
from rmx.data.read import read_rows
from rmx.errors import DataError

ROWS = [{"prompt": f"Wie groß ist {n}?", "chosen": f"a {n} \u2028 ☃", "rejected": f"b {n}"} for n in range(50)]


def jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")


def json_list(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")


def json_wrapped(path: Path) -> None:
    path.write_text(json.dumps({"version": 1, "data": ROWS}), encoding="utf-8")


def csv(path: Path) -> None:
    import csv as library

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = library.DictWriter(file, ROWS[0].keys(), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(ROWS)


def parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=20)


def arrow_file(path: Path) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def arrow_stream(path: Path) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


FILES: list[tuple[str, Callable[[Path], None]]] = [
    ("a.jsonl", jsonl),
    ("a.ndjson", jsonl),
    ("a.json", json_list),
    ("b.json", jsonl),
    ("c.json", json_wrapped),
    ("b.jsonl", json_list),
    ("a.csv", csv),
    ("a.tsv", csv),
    ("a.parquet", parquet),
    ("a.arrow", arrow_file),
    ("b.arrow", arrow_stream),
]


@pytest.mark.parametrize(("name", "write"), FILES, ids=[f"{write.__name__}-{name}" for name, write in FILES])
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_every_kind_of_file_gives_the_same_rows(
    tmp_path: Path, name: str, write: Callable[[Path], None], packing: str
) -> None:
    path = tmp_path / name
    write(path)
    if packing:
        packed = path.with_name(path.name + packing)
        data = path.read_bytes()
        packed.write_bytes(gzip.compress(data) if packing == ".gz" else zstandard.compress(data))
        path.unlink()
        path = packed
    assert [row for _, row, _ in read_rows(path)] == ROWS
    splits = PreferenceData(path=str(path), validation_fraction=0).read()
    assert [row.responses[0][0]["content"] for row in splits.train] == [row["chosen"] for row in ROWS]


def test_lines_of_a_json_list(tmp_path: Path) -> None:
    """Indented by one, a row of three keys takes five lines: rows start at lines 2, 7, 12, ..."""
    path = tmp_path / "a.json"
    json_list(path)
    assert [line for line, _, _ in read_rows(path)][:3] == [2, 7, 12]


def test_damaged_json_list_gives_the_rows_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    text = json.dumps(ROWS, indent=1)
    path.write_text(text[: text.index("Wie gro\\u00df ist 30") + 3])
    found = list(read_rows(path))
    assert [row for _, row, fault in found if fault is None] == ROWS[:30]
    assert str(found[-1][2]).startswith("broken JSON")
    assert len(found) == 31


def test_lines_of_a_csv_with_line_breaks_in_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,chosen,rejected\n"one\ntwo",a,b\nx,y\n"q",c,d\n')
    found = list(read_rows(path))
    assert [(line, row is not None) for line, row, _ in found] == [(2, True), (4, False), (5, True)]
    assert found[1][2].reason == "broken table row"


def test_csv_numbers_are_numbers(tmp_path: Path) -> None:
    """A CSV file has no types: cells of number columns are read as numbers, an empty cell as null."""
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected,margin,tie\np,a,b,0.5,false\nq,a,b,x,0\n")
    splits = PreferenceData(path=str(path), validation_fraction=0, on_bad_row="skip", max_bad_fraction=1).read()
    assert [row.pairs[0].margin for row in splits.train] == [0.5]
    assert dict(splits.accounting.sources["a"].rejected) == {"number not usable": 1}


@pytest.mark.parametrize("keep", [0.3, 0.9])
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.arrow"])
def test_broken_off_files_give_a_fault_not_a_traceback(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    plain = tmp_path / "plain"
    {"a.parquet": parquet, "a.arrow": arrow_file}.get(name, jsonl)(plain)
    data = plain.read_bytes()
    data = gzip.compress(data) if name.endswith("gz") else zstandard.compress(data) if name.endswith("zst") else data
    path.write_bytes(data[: int(len(data) * keep)])
    found = list(read_rows(path))
    assert found[-1][2] is not None
    assert [row for _, row, fault in found if fault is None] == ROWS[: sum(fault is None for _, _, fault in found)]
    with pytest.raises(DataError):
        PreferenceData(path=str(path)).read()


def test_not_packed_at_all(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        path = tmp_path / name
        jsonl(path)
        with pytest.raises(DataError, match="unreadable file part"):
            PreferenceData(path=str(path)).read()


def test_folder_glob_and_list(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", "notes.txt"):
        path = tmp_path / name
        jsonl(path)
        if name.endswith("gz"):
            path.write_bytes(gzip.compress(path.read_bytes()))
    for given in (str(tmp_path), str(tmp_path / "*.jsonl*"), [str(tmp_path / "a.jsonl.gz"), str(tmp_path / "b.jsonl")]):
        splits = PreferenceData(path=given, validation_fraction=0, name="both").read()
        assert [row.id for row in splits.train][49:51] == ["both/a.jsonl.gz:50", "both/b.jsonl:1"]
        assert splits.accounting.sources["both"].read == 100


def test_saved_datasets(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": rows, "test": rows.select(range(3))}).save_to_disk(str(tmp_path / "dict"))
    assert len(PreferenceData(path=str(tmp_path / "one"), validation_fraction=0).read().train) == 50
    assert len(PreferenceData(path=str(tmp_path / "dict"), validation_fraction=0).read().train) == 50
    assert len(PreferenceData(path=str(tmp_path / "dict"), split="test", validation_fraction=0).read().train) == 3
    with pytest.raises(DataError, match=r"data\.split: 'dev' is not a split of .*; it has: train, test"):
        PreferenceData(path=str(tmp_path / "dict"), split="dev").read()


def test_hub_dataset_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"(?s)no network.*hf download --repo-type dataset nobody/nothing"):
        PreferenceData(path="nobody/nothing").read()


def read(path: Path, data: bytes) -> list[tuple[int, str]]:
    path.write_bytes(data)
    return [(int(line), row["a"] if row else str(fault)) for line, row, fault in read_rows(path)]


JSON_LAYOUTS: list[tuple[bytes, list[tuple[int, str]]]] = [
    (b'{\n "a": "x"\n}\n{\n "a": "y"\n}\n', [(1, "x"), (4, "y")]),
    (b'{"a": "x"}{"a": "y"}', [(1, "x"), (2, "y")]),
    (b'{\n "a": "x"\n}\n{\n "a": \n}\n{\n "a": "z"\n}\n', [(1, "x"), (4, "broken JSON"), (7, "z")]),
    (b'[\n{"a": "x"},\n]\n', [(2, "x"), (3, "broken JSON: a comma after the last element, line 2, character 11")]),
    (b'[{"a": "x"}, {"a": "y"}]', [(1, "x"), (2, "y")]),
    (b'{"a": "x"}\n{"a": "x", "a": "y"}\n', [(1, "x"), (2, "repeated key: 'a' twice in one object")]),
    (b'[{"a": "x", "a": "y"}, {"a": "z"}]', [(1, "repeated key: 'a' twice in one object"), (2, "z")]),
    (b'{"a": "x", "b": {"c": 1, "c": 2}}\n', [(1, "repeated key: 'c' twice in one object")]),
]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(("data", "right"), JSON_LAYOUTS)
def test_layouts_of_json(tmp_path: Path, name: str, data: bytes, right: list[tuple[int, str]]) -> None:
    found = read(tmp_path / name, data)
    assert [number for number, _ in found] == [number for number, _ in right]
    assert all(text.startswith(start) for (_, text), (_, start) in zip(found, right, strict=True))


def test_a_column_twice_is_refused_in_every_table(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.csv").write_text("prompt,chosen,chosen,rejected\np,a,b,c\n")
    pq.write_table(pa.table([["p"], ["a"], ["b"]], names=["prompt", "chosen", "chosen"]), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(DataError, match="the column 'chosen' stands in it twice"):
            list(read_rows(tmp_path / name))


def test_arrow_values_are_those_of_json_lines(tmp_path: Path) -> None:
    """Two tools with parameters of their own: no null of one leaks into the other."""
    import datetime
    import decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    tools = [{"name": "f", "parameters": {"x": {"type": "string"}}}, {"name": "g", "parameters": {"y": {"type": "t"}}}]
    columns = {
        "tools": pa.array([tools, None]),
        "json": pa.array(['{"a": null}', None], pa.json_()),
        "jsons": pa.ListArray.from_arrays([0, 1, 1], pa.array(['{"b": 1}'], pa.json_())),
        "score": pa.array([decimal.Decimal("9.50"), None]),
        "day": pa.array([datetime.date(2024, 5, 1), None]),
        "text": pa.array([b"caf\xc3\xa9", b"\xff"]),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    first, second = (row for _, row, _ in read_rows(tmp_path / "a.parquet"))
    assert first == {
        "tools": tools, "json": {"a": None}, "jsons": [{"b": 1}], "score": 9.5, "day": "2024-05-01", "text": "café",
        "map": {"k": 1},
    }  # fmt: skip
    assert second == {**dict.fromkeys(columns), "jsons": [], "text": b"\xff"}


def test_files_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (tmp_path / "a.jsonl").write_bytes('{"a": 1}\n'.encode("utf-16"))
    for name, right in (("a.parquet", "git lfs pull"), ("a.jsonl", "iconv -f UTF-16")):
        with pytest.raises(DataError, match=right):
            list(read_rows(tmp_path / name))
