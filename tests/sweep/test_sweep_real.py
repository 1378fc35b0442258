"""The real program under the sweeper: a job killed at its checkpoint, and a job asked to stop, on the tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sweeping import ROOT, alive, children_of, steps, wait_until

pytestmark = pytest.mark.slow


def test_a_real_job_goes_on_after_a_kill_and_stops_when_pruned(tmp_path: Path) -> None:
    path = tmp_path / "s"
    argv = [sys.executable, "-m", "rmx", "-m", f"hydra.sweep.dir={path}", "seed=1,2", "trackers=[]", "data.size=60"]
    argv += ["trainer.max_steps=8", "trainer.eval_steps=2", "trainer.save_steps=2", "phases=[train,eval]"]
    env = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    sweeper = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: list(path.glob("trial-000/checkpoints/checkpoint-*")), 600)
        (guard,) = children_of(sweeper.pid)
        (job,) = children_of(guard)
        os.kill(job, signal.SIGKILL)
        wait_until(lambda: not alive(job))
        wait_until(lambda: steps(path, "trial-001"), 600)
        (path / "trial-001" / "PRUNE").write_text("by hand\n")
        assert sweeper.wait(timeout=600) == 0
    finally:
        sweeper.kill()
        sweeper.wait()
    killed, pruned = json.loads((path / "sweep.json").read_text())["trials"]
    assert (killed["status"], killed["processes"]) == ("finished", 2)
    assert "Continuing from" in (path / "trial-000" / "run.log").read_text()
    assert steps(path, "trial-000")[-1] == 8
    assert (pruned["status"], pruned["exit_code"]) == ("pruned", 75)
    assert max(steps(path, "trial-001")) < 8
