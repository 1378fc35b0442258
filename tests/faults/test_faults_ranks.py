"""Two processes: killed, stopped by a signal that only one of them got, and continued (F3, F7)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_harness import Child, at, die, final, free_port, needs_fork, start, train, workflow

pytestmark = needs_fork

SETTINGS = {"num_train_epochs": 2, "save_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}


def both(models: Path, folder: Path, before: Callable[[int], None] = lambda rank: None, **changes: Any) -> list[Child]:
    """Run two ranks to their end; `before` is called in each first."""
    port = free_port()

    def work(rank: int) -> None:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        before(rank)
        train(workflow(folder / "run", models, **SETTINGS, **changes))

    children = [start(lambda rank=rank: work(rank), folder / f"log{rank}") for rank in (0, 1)]
    return [child.wait() for child in children]


def killed_at(rank: int) -> None:
    """Both die in step 6."""
    at("begin", 6, die)


def signalled(rank: int) -> None:
    """The second one alone gets a signal in step 5."""
    if rank == 1:
        at("backward", 5, lambda: os.kill(os.getpid(), signal.SIGTERM))


@pytest.mark.parametrize(("fault", "code"), [(killed_at, -9), pytest.param(signalled, 143, marks=pytest.mark.slow)])
def test_two_ranks(fault: Callable[[int], None], code: int, models: Path, tmp_path: Path) -> None:
    """Both end with the code; the continuation leaves what an undisturbed run of two leaves."""
    whole = both(models, tmp_path / "whole")
    assert [child.code for child in whole] == [0, 0], [child.text[-1500:] for child in whole]
    stopped = both(models, tmp_path, fault)
    assert [child.code for child in stopped] == [code, code], [child.text[-1500:] for child in stopped]
    done = both(models, tmp_path)
    assert [child.code for child in done] == [0, 0], [child.text[-1500:] for child in done]
    wanted, found = final(tmp_path / "whole" / "run"), final(tmp_path / "run")
    assert not [key for key in wanted if wanted[key] != found[key]]
