"""Runs that are stopped at a chosen instant, and what they left, for comparison with a run that was not.

Each run is a fork of the test process, in which everything is imported already: 0.5 to 2 s instead of 10.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_base

from rmx.checkpoints import read_manifest
from rmx.data import SyntheticData
from rmx.errors import RmxError
from rmx.losses import bradley_terry
from rmx.models import Adapter, RewardModelSource
from rmx.templates import Template
from rmx.training import strategies
from rmx.training.arguments import trainer_settings
from rmx.training.loop import Loop
from rmx.training.position import Position
from rmx.training.steps import StepLoader
from rmx.workflow import Workflow

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks of the test process")

SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_tokens_per_micro_batch": 700,  # two micro-batches a step
    "logging_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 3,
    "precision": "fp32",
}
# Of these the values differ between any two runs.
CLOCK = ("time", "seconds", "runtime", "per_second", "tflops", "mfu")


@functools.cache
def base_model(family: str, parent: Path) -> Path:
    """A random base model with dropout, made once."""
    dropout = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1} if family == "gpt2" else {}
    return save_base(family, parent, **dropout)


def workflow(
    folder: Path,
    models: Path,
    *,
    family: str = "gpt2",
    lora: bool = False,
    data: Any = None,
    resume: str = "auto",
    resume_allow: tuple[str, ...] = (),
    seed: int = 7,
    callbacks: dict[str, Any] | None = None,
    **settings: Any,
) -> Workflow:
    """24 comparisons, 6 of them for evaluation: 5 steps an epoch of 4 comparisons (the last of 2), 10 steps in all."""
    return Workflow(
        model=RewardModelSource(name=family, path=str(base_model(family, models)), dropout=True),
        data=data or SyntheticData(size=24, validation_fraction=0.25, max_tokens=512),
        template=Template("auto"),
        loss=bradley_terry,
        trainer=trainer_settings(**{**SETTINGS, **settings}),
        peft=Adapter(r=4, alpha=8.0, dropout=0.1) if lora else None,
        phases=["train"],
        seed=seed,
        output_dir=str(folder),
        trackers=[],
        verbose=False,
        resume=resume,
        resume_allow=list(resume_allow),
        callbacks=callbacks,
    )


def train(flow: Workflow) -> None:
    """Run the train phase alone, without plots and report."""
    flow.train()


# --- Processes --------------------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A forked run; `code` is the exit code, or minus the signal that killed it."""

    pid: int
    output: Path
    code: int | None = None

    def wait(self) -> Child:
        """Wait for its end."""
        if self.code is None:
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)
        return self

    def ended(self) -> bool:
        """Whether it has ended, without waiting."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    @property
    def text(self) -> str:
        """What it printed, its error last."""
        return self.output.read_text(errors="replace")


def start(work: Callable[[], Any], log: Path) -> Child:
    """Fork and do `work` in the child, with the exit codes of the command line."""
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 1
    try:
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        torch.set_num_threads(1)
        work()
        code = 0
    except RmxError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = error.exit_code
    except BaseException:  # noqa: BLE001  # the child ends here, and says so
        traceback.print_exc()
    finally:
        os._exit(code)


def run_child(work: Callable[[], Any], log: Path) -> Child:
    """Fork, do `work`, wait."""
    return start(work, log).wait()


def finish(make: Callable[[], Workflow], log: Path) -> Child:
    """Run to the end; fail if it does not get there."""
    child = run_child(lambda: train(make()), log)
    assert child.code == 0, child.text[-3000:]
    return child


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- Faults -----------------------------------------------------------------------------------------------------------


def die() -> None:
    """End this process as a power cut would: no handler, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def at(where: str, step: int, act: Callable[[], None]) -> None:
    """In a child: call `act` once in a step (1, 2, ...); the places are those of `PLACES`."""
    state = {"done": False}

    def once(current: int) -> None:
        if current == step and not state["done"]:
            state["done"] = True
            act()

    def before(owner: Any, name: str, offset: int) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
            once(self.state.global_step + offset)
            return original(self, *args, **kwargs)

        setattr(owner, name, patched)

    if where == "evaluating":
        import rmx.training.loop

        current = [0]
        evaluate, evaluate_pairs = Loop.evaluate, rmx.training.loop.evaluate_pairs

        def noting(self: Loop) -> None:
            current[0] = self.state.global_step
            evaluate(self)

        def patched(*args: Any, **kwargs: Any) -> Any:
            result = evaluate_pairs(*args, **kwargs)
            once(current[0])
            return result

        Loop.evaluate, rmx.training.loop.evaluate_pairs = noting, patched  # type: ignore[method-assign]
    elif where == "writing":  # in the thread that writes tensors while training goes on
        save_weights = strategies.save_weights

        def writing(model: Any, folder: Path, copies: Any = None) -> None:
            save_weights(model, folder, copies)
            if threading.current_thread() is not threading.main_thread():
                once(int(folder.name.split("-")[1].split(".")[0]))

        strategies.save_weights = writing
    elif where == "loading":  # before a step is fetched
        epoch = StepLoader.epoch

        def loading(self: StepLoader, number: int, first: int = 0) -> Any:
            steps = epoch(self, number, first)
            for index in range(number * len(self.dataset) + first, (number + 1) * len(self.dataset)):
                once(index + 1)
                yield next(steps)

        StepLoader.epoch = loading  # type: ignore[method-assign,assignment]
    else:
        places = {
            "begin": (Loop, "gradients", 1),
            "backward": (Loop, "check_finite", 1),
            "end": (Loop, "end_step", 0),
            "saving": (Position, "write", 0),
        }
        before(*places[where])


def crash_at_event(number: int, folder: Path, *, count: Path | None = None) -> None:
    """In a child: die at the given file-system event under `folder`; with `count`, only write them all down."""
    prefix, seen = str(folder), [0]
    events = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in events and arguments and str(arguments[0]).startswith(prefix):
            reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if reads and not os.path.isdir(arguments[0]):  # opening a folder is how it is synced
                return
            seen[0] += 1
            if count is not None:
                with contextlib.suppress(OSError):
                    descriptor = os.open(count, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
                    os.write(descriptor, f"{event} {arguments[0]}\n".encode())
                    os.close(descriptor)
            elif seen[0] == number:
                die()

    sys.addaudithook(hook)


# --- What a run left --------------------------------------------------------------------------------------------------


def final(folder: Path) -> dict[str, Any]:
    """Everything that has to be the same: weights, optimizer, schedule, metrics, log history, results, artefact."""
    checkpoints = folder / "checkpoints"
    last = max(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    files = read_manifest(last).files
    state = json.loads((last / "trainer_state.json").read_text())
    return {
        "checkpoints": sorted(path.name for path in checkpoints.glob("checkpoint-*")),
        "tensors": {name: entry["xxh3_128"] for name, entry in files.items() if name.endswith(".safetensors")},
        "scheduler": json.loads((last / "scheduler.json").read_text()),
        "history": [without_clock(row) for row in state["log_history"]],
        "state": {k: state[k] for k in ("global_step", "epoch", "total_flos", "best_metric", "best_global_step")},
        "sums": json.loads((last / "rmx_state.json").read_text())["totals"],
        "metrics": metrics(folder),
        "results": without_clock(json.loads((folder / "train_results.json").read_text())),
        "artefact": sorted((p.name, p.stat().st_size) for p in (folder / "model").iterdir() if p.suffix != ".md"),
        "artefact_weights": [p.read_bytes() for p in sorted((folder / "model").glob("*.safetensors"))],
    }


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; every line has to be one."""
    return [without_clock(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_clock(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the values that a clock gave."""
    return {key: value for key, value in row.items() if not any(word in key for word in CLOCK)}


def assert_same(ended: Path, reference: dict[str, Any]) -> None:
    """Compare a run with the reference, naming what differs."""
    found = final(ended)
    differing = [key for key in reference if found[key] != reference[key]]
    assert not differing, {key: (found[key], reference[key]) for key in differing if key != "artefact_weights"}


def staging(folder: Path) -> bool:
    """Whether a checkpoint of this run is being written now."""
    try:
        return any(name.startswith(".checkpoint-") for name in os.listdir(folder / "checkpoints"))
    except FileNotFoundError:
        return False


class InNthSave:
    """Whether the run is in its n-th save since this was made."""

    def __init__(self, folder: Path, n: int) -> None:
        self.folder, self.n, self.seen, self.before = folder, n, 0, False

    def __call__(self) -> bool:
        now = staging(self.folder)
        self.seen += now and not self.before
        self.before = now
        return now and self.seen >= self.n


def kill_when(child: Child, ready: Callable[[], bool], *, timeout: float = 60.0) -> bool:
    """SIGKILL the child as soon as `ready`; False if it ended before."""
    until = time.monotonic() + timeout
    while not child.ended() and time.monotonic() < until:
        if ready():
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            return child.code == -signal.SIGKILL
        time.sleep(0.0005)
    return False
