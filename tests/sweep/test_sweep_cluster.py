"""Cluster launchers with the same sweeper: real submitit, joblib and a recorded sbatch; the jobs are fake."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sweeping import FAKE, ROOT, starts

SBATCH = """#!{python}
# Records what it was given and runs each task of the array as slurmd would: one after the other, on this machine.
import os, re, subprocess, sys
from pathlib import Path
record = Path(os.environ["SBATCH_RECORD"])
script = Path(sys.argv[-1])
number = len(list(record.glob("script-*.sh")))
(record / f"script-{{number}}.sh").write_text(script.read_text())
text = script.read_text()
job = 4000 + number
found = re.search(r"#SBATCH --array=(\\d+)-(\\d+)", text)
tasks = range(int(found[1]), int(found[2]) + 1) if found else [None]
command = re.search(r"^srun .*? (\\S+ -u -m submitit.*)$", text, re.MULTILINE)[1]
for task in tasks:
    name = str(job) if task is None else f"{{job}}_{{task}}"
    env = dict(os.environ, SLURM_JOB_ID=str(job), SLURM_JOB_NUM_NODES="1", SLURM_NTASKS="1", SLURM_PROCID="0")
    env.update(SLURM_LOCALID="0", SLURM_NODEID="0", SLURM_JOB_NODELIST="here", SUBMITIT_EXECUTOR="slurm")
    if task is not None:
        env.update(SLURM_ARRAY_JOB_ID=str(job), SLURM_ARRAY_TASK_ID=str(task))
    log = open(record / f"task-{{name}}.log", "wb")
    subprocess.Popen(["bash", "-c", command], env=env, stdout=log, stderr=log)
print(f"Submitted batch job {{job}}")
"""
SACCT = """#!{python}
# Every job that was submitted is reported as running until submitit finds its result file.
import sys
print("JobID|State|NodeList")
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose PATH begins with stand-ins for Slurm's commands."""
    tools, record = tmp_path / "bin", tmp_path / "record"
    tools.mkdir()
    record.mkdir()
    for name, text in {"sbatch": SBATCH, "sacct": SACCT, "srun": SACCT, "scancel": SACCT}.items():
        tool = tools / name
        tool.write_text(text.format(python=sys.executable))
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return environment() | {"PATH": f"{tools}:{os.environ['PATH']}", "SBATCH_RECORD": str(record)}


def environment() -> dict[str, str]:
    return dict(os.environ) | {"RMX_JOB_PROGRAM": json.dumps([sys.executable, str(FAKE)]), "OMP_NUM_THREADS": "1"}


def rmx(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "rmx", "-m", *words]
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)


def words_of(path: Path, launcher: str, *more: str) -> list[str]:
    # The fake job takes its accuracy from x; seed is a key that every configuration has.
    return [f"hydra.sweep.dir={path}", f"hydra/launcher={launcher}", "seed=1,2,3", "trackers=[]", *more]


def check_finished(path: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((path / "sweep.json").read_text())
    assert {trial["params"]["seed"]: trial["status"] for trial in content["trials"]} == dict.fromkeys(
        ("1", "2", "3"), "finished"
    )
    for number in range(3):
        (start,) = starts(path, f"trial-00{number}")
        assert f"seed={number + 1}" in start["argv"]
        assert f"output_dir={path / f'trial-00{number}'}" in start["argv"]
        assert f"group={path.name}" in start["argv"]
        assert not any(word.startswith("hydra") for word in start["argv"])


@pytest.mark.slow
def test_slurm_gets_the_right_script_and_the_jobs_run(tmp_path: Path, cluster: dict[str, str]) -> None:
    pytest.importorskip("submitit")
    options = [
        "partition=gpu",
        "gpus_per_node=2",
        "cpus_per_task=8",
        "mem_gb=64",
        "timeout_min=90",
        "array_parallelism=2",
    ]
    path = tmp_path / "sweep"
    words = [f"hydra.launcher.{option}" for option in options]
    done = rmx(cluster, *words_of(path, "submitit_slurm", *words, "hydra.sweeper.n_jobs=3"))
    check_finished(path, done)
    (script,) = sorted((tmp_path / "record").glob("script-*.sh"))  # one batch of three: one array
    text = script.read_text()
    sbatch = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
    assert sbatch["array"] == "0-2%2"
    assert sbatch["partition"] == "gpu"
    assert sbatch["gpus-per-node"] == "2"
    assert sbatch["cpus-per-task"] == "8"
    assert sbatch["mem"] == "64GB"
    assert sbatch["time"] == "90"
    assert sbatch["job-name"] == "rmx"
    assert str(path / ".submitit") in sbatch["output"]
    assert re.search(r"^srun .*submitit\.core\._submit", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "package", "words"),
    [
        ("submitit_local", "submitit", []),
        ("joblib", "joblib", []),
        ("ray", "ray", ["+hydra.launcher.ray.init.num_cpus=2"]),
    ],
)
def test_other_launchers_run_the_same_sweep_in_batches(
    tmp_path: Path, launcher: str, package: str, words: list[str]
) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{package}_launcher")
    path = tmp_path / "sweep"
    check_finished(path, rmx(environment(), *words_of(path, launcher, "hydra.sweeper.n_jobs=2", *words)))


@pytest.mark.slow
def test_a_crash_on_a_node_costs_that_job_only(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    path = tmp_path / "sweep"
    (path / "trial-001").mkdir(parents=True)
    (path / "trial-001" / "metrics.jsonl").mkdir()  # the fake job cannot open it
    done = rmx(environment(), *words_of(path, "joblib", "hydra.sweeper.n_jobs=3"))
    assert done.returncode == 3, done.stdout + done.stderr
    content = json.loads((path / "sweep.json").read_text())
    assert [trial["status"] for trial in content["trials"]] == ["finished", "failed", "finished"]
    assert "IsADirectoryError" in content["trials"][1]["reason"]
