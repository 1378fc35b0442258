"""What the sweep tests share: a sweep of fake jobs in this process or in one that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rmx.sweep.jobs import Job, LocalJobs
from rmx.sweep.runner import Sweep, SweepResult
from rmx.sweep.space import Dimension, SearchSpace
from rmx.sweep.strategy import SweepSettings
from rmx.sweep.trials import SweepFolder

FAKE = Path(__file__).with_name("fake_job.py")
ROOT = Path(__file__).parents[2]


def choices(**values: str) -> SearchSpace:
    """choices(x="0.1,0.2") -> a space of those values."""
    return SearchSpace(tuple(Dimension(name, choices=tuple(text.split(","))) for name, text in values.items()))


def make_sweep(path: Path, space: SearchSpace, settings: SweepSettings, fixed: list[str]) -> Sweep:
    def argv(job: Job) -> list[str]:
        return [sys.executable, str(FAKE), *job.overrides]

    jobs = LocalJobs(
        SweepFolder(path),
        argv,
        n_jobs=settings.n_jobs,
        gpus_per_job=settings.gpus_per_job,
        grace_seconds=settings.grace_seconds,
    )
    return Sweep(path, space, fixed, settings, jobs, overrides=lambda folder: [f"output_dir={folder}"])


def run_fake(path: Path, space: SearchSpace, *fixed: str, **settings: object) -> SweepResult:
    return make_sweep(path, space, SweepSettings(**{"n_jobs": 2, **settings}), list(fixed)).run()


def start_fake(path: Path, spaces: dict[str, str], *fixed: str, **settings: object) -> subprocess.Popen[bytes]:
    """Start the same sweep in a process of its own; its exit code is the sweep's."""
    spec = json.dumps({"path": str(path), "space": spaces, "fixed": list(fixed), "settings": settings})
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import sweeping; from pathlib import Path;"
        "spec = json.loads(sys.argv[2]);"
        "sys.exit(sweeping.run_fake(Path(spec['path']), sweeping.choices(**spec['space']), *spec['fixed'],"
        " **spec['settings']).exit_code)"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(FAKE.parent), spec], cwd=ROOT)


def starts(path: Path, trial: str) -> list[dict]:
    """What each process of a trial wrote when it started."""
    file = path / trial / "starts.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def steps(path: Path, trial: str) -> list[int]:
    file = path / trial / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition; fails loudly when it never comes true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"did not happen within {seconds} s")
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> list[int]:
    """Pids of the direct children of a process."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == pid:
                found.append(int(entry))
    return found
