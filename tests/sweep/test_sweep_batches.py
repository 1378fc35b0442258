"""Batches: jobs on "nodes" that are threads here, each with its own guard, as a cluster launcher would run them."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sweeping import FAKE, choices, starts

from rmx.errors import RmxError
from rmx.sweep.batches import BatchJobs, run_guarded
from rmx.sweep.jobs import Job
from rmx.sweep.runner import Sweep, SweepResult
from rmx.sweep.space import SearchSpace
from rmx.sweep.strategy import SweepSettings
from rmx.sweep.trials import SweepFolder


def run_batches(
    path: Path, space: SearchSpace, *fixed: str, launch: Callable[[list[Job], int], None] | None = None, **keys: object
) -> tuple[SweepResult, list[tuple[int, int]]]:
    """Run a sweep in batches; returns also (first index, size) of each batch."""
    settings, folder, batches = SweepSettings(**keys), SweepFolder(path), []

    def nodes(jobs: list[Job], first: int) -> None:
        batches.append((first, len(jobs)))
        with ThreadPoolExecutor(len(jobs)) as pool:
            argvs = [[sys.executable, str(FAKE), *job.overrides] for job in jobs]
            names = [job.name for job in jobs]
            list(pool.map(lambda name, argv: run_guarded(folder, name, argv, settings.grace_seconds), names, argvs))

    jobs = BatchJobs(folder, launch or nodes, n_jobs=settings.n_jobs)
    sweep = Sweep(path, space, list(fixed), settings, jobs, overrides=lambda output_dir: [f"output_dir={output_dir}"])
    return sweep.run(), batches


def test_batches_have_n_jobs_jobs_and_failures_cost_one(tmp_path: Path) -> None:
    result, batches = run_batches(tmp_path, choices(x="0.1,0.2,0.3", mode="ok,crash"), "steps=1", n_jobs=4)
    assert batches == [(0, 4), (4, 2)]
    assert sorted((row.params["mode"], row.status) for row in result.rows) == [
        ("crash", "failed"), ("crash", "failed"), ("crash", "failed"),
        ("ok", "finished"), ("ok", "finished"), ("ok", "finished"),
    ]  # fmt: skip
    assert result.exit_code == 3


def test_pruning_reaches_a_node(tmp_path: Path) -> None:
    result, _ = run_batches(
        tmp_path, choices(x="0.3,0.4,0.1"), "steps=30", "seconds=0.1", n_jobs=1, pruner="median",
        pruner_startup_trials=2,
    )  # fmt: skip
    poor = next(row for row in result.rows if row.params["x"] == "0.1")
    assert (poor.status, poor.exit_code) == ("pruned", 75)


def test_a_job_killed_on_its_node_is_in_the_next_batch(tmp_path: Path) -> None:
    result, batches = run_batches(tmp_path, choices(x="0.1,0.2", mode="oom"), n_jobs=2)
    assert batches == [(0, 2), (2, 2)]
    assert [start["step"] for start in starts(tmp_path, "trial-000")] == [0, 1]
    assert result.exit_code == 0


def test_a_stop_reaches_a_node_by_file(tmp_path: Path) -> None:
    result, _ = run_batches(tmp_path, choices(mode="deaf"), n_jobs=1, job_timeout_minutes=0.01, grace_seconds=0.2)
    (row,) = result.rows
    assert row.reason == "ran longer than 0.01 minutes"
    (attempt,) = json.loads((tmp_path / "jobs" / "trial-000.json").read_text())
    assert attempt["signal"] == signal.SIGKILL


def test_a_launcher_that_cannot_start_says_so_and_the_trials_stay(tmp_path: Path) -> None:
    def broken(jobs: list[Job], first: int) -> None:
        raise OSError("sbatch: command not found")

    with pytest.raises(RmxError, match="the launcher could not run the batch: OSError: sbatch: command not found"):
        run_batches(tmp_path, choices(x="0.1,0.2"), "steps=1", launch=broken, n_jobs=2)
    result, _ = run_batches(tmp_path, choices(x="0.1,0.2"), "steps=1", n_jobs=2)
    assert [row.status for row in result.rows] == ["finished", "finished"]


def test_a_job_that_its_cluster_starts_too_late_does_not_run(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.jobs.mkdir()
    (folder.jobs / "trial-000.stop").touch()
    argv = [sys.executable, str(FAKE), f"output_dir={tmp_path / 'trial-000'}"]
    assert run_guarded(folder, "trial-000", argv, 1.0) == 143
    assert not (tmp_path / "trial-000").exists()


def test_asked_twice_the_sweep_does_not_wait_for_a_queue(tmp_path: Path) -> None:
    """The launcher's batch never returns, as one that waits in a cluster's queue."""
    forever = threading.Event()
    jobs = BatchJobs(SweepFolder(tmp_path), lambda batch, first: bool(forever.wait()) or None, n_jobs=1)
    (tmp_path / "jobs").mkdir()
    jobs.start(Job(0, "trial-000", ()))
    jobs.flush()
    jobs.stop(0)
    assert jobs.collect() == []
    jobs.stop(0)
    (ended,) = jobs.collect()
    assert ended.killed
    assert jobs.running() == 0
    forever.set()
