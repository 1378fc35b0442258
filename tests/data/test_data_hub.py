"""Datasets of the hub, from a hub on the loopback: splits, configurations, revisions, tokens, proxies, the cache.

Every read is a process of its own, because the hub's library reads the environment when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_hub import FakeHub

READ = """
import json, sys
from rmx.data import PreferenceData
from rmx.errors import DataError
try:
    splits = PreferenceData(**json.loads(sys.argv[1])).read()
except DataError as error:
    print(json.dumps({"error": str(error)}))
else:
    rows = [[r.prompt[-1]["content"], r.responses[0][-1]["content"], r.pairs[0].winner, r.where] for r in splits.train]
    print(json.dumps({"rows": rows, "notes": splits.accounting.notes}))
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as server:
        yield server


def read(hub: FakeHub | None, cache: Path, environment: dict[str, str] | None = None, **keys: Any) -> dict[str, Any]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_HUB_CACHE": str(cache), "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env["HF_ENDPOINT"] = hub.url if hub else "http://127.0.0.1:9"  # nobody listens on the discard port
    spec = {"path": "org/pairs", "validation_fraction": 0.0, **keys}
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(spec)],
        env=env | (environment or {}), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def rows(tag: str, count: int = 2) -> list[dict[str, Any]]:
    return [{"prompt": f"{tag} {n}?", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(count)]


def jsonl(path: Path, content: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content))


def parquet(path: Path, content: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content), path)


def prompts(found: dict[str, Any]) -> list[str]:
    return [row[0] for row in found["rows"]]


@pytest.fixture
def served(hub: FakeHub, tmp_path: Path) -> Path:
    """A repository of parquet shards: two of train_prefs, one of test_prefs."""
    folder = tmp_path / "repo"
    parquet(folder / "data/train_prefs-00000-of-00002.parquet", rows("one"))
    parquet(folder / "data/train_prefs-00001-of-00002.parquet", rows("two"))
    parquet(folder / "data/test_prefs-00000-of-00001.parquet", rows("test"))
    (folder / "dataset_infos.json").write_text("{}")
    hub.served["org/pairs"] = folder
    return folder


def test_splits_and_the_cache(hub: FakeHub, served: Path, tmp_path: Path) -> None:
    found = read(hub, tmp_path / "cache", split="train_prefs")
    assert prompts(found) == ["one 0?", "one 1?", "two 0?", "two 1?"]
    assert found["rows"][3][3] == "org/pairs/data/train_prefs-00001-of-00002.parquet:row 2"
    assert not any("test_prefs" in request for request in hub.requests)
    assert "name one of: test_prefs, train_prefs" in read(hub, tmp_path / "cache")["error"]
    wrong = read(hub, tmp_path / "cache", split="dev")["error"]
    assert wrong == "data.split: 'dev' is not a split of org/pairs; it has: test_prefs, train_prefs"
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):  # no network, with and without being told
        again = read(None, tmp_path / "cache", environment, split="train_prefs")
        assert again["rows"] == found["rows"]
        missing = read(None, tmp_path / "cache", environment, split="test_prefs")["error"]
        assert "its copy in the cache is not whole" in missing
        nothing = read(None, tmp_path / "empty", environment, split="train_prefs")["error"]
        assert "no network" in nothing and "hf download --repo-type dataset org/pairs" in nothing


def test_configurations_of_a_json_repository(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    for config in ("easy", "hard"):
        for split in ("train", "test"):
            jsonl(folder / config / f"{split}.jsonl", rows(f"{config} {split}"))
    files = "".join(
        f"- config_name: {c}\n  data_files:\n  - {{split: train, path: {c}/train.jsonl}}\n"
        f"  - {{split: test, path: {c}/test*}}\n" for c in ("easy", "hard")
    )  # fmt: skip
    (folder / "README.md").write_text(f"---\nlicense: mit\nconfigs:\n{files}---\n# Pairs\n")
    hub.served["org/pairs"] = folder
    found = read(hub, tmp_path / "cache", config="hard", split="test")
    assert (found["rows"][0][0], found["rows"][0][3]) == ("hard test 0?", "org/pairs/hard/test.jsonl:1")
    assert prompts(read(hub, tmp_path / "cache", config="easy")) == ["easy train 0?", "easy train 1?"]
    assert "name one of: easy, hard" in read(hub, tmp_path / "cache")["error"]
    assert "'odd' is not a configuration of org/pairs; it has: easy, hard" in read(
        hub, tmp_path / "cache", config="odd"
    )["error"]  # fmt: skip


def test_revisions(hub: FakeHub, served: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    jsonl(old / "train.jsonl", rows("old"))
    hub.branches["v1"] = ("b" * 40, old)
    for revision in ("v1", "b" * 40):
        assert prompts(read(hub, tmp_path / "cache", revision=revision)) == ["old 0?", "old 1?"]
    assert "data.revision: 'v9' is not a branch" in read(hub, tmp_path / "cache", revision="v9")["error"]


def test_private_gated_and_unknown(hub: FakeHub, served: Path, tmp_path: Path) -> None:
    hub.private["org/pairs"] = "hf_open"
    refused = read(hub, tmp_path / "cache", split="train_prefs")["error"]
    assert "does not exist, or is private" in refused
    found = read(hub, tmp_path / "cache", {"HF_TOKEN": "hf_open"}, split="train_prefs")
    assert len(found["rows"]) == 4
    hub.gated.add("org/gated")
    assert "it is gated: ask for access" in read(hub, tmp_path / "cache", path="org/gated")["error"]
    assert "does not exist, or is private" in read(hub, tmp_path / "cache", path="org/nothing")["error"]


def test_behind_a_proxy(hub: FakeHub, served: Path, tmp_path: Path) -> None:
    """The host has no address here: only the proxy answers for it."""
    environment = {"HF_ENDPOINT": "http://hub.invalid", "NO_PROXY": "", "no_proxy": ""}
    environment |= {name: hub.url for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")}
    found = read(hub, tmp_path / "cache", environment, split="train_prefs")
    assert len(found["rows"]) == 4
    assert set(hub.proxied) == {"hub.invalid"}


def test_a_download_that_broke_off_is_not_taken_for_the_whole(hub: FakeHub, served: Path, tmp_path: Path) -> None:
    shard = "data/train_prefs-00001-of-00002.parquet"
    hub.break_off.add(shard)
    first = read(hub, tmp_path / "cache", split="train_prefs")
    assert shard not in hub.break_off  # it did break off
    if "error" in first:
        assert "the same command continues the download" in first["error"]
        assert "not whole" in read(None, tmp_path / "cache", split="train_prefs")["error"]
    assert len(read(hub, tmp_path / "cache", split="train_prefs")["rows"]) == 4


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


# conf/data/*.yaml → the file of its repository, and one row in the columns that it is published with; good wins
SHIPPED: dict[str, tuple[str, dict[str, Any]]] = {
    "hh_rlhf": (
        "harmless-base/train.jsonl",
        {"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: bad"},
    ),
    "helpsteer3": (
        "preference/train.jsonl",
        {
            "domain": "general", "language": "english", "context": talk("Q"), "response1": "bad", "response2": "good",
            "overall_preference": 2, "individual_preference": [],
        },
    ),
    "nectar": (
        "rlaif.parquet",
        {
            "prompt": "\n\nHuman: Q\n\nAssistant: ", "turns": 1, "num_responses": 2, "source": ["a"],
            "answers": [
                {"answer": "good", "model": "m", "rank": 1.0}, {"answer": "bad", "model": "n", "rank": 2.0},
            ],
        },
    ),
    "skywork": (
        "data/train-00000-of-00001.parquet",
        {"chosen": talk("Q", "good"), "rejected": talk("Q", "bad"), "source": "s"},
    ),
    "ultrafeedback": (
        "data/train_prefs-00000-of-00001.parquet",
        {
            "prompt": "Q", "prompt_id": "p", "chosen": talk("Q", "good"), "rejected": talk("Q", "bad"),
            "messages": talk("Q", "good"), "score_chosen": 8.0, "score_rejected": 5.0,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_data_files(hub: FakeHub, tmp_path: Path, name: str) -> None:
    """Each YAML's own path, configuration, split and format, on a row of the published shape."""
    import yaml

    config = yaml.safe_load((Path(__file__).parents[2] / "conf" / "data" / f"{name}.yaml").read_text())
    file, row = SHIPPED[name]
    (parquet if file.endswith("parquet") else jsonl)(tmp_path / "repo" / file, [row])
    hub.served[config["path"]] = tmp_path / "repo"
    keys = {key: value for key, value in config.items() if key not in {"defaults", "eval_sets", "validation_fraction"}}
    (found,) = read(hub, tmp_path / "cache", **keys)["rows"]
    assert found[:2] == ["Q", "good" if name != "helpsteer3" else "bad"]
    assert found[2] == (1 if name == "helpsteer3" else 0)  # the number of the winning response
