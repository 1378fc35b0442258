"""The table of files against the folders that a real run leaves, both ways."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
from workflows import make_workflow

from rmx.cli import main
from rmx.reference.kept_files import FILES, file_of, pattern_fits
from rmx.scoring.benchmark import BenchResult

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
# What neither of the two runs has: large or sharded models, trackers, a sweep's request, a plan.
NOT_IN_THESE = {
    "plan.json", "wandb_run.json", "wandb/**", "tensorboard/**", "PRUNE", "model/model.safetensors.index.json",
    "model/special_tokens_map.json", "checkpoints/checkpoint-*/shards/**", "run.yaml", ".ray/**",
}  # fmt: skip


@pytest.fixture(scope="module")
def simple_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All weights are trained, on one evaluation set."""
    folder = tmp_path_factory.mktemp("simple") / "run"
    make_workflow(folder, size=40, max_steps=2).run()
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_every_file_of_a_run_is_in_the_table(real_run: Path, simple_run: Path) -> None:
    assert [name for run in (real_run, simple_run) for name in files(run) if file_of(name) is None] == []


def test_every_file_of_the_table_is_in_one_of_the_runs(real_run: Path, simple_run: Path) -> None:
    """And what is said to be there always is in both."""
    found = [files(real_run), files(simple_run)]
    for file in FILES:
        if file.home != "run folder" or file.pattern in NOT_IN_THESE:
            continue
        there = [any(pattern_fits(file.pattern, name) for name in names) for names in found]
        assert any(there) if file.only else all(there), file.pattern


def test_what_depends_on_an_adapter_says_so(real_run: Path, simple_run: Path) -> None:
    with_one, without = {file_of(name) for name in files(real_run)}, {file_of(name) for name in files(simple_run)}
    assert {file.only for file in with_one - without if file and file.pattern.startswith("model/")} == {
        "with an adapter (peft=...)",
        "with an adapter on a base that is nowhere else",
    }
    assert {file.only for file in without - with_one if file and file.pattern.startswith("model/")} == {
        "without an adapter"
    }


def test_the_fields_of_a_file_are_those_that_the_table_names(real_run: Path, simple_run: Path) -> None:
    """Of files with a JSON object a line: at least these in each line; of one object: just these."""
    seen = set()
    for run in (real_run, simple_run):
        for name in files(run):
            file = file_of(name)
            if file is None or not file.fields:
                continue
            seen.add(file.pattern)
            lines = (run / name).read_text(encoding="utf-8").splitlines()
            if name.endswith(".jsonl"):
                assert all(set(file.fields) <= set(json.loads(line)) for line in lines), name
            else:
                assert set(json.loads("".join(lines))) == set(file.fields), name
    assert seen == {file.pattern for file in FILES if file.fields and file.home == "run folder"}


def test_the_fields_of_a_benchmark_are_those_of_its_result() -> None:
    (file,) = [file for file in FILES if file.pattern == "results.json"]
    asked = {"model", "data", "judge"}
    assert set(file.fields) == asked | {item.name for item in dataclasses.fields(BenchResult)}


@pytest.mark.slow
def test_a_sweep_leaves_what_the_table_says(tmp_path: Path) -> None:
    """Two trials of two steps, as -m starts them; a trial's folder is a run folder, which has run.yaml too."""
    code = main(
        ["-m", "experiment=smoke", "data.size=40", "trainer.max_steps=2", "trainer.eval_strategy=no", "seed=1,2",
         "trainer.save_strategy=no", "trainer.load_best_model_at_end=false", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    )  # fmt: skip
    assert code == 0
    names = [name for name in files(tmp_path / "sweep") if not name.startswith((".", "trial-", "best/"))]
    assert [name for name in names if file_of(name, "sweep folder") is None] == []
    for file in FILES:
        if file.home == "sweep folder":
            assert list((tmp_path / "sweep").glob(file.pattern)), file.pattern
    assert (tmp_path / "sweep" / "trial-000" / "run.yaml").is_file()
    fields = {file.pattern: set(file.fields) for file in FILES if file.home == "sweep folder"}
    assert fields["sweep.json"] <= set(json.loads((tmp_path / "sweep" / "sweep.json").read_text()))
    assert fields["jobs/*.json"] == set(json.loads((tmp_path / "sweep" / "jobs" / "trial-000.json").read_text())[0])
    with (tmp_path / "sweep" / "leaderboard.csv").open() as table:
        assert fields["leaderboard.csv"] | {"seed"} == set(next(csv.reader(table)))
