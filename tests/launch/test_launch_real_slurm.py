"""On a real Slurm: deploy/slurm.sbatch queues itself again, launch=slurm submits again.

Where `sinfo` answers, on that cluster; else on one that is made on this machine. One node of two CPUs is enough. Set
`AuthInfo=cred_expire=5` in its slurm.conf, or Slurm starts a job that was queued again only two minutes later.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import slow_steps
import slurm_cluster
from slurm_cluster import Slurm

ROOT = Path(__file__).parents[2]
WORDS = [
    "data.size=46", "trackers=[]", "trainer.comparisons_per_step=8", "trainer.precision=fp32", "trainer.use_cpu=true",
    "trainer.optim=sgd", "trainer.learning_rate=0.01", "trainer.logging_steps=1", "trainer.eval_steps=100000",
    "trainer.save_steps=100000", "parallel=ddp",
]  # fmt: skip
SIZE = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", "--time=00:20:00"]
WAIT_SECONDS = 1200.0


def answers() -> bool:
    """Whether a cluster with an idle or working node is at hand."""
    if shutil.which("sinfo") is None:
        return False
    nodes = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False, timeout=30).stdout
    return any(state in nodes for state in ("idle", "mixed", "allocated"))


ANSWERS = answers()
REASON = None if ANSWERS else slurm_cluster.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=f"sinfo does not answer; {REASON}")]


@dataclass
class Door:
    """Where jobs are submitted: this machine, or the one of a cluster that was made for the tests."""

    made: Slurm | None = None

    def environment(self) -> dict[str, str]:
        found = {**os.environ, **(self.made.variables() if self.made else {}), "GLOO_SOCKET_IFNAME": "lo"}
        found |= {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "HF_HUB_OFFLINE": "1"}
        return found | {"PATH": f"{Path(sys.executable).parent}:{found['PATH']}"}  # the script calls `python`

    def line(self, command: list[str], folder: Path) -> list[str]:
        return self.made.control.inside(command, folder) if self.made else command

    def run(self, *command: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        line, environment = self.line([*command], folder), self.environment()
        return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, **options)

    def state(self, job: str) -> str:
        command = ["squeue", "-h", "--states=all", f"--jobs={job}", "--format=%T"]
        return self.run(*command, folder=ROOT, check=False).stdout.strip()

    def until(self, answer: str, job: str, working: str) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while not re.fullmatch(answer, self.state(job)):
            assert time.monotonic() < end, f"job {job} is {self.state(job)}: {working}"
            time.sleep(1)


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    if ANSWERS:
        yield Door()
        return
    with slurm_cluster.cluster(1, cpus=2) as made:
        yield Door(made)


def steps(run: Path) -> list[int]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["phase"] == "train"]


@pytest.fixture(scope="module")
def limit_and_steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int]:
    """A time limit that a run of so many steps cannot keep at its first start."""
    words = [word for word in WORDS if not word.startswith("parallel")]
    command = [
        sys.executable,
        "-m",
        "rmx",
        *words,
        "trainer.max_steps=1",
        f"output_dir={tmp_path_factory.mktemp('one')}",
    ]
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300, check=True)
    return slow_steps.limit_and_steps(time.monotonic() - began)


@pytest.fixture
def submitted(door: Door, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`rmx launch=slurm` with a run that would go on for hours."""
    words = [*WORDS, "launch=slurm", "launch.timeout_min=20", "parallel.processes=2", "trainer.max_steps=100000"]
    command = door.line([sys.executable, "-m", "rmx", *words, f"output_dir={tmp_path / 'run'}"], tmp_path)
    pipe, environment = subprocess.PIPE, door.environment()
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.kill()


def test_the_batch_script_queues_itself_again_and_finishes(
    door: Door, tmp_path: Path, limit_and_steps: tuple[int, int]
) -> None:
    """The first start ends with 75 at its limit; the second goes on in the same folder, each step made once."""
    limit, last = limit_and_steps
    words = [*slow_steps.WORDS, *WORDS, f"trainer.max_steps={last}", f"trainer.stop_after={limit}s"]
    script = str(ROOT / "deploy" / "slurm.sbatch")
    job = door.run("sbatch", "--parsable", *SIZE, script, *words, folder=tmp_path, check=True).stdout.strip()
    door.until("COMPLETED|FAILED|CANCELLED|TIMEOUT", job, "it should have finished")
    output = (tmp_path / f"rmx-{job}.out").read_text()
    assert door.state(job) == "COMPLETED", output[-3000:]
    restarts = door.run("scontrol", "show", "job", job, folder=tmp_path, check=True).stdout
    assert int(re.findall(r"Restarts=(\d+)", restarts)[0]) == output.count("the same command continues") >= 1
    assert output.count("Continuing from") == output.count("the same command continues")
    assert steps(tmp_path / "outputs" / f"slurm-{job}") == list(range(1, last + 1))


def test_a_job_whose_time_is_up_is_submitted_again_until_it_is_done(
    door: Door, tmp_path: Path, limit_and_steps: tuple[int, int]
) -> None:
    limit, last = limit_and_steps
    words = [*slow_steps.WORDS, *WORDS, "launch=slurm", "launch.timeout_min=20", "parallel.processes=2"]
    words += [f"trainer.max_steps={last}", f"trainer.stop_after={limit}s", f"output_dir={tmp_path / 'run'}"]
    done = door.run(sys.executable, "-m", "rmx", *words, folder=tmp_path, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    jobs = re.findall(r"^rmx: submitted job (\d+)", done.stderr, re.MULTILINE)
    assert len(set(jobs)) == len(jobs) == 1 + done.stderr.count("submitting it again") >= 2
    assert f"rmx: job {jobs[-1]} has ended, with success" in done.stderr
    assert "sacct" not in done.stderr
    assert steps(tmp_path / "run") == list(range(1, last + 1))


def test_a_job_that_is_killed_is_noticed_without_accounting(submitted: subprocess.Popen[str], door: Door) -> None:
    """SIGKILL leaves no result; the command says so, instead of waiting for one."""
    assert submitted.stderr is not None
    job = re.findall(r"submitted job (\d+)", submitted.stderr.readline())[0]
    door.until("RUNNING", job, "it should have begun")
    time.sleep(3)
    door.run("scancel", "--signal=KILL", f"{job}.0", folder=ROOT, check=True)
    _, said = submitted.communicate(timeout=120)
    assert submitted.returncode == 1
    assert re.search(rf"rmx: job {job} ended in state (FAILED|CANCELLED), and 2 tasks left no result: .*log.err", said)
    assert "continues from the last checkpoint" in said and "Traceback" not in said
