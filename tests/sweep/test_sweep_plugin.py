"""The plugin: words of the command line → a space, and `python -m rmx -m` from end to end with fake jobs."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from sweeping import FAKE, ROOT, starts

from hydra_plugins.rmx_sweeper.overrides import split_overrides
from rmx.config.overriding import override_value
from rmx.errors import ConfigError
from rmx.sweep.space import Dimension, SearchSpace
from rmx.sweep.strategy import SweepSettings


def split(*words: str) -> tuple[list[str], tuple[Dimension, ...]]:
    return split_overrides(words, OverridesParser.create())


def test_choices_ranges_and_intervals() -> None:
    fixed, dimensions = split(
        "model=tiny", "peft=none,lora", "trainer.learning_rate=tag(log,interval(1e-6,1e-3))", "seed=range(1,8,3)",
        "peft.r=int(interval(4,64))", "x=choice('a b',c)", "f=range(0,1,0.25)",
    )  # fmt: skip
    assert fixed == ["model=tiny"]
    by_name = {dimension.name: dimension for dimension in dimensions}
    assert by_name["peft"].grid() == ["none", "lora"]
    rate = by_name["trainer.learning_rate"]
    assert (rate.low, rate.high, rate.log, rate.kind) == (1e-6, 1e-3, True, "float")
    assert rate.grid() is None
    assert list(by_name["seed"].grid() or ()) == [1, 4, 7]
    assert (by_name["peft.r"].low, by_name["peft.r"].high, by_name["peft.r"].kind) == (4, 64, "int")
    assert by_name["f"].grid() == [0.0, 0.25, 0.5, 0.75]
    (word,) = SearchSpace((by_name["x"],)).overrides({"x": by_name["x"].choices[0]})
    assert OverridesParser.create().parse_overrides([word])[0].value() == "a b"


def test_prefixes_and_packages_stay_part_of_the_key() -> None:
    _, dimensions = split("+trainer.adam_beta2=0.9,0.99", "peft@adapter=lora,dora")
    assert [dimension.name for dimension in dimensions] == ["+trainer.adam_beta2", "peft@adapter"]


def test_an_output_dir_for_all_jobs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"output_dir: 'output_dir=x' cannot hold for every job"):
        split("output_dir=x", "seed=1,2")


def test_a_key_swept_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed: given twice"):
        split("seed=1,2", "seed=3,4")


def test_grid_over_an_interval_names_the_way_out() -> None:
    _, dimensions = split("lr=interval(0,1)")
    with pytest.raises(ConfigError, match=r"lr: a grid needs listed values.*n_trials=20"):
        list(SearchSpace(dimensions).enumerate())


@pytest.mark.parametrize("text", ["/a b/c", "it's", "a,b", "[x]", "back\\slash", "plain/path-1.0", "a=b", "ü"])
def test_quoted_text_comes_back_through_hydra(text: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"output_dir={override_value(text)}"])
    assert override.value() == text


# --- End to end -------------------------------------------------------------------------------------------------------


def rmx(*words: str, program: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(FAKE)] if program is None else program
    env = dict(os.environ) | {"RMX_JOB_PROGRAM": json.dumps(program), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    argv = [sys.executable, "-m", "rmx", "-m", "trackers=[]", *words]
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_sweep_from_the_command_line_and_its_continuation(tmp_path: Path) -> None:
    words = [f"hydra.sweep.dir={tmp_path}/x y", "hydra.sweeper.name=mine", "seed=1,2", "hydra.sweeper.n_jobs=2"]
    done = rmx(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    path = tmp_path / "mine"
    assert "Sweep mine" in done.stdout
    assert "60.0 (50.2–69.1)" in done.stdout  # 60 of 100 pairs, Wilson
    assert "~+0.0" in done.stdout  # the second seed does not differ
    assert "experiment=confirm" in done.stdout
    content = json.loads((path / "sweep.json").read_text())
    assert content["command"].startswith("python -m rmx -m 'trackers=[]'")
    assert content["fixed"] == ["trackers=[]"]
    assert (path / "best").resolve() == path / "trial-000"
    with (path / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["trial-000", "trial-001"]
    assert rows[0]["accuracy"] == "0.6"
    (start,) = starts(path, "trial-000")
    assert start["argv"] == ["trackers=[]", "seed=1", f"output_dir={path}/trial-000", "group=mine"]
    again = rmx(*words)
    assert again.returncode == 0
    assert len(starts(path, "trial-000")) == 1


def test_exit_codes_and_the_failures_table(tmp_path: Path) -> None:
    path = tmp_path / "sweep"
    (path / "trial-001").mkdir(parents=True)
    (path / "trial-001" / "metrics.jsonl").mkdir()  # the fake job cannot open it
    done = rmx(f"hydra.sweep.dir={path}", "seed=1,2")
    assert done.returncode == 3
    assert "Jobs without a result" in done.stdout
    assert "jobs/trial-001.log" in done.stdout.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.sweeper.sampler=tpee", "seed=1,2"], "hydra.sweeper.sampler: 'tpee' is not one of auto, grid"),
        (["trainer.learning_rate=interval(0.1,1)"], "a grid needs listed values"),
        (["hydra.sweeper.confirm=/nowhere"], "/nowhere is not the folder of a sweep"),
        (["output_dir=x", "seed=1,2"], "output_dir"),
    ],
)
def test_wrong_input_is_one_message_and_exit_2(tmp_path: Path, words: list[str], message: str) -> None:
    done = rmx(f"hydra.sweep.dir={tmp_path}/s", *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_confirm_runs_the_best_with_several_seeds(tmp_path: Path) -> None:
    path = tmp_path / "sweep"
    assert rmx(f"hydra.sweep.dir={path}", "trainer.learning_rate=0.1,0.2", "seed=7").returncode == 0
    keys = [f"confirm={path}", "top=2", "seeds=[1,2]"]
    done = rmx("experiment=confirm", *(f"hydra.sweeper.{key}" for key in keys))
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((path / "confirm" / "sweep.json").read_text())
    assert len(content["trials"]) == 4
    words = starts(path / "confirm", "trial-001")[0]["argv"]
    assert words[:3] == ["trackers=[]", "trainer.learning_rate=0.1", "seed=2"]
    assert "seed=7" not in words
    assert "eval/accuracy over seeds" in done.stdout
    assert "experiment=confirm" not in done.stdout  # no confirmation of the confirmation


def test_importing_the_plugin_is_cheap() -> None:
    code = (
        "import hydra_plugins.rmx_sweeper.sweeper, sys; sys.exit(bool({'optuna', 'numpy', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_search_with_two_objectives_from_the_command_line(tmp_path: Path) -> None:
    keys = ["n_trials=4", "n_jobs=2", "sampler=random", "objectives=[eval/accuracy,train/tokens_per_second]"]
    words = ["trainer.learning_rate=tag(log,interval(1e-5,1e-2))", "peft=none,lora"]
    done = rmx(f"hydra.sweep.dir={tmp_path}/s", *words, *(f"hydra.sweeper.{key}" for key in keys))
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [entry["direction"] for entry in content["objectives"]] == ["maximize", "maximize"]
    assert [entry["kind"] for entry in content["parameters"]] == ["float", "choice"]
    rates = [trial["params"]["trainer.learning_rate"] for trial in content["trials"]]
    assert len(set(rates)) == 4
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    for trial in content["trials"]:
        argv = starts(tmp_path / "s", trial["folder"])[0]["argv"]
        assert f"trainer.learning_rate={trial['params']['trainer.learning_rate']!r}" in argv


def test_the_yaml_lists_every_setting_with_its_default() -> None:
    shipped = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "hydra" / "sweeper" / "rmx.yaml"))
    defaults = {
        item.name: item.default if item.default_factory is MISSING else item.default_factory()
        for item in fields(SweepSettings)
    }
    assert shipped == {"_target_": "hydra_plugins.rmx_sweeper.sweeper.RmxSweeper"} | defaults


def test_jobs_find_the_users_own_configuration_files(tmp_path: Path) -> None:
    own = tmp_path / "my conf" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nseed: 5\n")
    done = rmx("--config-dir", str(own.parent), "experiment=mine", "peft=none,lora", f"hydra.sweep.dir={tmp_path}/s")
    assert done.returncode == 0, done.stdout + done.stderr
    argv = starts(tmp_path / "s", "trial-001")[0]["argv"]
    assert argv[:2] == ["--config-dir", str(own.parent)]
    assert argv[2:5] == ["trackers=[]", "experiment=mine", "peft=lora"]


def test_a_sweep_over_a_runs_own_file(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "rmx", "--cfg", "job", "trackers=[]"]
    run = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    (tmp_path / "run.yaml").write_text(run.stdout)
    words = ["--config-dir", str(tmp_path), "--config-name", "run", "seed=1,2", f"hydra.sweep.dir={tmp_path}/s"]
    done = rmx(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    argv = starts(tmp_path / "s", "trial-000")[0]["argv"]
    assert argv[:4] == ["--config-dir", str(tmp_path), "--config-name", "run"]
