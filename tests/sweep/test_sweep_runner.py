"""The sweep's loop on fake jobs: every fault is first shown to have happened, then to cost what it should."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from sweeping import alive, children_of, choices, run_fake, start_fake, starts, steps, wait_until

from rmx.errors import ConfigError, OutputError
from rmx.sweep.runner import EXIT_FAILURES, EXIT_NONE_FINISHED, EXIT_STOPPED
from rmx.sweep.space import Dimension, SearchSpace
from rmx.sweep.strategy import SweepSettings


def test_grid_runs_every_combination_once_and_finds_the_winner(tmp_path: Path) -> None:
    """Accuracy is 0.5 + x: x = 0.3 wins with 0.8."""
    result = run_fake(tmp_path, choices(x="0.1,0.3,0.2", steps="1,2"))
    assert result.exit_code == 0
    assert sorted((row.params["x"], row.params["steps"]) for row in result.rows) == [
        (x, n) for x in ("0.1", "0.2", "0.3") for n in ("1", "2")
    ]
    winner = result.winner
    assert winner is not None
    assert winner.params["x"] == "0.3"
    assert winner.values == {"eval/accuracy": 0.8}
    assert (tmp_path / "best").resolve() == tmp_path / winner.folder
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content["winner"] == winner.number
    assert content["counts"] == {"finished": 6}
    assert {trial["number"] for trial in content["trials"]} == set(range(6))
    for row in result.rows:
        (start,) = starts(tmp_path, row.folder)
        assert f"x={row.params['x']}" in start["argv"]


def test_a_crash_costs_that_job_only(tmp_path: Path) -> None:
    result = run_fake(tmp_path, choices(x="0.1,0.2", mode="ok,crash"))
    assert Counter(row.status for row in result.rows) == {"finished": 2, "failed": 2}
    assert result.exit_code == EXIT_FAILURES
    for row in result.rows:
        if row.status == "failed":
            assert row.exit_code == 1
            assert row.reason == f"exit 1: RuntimeError: no luck with x={row.params['x']}"
            assert "about to fail" in (tmp_path / row.log).read_text()
            assert len(starts(tmp_path, row.folder)) == 1  # a crash is not tried again


def test_a_job_that_a_signal_kills_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """mode=oom saves step 1 and kills itself with SIGKILL, once."""
    result = run_fake(tmp_path, choices(x="0.1", mode="oom"), "steps=3")
    (row,) = result.rows
    attempts = json.loads((tmp_path / "jobs" / f"{row.name}.json").read_text())
    assert attempts[0]["signal"] == signal.SIGKILL  # the fault
    assert [start["step"] for start in starts(tmp_path, row.folder)] == [0, 1]
    assert (row.status, row.processes, result.exit_code) == ("finished", 2, 0)


def test_a_job_whose_time_is_up_goes_on_and_uses_no_restart(tmp_path: Path) -> None:
    """mode=timed ends with 75 after each of 4 steps but the last: 4 processes, though none may be started again."""
    result = run_fake(tmp_path, choices(x="0.1,0.2", mode="timed"), "steps=4", max_restarts=0)
    assert [(row.status, row.processes) for row in result.rows] == [("finished", 4), ("finished", 4)]
    assert result.exit_code == 0
    for row in result.rows:
        attempts = json.loads((tmp_path / "jobs" / f"{row.name}.json").read_text())
        assert [attempt["exit_code"] for attempt in attempts] == [75, 75, 75, 0]
        assert [start["step"] for start in starts(tmp_path, row.folder)] == [0, 1, 2, 3]


def test_a_timed_job_that_is_to_be_pruned_is_pruned(tmp_path: Path) -> None:
    """0.3, 0.4 run on; 0.1 lies below their median, and ends with 75 for its time or for PRUNE, whichever is first."""
    settings = {"n_jobs": 1, "pruner": "median", "pruner_startup_trials": 2}
    result = run_fake(tmp_path, choices(x="0.3,0.4,0.1", mode="timed"), "steps=6", "seconds=0.05", **settings)
    by_x = {row.params["x"]: row.status for row in result.rows}
    assert by_x == {"0.3": "finished", "0.4": "finished", "0.1": "pruned"}


def test_a_job_without_restarts_to_spare_stays_killed_and_the_next_start_continues_it(tmp_path: Path) -> None:
    space = choices(x="0.1,0.2", mode="oom")
    first = run_fake(tmp_path, space, max_restarts=0)
    assert [row.status for row in first.rows] == ["killed", "killed"]
    assert first.exit_code == EXIT_NONE_FINISHED
    second = run_fake(tmp_path, space, max_restarts=0)
    assert sorted(row.name for row in second.rows) == ["trial-000", "trial-001"]
    assert [row.status for row in second.rows] == ["finished", "finished"]
    assert [start["step"] for start in starts(tmp_path, "trial-000")] == [0, 1]


@pytest.mark.parametrize(("mode", "reason"), [("exit0", "no eval/accuracy"), ("nan", "not a finite number")])
def test_success_without_a_number_is_a_failure(tmp_path: Path, mode: str, reason: str) -> None:
    result = run_fake(tmp_path, choices(mode=mode))
    (row,) = result.rows
    assert row.exit_code == 0
    assert row.status == "failed"
    assert reason in row.reason
    assert result.exit_code == EXIT_NONE_FINISHED


@pytest.mark.parametrize("limit", [{"fail_fast": True}, {"max_failures": 1}])
def test_failures_stop_the_sweep_and_a_later_start_finishes_it(tmp_path: Path, limit: dict[str, object]) -> None:
    space = choices(mode="crash,ok", x="0.1,0.2,0.3")
    result = run_fake(tmp_path, space, n_jobs=1, **limit)
    assert result.exit_code == EXIT_STOPPED
    counts = Counter(row.status for row in result.rows)
    assert counts["failed"] == 1
    assert counts["waiting"] == 5
    again = run_fake(tmp_path, space, n_jobs=2)
    assert Counter(row.status for row in again.rows) == {"failed": 3, "finished": 3}
    assert all(len(starts(tmp_path, row.folder)) == 1 for row in again.rows)


def test_retry_failed_runs_them_again_in_their_folder_and_counts_them_once(tmp_path: Path) -> None:
    space = choices(x="0.1,0.2")
    other = tmp_path / "other"
    (other / "trial-000").mkdir(parents=True)
    (other / "trial-000" / "metrics.jsonl").mkdir()  # cannot be opened: the job crashes
    first = run_fake(other, space)
    assert Counter(row.status for row in first.rows) == {"failed": 1, "finished": 1}
    (other / "trial-000" / "metrics.jsonl").rmdir()
    kept = run_fake(other, space)
    assert Counter(row.status for row in kept.rows) == {"failed": 1, "finished": 1}
    second = run_fake(other, space, retry_failed=True)
    assert sorted((row.name, row.status) for row in second.rows) == [
        ("trial-000", "finished"),
        ("trial-001", "finished"),
    ]
    assert len(starts(other, "trial-000")) == 2
    assert len(starts(other, "trial-001")) == 1


def test_a_hanging_job_is_stopped_at_its_time_limit(tmp_path: Path) -> None:
    result = run_fake(tmp_path, choices(mode="deaf,ok"), job_timeout_minutes=0.02, grace_seconds=0.3)
    by_mode = {row.params["mode"]: row for row in result.rows}
    assert by_mode["deaf"].status == "failed"
    assert by_mode["deaf"].reason == "ran longer than 0.02 minutes"
    assert by_mode["deaf"].exit_code == 128 + signal.SIGKILL  # it did not listen to SIGTERM
    assert by_mode["ok"].status == "finished"


# --- Pruning ----------------------------------------------------------------------------------------------------------


def test_median_pruning_stops_poor_trials_cleanly(tmp_path: Path) -> None:
    """One at a time: 0.3, 0.4 finish, then 0.1 is below the median of the two at its first step."""
    space = choices(x="0.3,0.4,0.1")
    result = run_fake(tmp_path, space, "steps=40", "seconds=0.05", n_jobs=1, pruner="median", pruner_startup_trials=2)
    poor = next(row for row in result.rows if row.params["x"] == "0.1")
    assert (poor.status, poor.exit_code) == ("pruned", 75)
    assert steps(tmp_path, poor.folder)[-1] < 40
    assert "eval/accuracy" in poor.reason
    assert poor.steps[1] == pytest.approx(0.5025)  # 0.5 + 0.1 / 40
    assert result.exit_code == 0
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert [trial["status"] for trial in content["trials"]] == ["finished", "finished", "pruned"]


def test_pruning_on_a_loss_looks_for_small_values(tmp_path: Path) -> None:
    """Loss is 1 - accuracy: x = 0.1 has the larger loss and is the one to go, though accuracy is the objective."""
    settings = {"n_jobs": 1, "pruner": "median", "pruner_startup_trials": 2, "pruner_metric": "eval/loss"}
    result = run_fake(tmp_path, choices(x="0.3,0.4,0.1"), "steps=40", "seconds=0.05", **settings)
    assert {row.params["x"]: row.status for row in result.rows} == {
        "0.3": "finished", "0.4": "finished", "0.1": "pruned",
    }  # fmt: skip
    poor = next(row for row in result.rows if row.status == "pruned")
    assert poor.steps[1] == pytest.approx(1 - 0.5025)


@pytest.mark.parametrize("pruner", ["halving", pytest.param("hyperband", marks=pytest.mark.slow)])
def test_halving_and_hyperband_stop_some_and_keep_the_best(tmp_path: Path, pruner: str) -> None:
    space = choices(x="0.4,0.3,0.01,0.02,0.03,0.04,0.05,0.06")
    result = run_fake(tmp_path, space, "steps=27", "seconds=0.03", n_jobs=1, pruner=pruner)
    counts = Counter(row.status for row in result.rows)
    assert counts["pruned"] >= 2
    assert counts["pruned"] + counts["finished"] == 8
    assert result.winner is not None
    assert result.winner.params["x"] == "0.4"


@pytest.mark.slow
def test_a_pruned_job_that_does_not_stop_is_terminated(tmp_path: Path) -> None:
    space = choices(x="0.3,0.4,0.1", mode="unprunable")
    result = run_fake(
        tmp_path, space, "steps=60", "seconds=0.05", n_jobs=1, pruner="median", pruner_startup_trials=2,
        pruner_grace_seconds=0.3,
    )  # fmt: skip
    poor = next(row for row in result.rows if row.params["x"] == "0.1")
    assert (poor.status, poor.exit_code) == ("pruned", 143)
    assert steps(tmp_path, poor.folder)[-1] < 60


# --- Search and several objectives ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler", ["random", "tpe", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gp", "qmc"))]
)
def test_search_continues_without_repeating_itself(tmp_path: Path, sampler: str) -> None:
    space = SearchSpace((Dimension("x", low=1e-3, high=0.4, log=True),))
    common = {"sampler": sampler, "startup_trials": 3, "n_jobs": 2}
    first = run_fake(tmp_path, space, "steps=1", "seconds=0", n_trials=4, **common)
    second = run_fake(tmp_path, space, "steps=1", "seconds=0", n_trials=8, **common)
    assert len(first.rows) == 4
    points = [row.params["x"] for row in second.rows]
    assert len(points) == len(set(points)) == 8
    assert {row.params["x"] for row in first.rows} <= set(points)
    assert all(len(starts(tmp_path, row.folder)) == 1 for row in second.rows)


def test_search_of_a_small_space_stops_when_it_is_used_up(tmp_path: Path) -> None:
    result = run_fake(tmp_path, choices(x="0.1,0.2,0.3"), "steps=1", sampler="tpe", n_trials=50, startup_trials=2)
    assert sorted(row.params["x"] for row in result.rows) == ["0.1", "0.2", "0.3"]


def test_several_objectives_give_a_pareto_front(tmp_path: Path) -> None:
    """Accuracy 0.5 + x and speed 1000 (1 - x) pull apart: no trial beats another in both."""
    result = run_fake(
        tmp_path, choices(x="0.1,0.2,0.4"), objectives=["eval/accuracy", "train/tokens_per_second"], n_trials=3,
        sampler="grid",
    )  # fmt: skip
    assert [row.params["x"] for row in result.rows] == ["0.4", "0.2", "0.1"]
    assert all(row.pareto for row in result.rows)
    assert result.rows[0].values == {"eval/accuracy": 0.9, "train/tokens_per_second": 600.0}


def test_search_without_a_number_of_trials_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.n_trials"):
        run_fake(tmp_path, choices(x="0.1"), sampler="tpe")


def test_another_sweep_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    run_fake(tmp_path, choices(x="0.1"), "steps=1")
    with pytest.raises(ConfigError, match="holds another sweep"):
        run_fake(tmp_path, choices(x="0.1"), "steps=2")


# --- Kills ------------------------------------------------------------------------------------------------------------


def test_kill_9_of_the_sweeper_leaves_no_orphans_and_a_resume_has_every_trial_once(tmp_path: Path) -> None:
    spaces, fixed = {"x": "0.1,0.2,0.3,0.15,0.25,0.35"}, ("steps=12", "seconds=0.1")
    sweeper = start_fake(tmp_path, spaces, *fixed, n_jobs=2)
    wait_until(lambda: len(list(tmp_path.glob("trial-*"))) >= 4 and len(steps(tmp_path, "trial-003")) >= 2)
    guards = children_of(sweeper.pid)
    jobs = [job for guard in guards for job in children_of(guard)]
    assert len(jobs) == 2
    sweeper.send_signal(signal.SIGKILL)
    assert sweeper.wait() == -signal.SIGKILL  # the fault
    wait_until(lambda: not any(alive(pid) for pid in guards + jobs))
    unfinished = [name for name in ("trial-002", "trial-003") if steps(tmp_path, name)[-1] < 12]
    assert unfinished
    done_before = {p.parent.name: len(starts(tmp_path, p.parent.name)) for p in tmp_path.glob("*/generated_*.jsonl")}
    assert done_before

    again = start_fake(tmp_path, spaces, *fixed, n_jobs=2)
    assert again.wait() == 0
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert sorted(trial["params"]["x"] for trial in content["trials"]) == sorted(spaces["x"].split(","))
    assert {trial["status"] for trial in content["trials"]} == {"finished"}
    for name, count in done_before.items():
        assert len(starts(tmp_path, name)) == count  # finished trials were not run again
    for name in unfinished:
        begun = [start["step"] for start in starts(tmp_path, name)]
        assert len(begun) == 2
        assert begun[1] > 0  # from its own checkpoint
        assert steps(tmp_path, name) == list(range(1, 13))


def test_a_job_that_ends_after_its_sweeper_is_not_run_twice(tmp_path: Path) -> None:
    """The sweeper is killed; its job, asked to stop, happens to be done: exit 0 is in the guard's record."""
    sweeper = start_fake(tmp_path, {"x": "0.1"}, "steps=10", "seconds=0.3", "mode=to_the_end", n_jobs=1)
    wait_until(lambda: len(steps(tmp_path, "trial-000")) >= 9)
    sweeper.send_signal(signal.SIGKILL)
    sweeper.wait()
    record = tmp_path / "jobs" / "trial-000.json"
    wait_until(lambda: json.loads(record.read_text())[-1].get("exit_code") is not None)
    code = json.loads(record.read_text())[-1]["exit_code"]
    assert start_fake(tmp_path, {"x": "0.1"}, "steps=10", "seconds=0.3", "mode=to_the_end", n_jobs=1).wait() == 0
    assert len(starts(tmp_path, "trial-000")) == (1 if code == 0 else 2)


@pytest.mark.parametrize(("mode", "processes"), [("slow_save", 2), ("to_the_end", 1)])
def test_a_resume_at_once_waits_for_the_job_that_is_still_there(tmp_path: Path, mode: str, processes: int) -> None:
    """The sweeper is killed and started again while its job still saves (or finishes): never two at a time."""
    fixed = ("steps=15", "seconds=0.1", f"mode={mode}")
    sweeper = start_fake(tmp_path, {"x": "0.1"}, *fixed, n_jobs=1)
    wait_until(lambda: len(steps(tmp_path, "trial-000")) >= 3)
    old = starts(tmp_path, "trial-000")[0]["pid"]
    sweeper.send_signal(signal.SIGKILL)
    sweeper.wait()
    again = start_fake(tmp_path, {"x": "0.1"}, *fixed, n_jobs=1)
    assert alive(old)  # the fault: the predecessor is still at work
    assert again.wait() == 0
    attempts = json.loads((tmp_path / "jobs" / "trial-000.json").read_text())
    assert len(attempts) == len(starts(tmp_path, "trial-000")) == processes
    assert all(late["started"] >= early["ended"] for early, late in pairwise(attempts))
    assert steps(tmp_path, "trial-000") == list(range(1, 16))


def test_interrupt_saves_the_jobs_and_the_next_start_goes_on(tmp_path: Path) -> None:
    sweeper = start_fake(tmp_path, {"x": "0.1,0.2"}, "steps=30", "seconds=0.1", n_jobs=2)
    wait_until(lambda: min(len(steps(tmp_path, name)) for name in ("trial-000", "trial-001")) >= 3)
    pids = [starts(tmp_path, name)[0]["pid"] for name in ("trial-000", "trial-001")]
    sweeper.send_signal(signal.SIGINT)
    assert sweeper.wait() == 130
    assert not any(alive(pid) for pid in pids)
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert [(trial["status"], trial["exit_code"]) for trial in content["trials"]] == [("killed", 143)] * 2
    assert start_fake(tmp_path, {"x": "0.1,0.2"}, "steps=30", "seconds=0.1", n_jobs=2).wait() == 0
    assert [len(starts(tmp_path, name)) for name in ("trial-000", "trial-001")] == [2, 2]


def test_a_second_interrupt_does_not_wait_for_deaf_jobs(tmp_path: Path) -> None:
    sweeper = start_fake(tmp_path, {"mode": "deaf"}, n_jobs=1, grace_seconds=300)
    wait_until(lambda: starts(tmp_path, "trial-000"))
    sweeper.send_signal(signal.SIGTERM)
    wait_until(lambda: json.loads((tmp_path / "jobs" / "trial-000.json").read_text())[-1].get("asked"))
    sweeper.send_signal(signal.SIGTERM)
    assert sweeper.wait(timeout=60) == 143
    assert not alive(starts(tmp_path, "trial-000")[0]["pid"])


def test_kill_9_of_a_guard_kills_its_job_and_the_trial_is_done_again(tmp_path: Path) -> None:
    sweeper = start_fake(tmp_path, {"x": "0.1"}, "steps=20", "seconds=0.1", n_jobs=1)
    wait_until(lambda: len(steps(tmp_path, "trial-000")) >= 3)
    (guard,) = children_of(sweeper.pid)
    (job,) = children_of(guard)
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: not alive(job))  # the kernel saw to it
    assert sweeper.wait() == 0
    begun = [start["step"] for start in starts(tmp_path, "trial-000")]
    assert len(begun) == 2
    assert begun[1] >= 3


def test_a_torn_journal_and_a_stale_lock_are_repaired(tmp_path: Path) -> None:
    run_fake(tmp_path, choices(x="0.1,0.2"), "steps=1")
    journal = tmp_path / "study.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 5, "worker')  # a kill in the middle of a write
    os.symlink(journal, f"{journal}.lock")
    result = run_fake(tmp_path, choices(x="0.1,0.2"), "steps=1")
    assert [row.status for row in result.rows] == ["finished", "finished"]
    assert all(len(starts(tmp_path, row.folder)) == 1 for row in result.rows)


def test_two_sweepers_cannot_share_a_folder(tmp_path: Path) -> None:
    sweeper = start_fake(tmp_path, {"x": "0.1"}, "steps=100", "seconds=0.1", n_jobs=1)
    wait_until(lambda: starts(tmp_path, "trial-000"))
    with pytest.raises(OutputError, match=r"hydra\.sweep\.dir: another process is running"):
        run_fake(tmp_path, choices(x="0.1"), "steps=100", "seconds=0.1")
    sweeper.send_signal(signal.SIGTERM)
    assert sweeper.wait() == 143


# --- Slots ------------------------------------------------------------------------------------------------------------


def test_each_slot_has_its_gpu_and_its_share_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setattr("rmx.sweep.jobs.available_cpus", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    from rmx.sweep.jobs import LocalJobs
    from rmx.sweep.trials import SweepFolder

    jobs = LocalJobs(SweepFolder(tmp_path), lambda _: [], n_jobs=0, gpus_per_job=2, group="lr")
    assert jobs.n_jobs == 2
    environments = [jobs.environment(slot) for slot in range(2)]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments] == ["4,5", "6,7"]
    assert [env["OMP_NUM_THREADS"] for env in environments] == ["4", "4"]
    assert environments[0]["RMX_GROUP"] == "lr"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert jobs.environment(0)["OMP_NUM_THREADS"] == "1"  # the user's own limit stays


def test_jobs_side_by_side_see_gpus_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that lists 4 GPUs, 2 for each of 2 jobs at a time: every job sees one half, the other job the other."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: NVIDIA H100 (UUID: GPU-$i)"; done\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    result = run_fake(tmp_path / "sweep", choices(x="0.1,0.2,0.3,0.4"), "steps=8", "seconds=0.1", gpus_per_job=2)
    assert result.exit_code == 0
    jobs = [(row, starts(tmp_path / "sweep", row.folder)[0]) for row in result.rows]
    assert {job["CUDA_VISIBLE_DEVICES"] for _, job in jobs} == {"0,1", "2,3"}
    spans = []
    for row, job in jobs:
        (attempt,) = json.loads((tmp_path / "sweep" / "jobs" / f"{row.name}.json").read_text())
        spans.append((attempt["started"], attempt["ended"], job["CUDA_VISIBLE_DEVICES"]))
    together = [(a, b) for a, b in combinations(spans, 2) if a[0] < b[1] and b[0] < a[1]]
    assert together  # else the next line says nothing
    assert all(a[2] != b[2] for a, b in together)


def test_jobs_run_side_by_side(tmp_path: Path) -> None:
    """Two slots: both first jobs have started before either has ended."""
    run_fake(tmp_path, choices(x="0.1,0.2"), "steps=10", "seconds=0.1", n_jobs=2)
    rows = [json.loads((tmp_path / "jobs" / f"trial-00{i}.json").read_text())[0] for i in range(2)]
    assert max(row["started"] for row in rows) < min(row["ended"] for row in rows)


def test_settings_report_every_mistake_with_the_key() -> None:
    with pytest.raises(ConfigError) as caught:
        SweepSettings(sampler="tpee", n_jobs=-1, objectives=[])
    text = str(caught.value)
    assert "hydra.sweeper.sampler: 'tpee' is not one of auto, grid, random, tpe, gp, qmc; did you mean tpe?" in text
    assert "hydra.sweeper.n_jobs: -1" in text
    assert "hydra.sweeper.objectives" in text
    with pytest.raises(ConfigError, match="n_jobs: '4' is not an integer from 0 up"):
        SweepSettings(n_jobs="4")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean n_trials"):
        SweepSettings.from_mapping({"n_trial": 3})
    with pytest.raises(ConfigError, match="needs a single objective"):
        SweepSettings(pruner="median", objectives=["eval/accuracy", "eval/loss"])
