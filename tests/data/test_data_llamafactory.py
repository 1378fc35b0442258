"""LLaMA-Factory's dataset_info.json: formats, columns, tags and several datasets."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rmx.data import LlamaFactoryData, Mixture
from rmx.errors import ConfigError, DataError

INFO: dict[str, Any] = {
    "talk": {
        "file_name": "talk.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    },
    "task": {
        "file_name": "task.json",
        "ranking": True,
        "columns": {"prompt": "q", "query": "more", "chosen": "good", "rejected": "bad"},
        "num_samples": 8,
    },
    "tagged": {
        "file_name": "tagged.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "turns", "chosen": "good", "rejected": "bad"},
        "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "client", "assistant_tag": "agent"},
    },
    "sft": {"file_name": "sft.json"},
    "scripted": {"script_url": "x", "ranking": True},
    "hub": {"hf_hub_url": "org/pairs", "subset": "en", "ranking": True},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO))
    talk = [
        {
            "conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": f"Hi {n}"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "No"},
        }
        for n in range(10)
    ]
    task = [{"q": f"Add {n}.", "more": "2+2", "good": "4", "bad": "5"} for n in range(10)]
    tagged = [
        {
            "turns": [{"who": "client", "what": f"Hey {n}"}],
            "good": {"who": "agent", "what": "Hello"},
            "bad": {"who": "agent", "what": "No"},
        }
        for n in range(10)
    ]
    for name, rows in (("talk", talk), ("task", task), ("tagged", tagged)):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    return tmp_path


def test_sharegpt_entry(folder: Path) -> None:
    splits = LlamaFactoryData(path=str(folder), dataset="talk").read()
    assert (len(splits.train), len(splits.evals["eval"])) == (9, 1)
    assert splits.train[0].source == "talk"
    assert [message["role"] for message in splits.train[0].prompt] == ["system", "user"]


def test_alpaca_entry_with_other_column_names(folder: Path) -> None:
    splits = LlamaFactoryData(path=str(folder), dataset="task", validation_fraction=0).read()
    assert len(splits.train) == 8  # num_samples
    assert splits.train[0].prompt[0]["content"].endswith(".\n2+2")


def test_tags(folder: Path) -> None:
    splits = LlamaFactoryData(path=str(folder / "dataset_info.json"), name="tagged", validation_fraction=0).read()
    assert splits.train[0].prompt == ({"role": "user", "content": "Hey 0"},)
    assert splits.train[0].responses[0] == ({"role": "assistant", "content": "Hello"},)


def test_several_entries_are_joined(folder: Path) -> None:
    spec = LlamaFactoryData(path=str(folder), dataset=["talk", "task"], eval_sets={"other": "tagged"})
    splits = spec.read()
    assert {row.source for row in splits.train} == {"talk", "task"}
    assert len(splits.evals["other"]) == 10
    assert splits.accounting.adds_up()
    assert spec.source == "talk+task"


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("talkk", "'talkk' is not in .*its ranking datasets: talk, task, tagged, scripted, hub"),
        ("sft", "it holds no pairs"),
        ("scripted", "neither file_name nor hf_hub_url"),
    ],
)
def test_entries_that_cannot_be_read(folder: Path, dataset: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LlamaFactoryData(path=str(folder), dataset=dataset).read()


def test_no_dataset_info(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*dataset_info\.json"):
        LlamaFactoryData(path=str(tmp_path), dataset="x").read()


def test_what_the_entry_says_is_not_said_twice() -> None:
    with pytest.raises(ConfigError, match="come from dataset_info"):
        LlamaFactoryData(path="x", dataset="x", columns={"chosen": "y"})
    with pytest.raises(ConfigError, match=r"data\.dataset"):
        LlamaFactoryData(path="x")


def test_an_entry_is_a_source_of_a_mixture(folder: Path) -> None:
    """Its rows are those that the entry names, under the name that the mixture gives them, beside those of a file."""
    (folder / "own.jsonl").write_text(json.dumps({"prompt": "Own?", "chosen": "yes", "rejected": "no"}) + "\n")
    task = LlamaFactoryData(path=str(folder), dataset="task")
    mixed = Mixture(sources={"lf": task, "own": {"path": str(folder / "own.jsonl")}}, validation_fraction=0.0)
    splits = mixed.read()
    assert Counter(row.source for row in splits.train) == {"lf": 8, "own": 1}  # num_samples is 8
    assert [row.prompt for row in splits.train[:8]] == [
        row.prompt for row in LlamaFactoryData(path=str(folder), dataset="task", validation_fraction=0.0).read().train
    ]
    account = splits.accounting.sources["lf"]
    assert (account.read, account.kept, account.unused, splits.accounting.adds_up()) == (10, 8, 2, True)


def test_a_source_of_a_mixture_is_one_entry_and_its_mistakes_name_it(folder: Path) -> None:
    two = LlamaFactoryData(path=str(folder), dataset=["talk", "task"])
    with pytest.raises(
        ConfigError, match=r"data.sources.lf.dataset: a source of a mixture is one entry; make a source"
    ):
        Mixture(sources={"lf": two})
    with pytest.raises(DataError, match=r"data.sources.lf.dataset: 'tusk' is not in"):
        Mixture(sources={"lf": LlamaFactoryData(path=str(folder), dataset="tusk")}).read()
    with pytest.raises(ConfigError, match=r"data.streaming: the rows of several entries are held in memory"):
        LlamaFactoryData(path=str(folder), dataset=["talk", "task"], streaming=True)
