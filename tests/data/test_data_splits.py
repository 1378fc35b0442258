"""What a folder's names say: splits, configurations, and files that hold no rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmx.data import Mixture, PreferenceData
from rmx.data.audit import audit
from rmx.data.read.splits import choose_files
from rmx.errors import ConfigError, DataError

SHARD = "data/train_prefs-0000{}-of-00002.parquet"


def folder(root: Path, *names: str) -> str:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"prompt": f"{name} {n}?", "chosen": "yes", "rejected": "no"} for n in range(2)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(root)


def sources(**keys: object) -> list[str]:
    splits = PreferenceData(**{"validation_fraction": 0.0, **keys}).read()
    return list(dict.fromkeys(row.prompt[0]["content"].split()[0] for row in splits.train))


# names, split → files, or the message
CHOICES = [
    (["train.jsonl", "test.jsonl"], None, ["train.jsonl"]),
    (["train.jsonl", "test.jsonl"], "test", ["test.jsonl"]),
    (["train.jsonl", "test.jsonl"], "train+test", ["train.jsonl", "test.jsonl"]),
    (["train.jsonl", "test.jsonl"], "dev", "'dev' is not a split of here; it has: test, train"),
    (["train.jsonl", "test.jsonl"], "train[:10%]", "data.max_samples"),
    (["pairs.jsonl", "pairs_dev.jsonl"], None, ["pairs.jsonl"]),
    (["a.jsonl", "b.jsonl", "dataset_infos.json", "package.json"], None, ["a.jsonl", "b.jsonl"]),
    (["a.jsonl"], "train_prefs", "here has no splits; leave it out"),
    (["a.jsonl"], "train", ["a.jsonl"]),
    (["test.jsonl"], None, "has no split train; name one of: test"),
    (["train/a.jsonl", "test/a.jsonl"], None, ["train/a.jsonl"]),
    ([SHARD.format(0), SHARD.format(1), "data/test_prefs-00000-of-00001.parquet"], None, "name one of: test_prefs"),
    ([SHARD.format(0), SHARD.format(1)], "train_prefs", [SHARD.format(0), SHARD.format(1)]),
    ([SHARD.format(1)], "train_prefs", "only 1 of 2 files are there (missing: number 00000)"),
    (["README.md", "state.json"], None, "holds no"),
]


@pytest.mark.parametrize(("names", "split", "right"), CHOICES)
def test_files_of_a_split(names: list[str], split: str | None, right: list[str] | str) -> None:
    if isinstance(right, list):
        assert choose_files(names, {}, split, None, "here").names == right
        return
    with pytest.raises(DataError) as error:
        choose_files(names, {}, split, None, "here")
    assert right in str(error.value)


LAYOUTS = [
    ["train.jsonl", "test.jsonl"],
    ["train/a.jsonl", "test/a.jsonl", "validation/b.jsonl"],
    ["pairs-train.jsonl", "pairs-dev.jsonl"],
    ["data/train_prefs-00000-of-00001.jsonl", "data/test_gen-00000-of-00001.jsonl"],
    ["a.jsonl", "b.jsonl"],
]


@pytest.mark.parametrize("names", LAYOUTS)
def test_splits_are_those_that_datasets_finds(tmp_path: Path, names: list[str]) -> None:
    import datasets

    path = folder(tmp_path, *names)
    for split, files in datasets.load_dataset_builder(path).config.data_files.items():
        theirs = {Path(file).relative_to(tmp_path).as_posix() for file in files}
        assert set(choose_files(names, {}, str(split), None, path).names) == theirs


def test_test_files_are_never_trained_on_unasked(tmp_path: Path) -> None:
    path = folder(tmp_path, "train.jsonl", "test.jsonl")
    assert sources(path=path) == ["train.jsonl"]
    assert sources(path=f"{path}/*.jsonl") == ["train.jsonl"]
    assert sources(path=path, split="test") == ["test.jsonl"]
    splits = PreferenceData(path=path, validation_fraction=0.0, eval_sets={"held out": {"split": "test"}}).read()
    assert list(splits.evals) == ["held-out"]
    assert len(splits.evals["held-out"]) == 2
    notes = splits.accounting.notes
    assert any("not read: test (data.split chooses)" in note for note in notes)
    assert "the evaluation set 'held out' is called held-out in files and metrics" in notes


def test_keys_that_have_nothing_to_act_on(tmp_path: Path) -> None:
    path = folder(tmp_path, "a.jsonl")
    for key, value in (("split", "dev"), ("config", "x"), ("revision", "v1")):
        with pytest.raises(DataError, match=rf"data\.{key}: '{value}'"):
            PreferenceData(path=f"{path}/a.jsonl", **{key: value}).read()
    with pytest.raises(DataError, match="is named twice"):
        PreferenceData(path=[f"{path}/a.jsonl", path]).read()


def test_configurations_of_a_clone(tmp_path: Path) -> None:
    path = folder(tmp_path, "x/a.jsonl", "x/b.jsonl", "y/c.jsonl")
    assert sources(path=path, config="y") == ["y/c.jsonl"]
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: one\n  data_files: x/*.jsonl\n---\n")
    assert sources(path=path) == ["x/a.jsonl", "x/b.jsonl"]


@pytest.mark.parametrize("names", [["train"], ["a b", "a/b"], ["///"], ["x" * 81], ["Hard", "hard"]])
def test_names_of_evaluation_sets_are_refused_before_anything_is_read(names: list[str]) -> None:
    sets = {name: "nowhere.jsonl" for name in names}
    with pytest.raises(ConfigError, match=r"data\.eval_sets\."):
        PreferenceData(path="nowhere.jsonl", eval_sets=sets)
    with pytest.raises(ConfigError, match=r"data\.eval_sets\."):
        Mixture(sources={"a": {"path": "nowhere.jsonl"}}, eval_sets=sets)


def test_minified_json_has_the_repeats_of_indented_json(tmp_path: Path) -> None:
    """1,000 rows over 900 contents repeat 100; one more row is another's the other way round."""
    rows = [{"prompt": f"Q {n % 900}", "chosen": f"a {n % 900}", "rejected": "b"} for n in range(1000)]
    rows.append({"prompt": "Q 3", "chosen": "b", "rejected": "a 3"})
    for indent in (None, 1):
        path = tmp_path / f"pairs{indent}.json"
        path.write_text(json.dumps(rows, indent=indent))
        splits = PreferenceData(path=str(path), validation_fraction=0.0).read()
        found = audit(splits).numbers["repeats"]
        assert (found["identical_pairs"], found["contradictions"]) == (100, 1)
        assert len({row.id for row in splits.train}) == len({row.where for row in splits.train}) == 1001
