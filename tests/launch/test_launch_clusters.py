"""launch=slurm and launch=ray: what is submitted, how an end is told, and two real ranks on this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rmx.errors import ConfigError
from rmx.launch.rank_command import RankEnd, RanksEnded, raise_end_of
from rmx.launch.ray_cluster import RayRanks
from rmx.launch.slurm import SlurmRanks

ROOT = Path(__file__).parents[2]
WORDS = [
    "data.size=46", "trackers=[]", "trainer.max_steps=4", "trainer.comparisons_per_step=8", "trainer.precision=fp32",
    "trainer.use_cpu=true", "trainer.optim=sgd", "trainer.learning_rate=0.01", "trainer.logging_steps=1",
    "trainer.eval_steps=2", "trainer.save_steps=2",
]  # fmt: skip


def rmx(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "rmx", *words]
    return subprocess.run(
        command, cwd=folder, env=environment | variables, capture_output=True, text=True, timeout=400, check=False
    )


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if row["phase"] == "train"]


# --- What becomes of an end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        ([RankEnd(0, 1, "rmx: rank 0 lost its connection"), RankEnd(1, 2, "rmx: no file")], 2, "no file"),
        ([RankEnd(0, 75, "rmx: its time is up"), RankEnd(1, 75)], 75, "its time is up"),
        ([RankEnd(0, 143), RankEnd(1, 137)], 137, "rank 1 ended with exit code 137; see its output"),
        ([RankEnd(0, 0), RankEnd(1, 1)], 1, "rank 1 ended with exit code 1; see its output"),
    ],
)
def test_the_rank_with_a_reason_of_its_own_speaks_for_all(ends: list[RankEnd], code: int, said: str) -> None:
    with pytest.raises(RanksEnded, match=f"^{re.escape(said)}$") as error:
        raise_end_of(ends)
    assert error.value.exit_code == code


def test_a_slurm_job_whose_time_is_up_is_submitted_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two jobs end with 75, the third with 0; a fourth would raise StopIteration."""
    ends = iter([[RankEnd(0, 75, "rmx: at step 5")], [RankEnd(0, 75, "rmx: at step 9")], [RankEnd(0, 0)]])

    def submit(task: Any) -> Any:
        return SimpleNamespace(
            results=lambda: next(ends), job_id="5", paths=SimpleNamespace(stdout="5.out"), num_tasks=0
        )

    monkeypatch.setattr("rmx.launch.slurm._state", lambda job_id: "COMPLETED")
    monkeypatch.setattr(SlurmRanks, "_executor", lambda self, processes: SimpleNamespace(submit=submit))
    pytest.importorskip("submitit")
    SlurmRanks().start([], 1, Path())
    said = capsys.readouterr().err
    assert said.count("submitting it again") == 2 and "at step 9" in said
    assert next(ends, None) is None


def test_processes_are_divided_among_nodes() -> None:
    assert SlurmRanks(nodes=2, gpus_per_node=8).processes("auto") == 16
    assert SlurmRanks(nodes=2).processes(None) == 2
    with pytest.raises(ConfigError, match=r"parallel.processes: 3 cannot be divided evenly among launch.nodes=2"):
        SlurmRanks(nodes=2).processes(3)
    with pytest.raises(ConfigError, match=r"launch.nodes: 2, but launch.cluster=local is this machine alone"):
        SlurmRanks(nodes=2, cluster="local")
    with pytest.raises(ConfigError, match=r"counts GPUs, and launch.gpus_per_process is 0"):
        RayRanks(gpus_per_process=0).processes("auto")
    with pytest.raises(ConfigError, match=r"launch.additional.requeue: false is not an integer or text or True"):
        SlurmRanks(additional={"requeue": False})


@pytest.mark.parametrize(("package", "launch"), [("submitit", SlurmRanks()), ("ray", RayRanks())])
def test_a_missing_package_is_named(package: str, launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"pip install 'rmx\[(slurm|ray)\]'"):
        launch.start([], 1, Path())


# --- Slurm ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_slurm_is_given_and_what_is_said_when_it_fails(tmp_path: Path) -> None:
    """Stand-ins for sbatch, which keeps the script, and squeue, which says that the job has failed; no accounting."""
    pytest.importorskip("submitit")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sbatch").write_text(
        f"#!/bin/sh\nfor last; do :; done\ncp $last {tmp_path}/script.sh\necho Submitted batch job 5\n"
    )
    (tools / "squeue").write_text("#!/bin/sh\necho FAILED\n")
    for name, code in {"srun": 0, "scancel": 0, "sacct": 1}.items():
        (tools / name).write_text(f"#!/bin/sh\nexit {code}\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    options = ["nodes=2", "gpus_per_node=4", "cpus_per_task=6", "mem_gb=64", "timeout_min=90", "partition=gpu"]
    options += ["setup=[module load cuda]", "additional={account: mine, requeue: true}"]
    words = [*WORDS, f"output_dir={tmp_path / 'run'}", "parallel.processes=auto", "parallel=hsdp", "launch=slurm"]
    done = rmx(tmp_path, *words, *(f"launch.{option}" for option in options), PATH=f"{tools}:{os.environ['PATH']}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "rmx: job 5 ended in state FAILED, and 8 tasks left no result: " in done.stderr
    assert "Traceback (most recent call last)" not in done.stderr
    script = (tmp_path / "script.sh").read_text()
    sbatch = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.MULTILINE))
    wanted = {"nodes": "2", "ntasks-per-node": "4", "gpus-per-node": "4", "cpus-per-task": "6", "mem": "64GB"}
    wanted |= {"time": "90", "partition": "gpu", "account": "mine", "job-name": "rmx"}
    assert {name: sbatch.get(name) for name in wanted} == wanted
    assert "#SBATCH --requeue\n" in script  # takes no value
    assert "module load cuda" in script and "--kill-on-bad-exit=0" in script


# --- Two real ranks ---------------------------------------------------------------------------------------------------

LOCALLY = {"slurm": ["launch=slurm", "launch.cluster=local"], "ray": ["launch=ray", "launch.gpus_per_process=0"]}
PACKAGES = {"slurm": "submitit", "ray": "ray"}


@pytest.mark.slow
@pytest.mark.parametrize("launch", LOCALLY)
def test_two_ranks_train_as_one_process_and_a_mistake_has_its_code(launch: str, tmp_path: Path) -> None:
    """Then again in the same folder with other rows: refused by rank 0, exit code 2 and its message here."""
    pytest.importorskip(PACKAGES[launch])
    alone = rmx(tmp_path, *WORDS, f"output_dir={tmp_path / 'one'}")
    assert alone.returncode == 0, alone.stderr[-2000:]
    words = [*WORDS, *LOCALLY[launch], f"output_dir={tmp_path / 'two'}", "parallel=ddp", "parallel.processes=2"]
    done = rmx(tmp_path, *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-6)
    assert "2 processes with the whole model each" in (tmp_path / "two" / "run.log").read_text()
    refused = rmx(tmp_path, *words, "seed=7")
    assert refused.returncode == 2, refused.stdout[-3000:] + refused.stderr[-3000:]
    last = [line for line in refused.stderr.splitlines() if line.startswith("rmx: ")][-1]
    assert "seed" in refused.stderr and "checkpoint" in last
