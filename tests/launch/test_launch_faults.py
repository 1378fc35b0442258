"""Two real ranks and what befalls them: one never comes, one hangs, one reads other rows, one finds the mistake alone.

Each rank is a fork of the test process with the variables that a launcher sets (`fault_harness`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflows import make_workflow

sys.path.append(str(Path(__file__).parents[1] / "faults"))
from fault_harness import Child, at, needs_fork, start
from test_faults_ranks import free_port

from rmx.cli import message_of
from rmx.data import PreferenceData, SyntheticData
from rmx.errors import RmxError
from rmx.launch import end_with
from rmx.parallel import NoParallel

pytestmark = needs_fork
SECONDS = 3.0  # parallel.timeout_minutes


def generated(rank: int) -> Any:
    """The same rows for all ranks."""
    return SyntheticData(size=40)


def two_ranks(
    folder: Path, before: Callable[[int], None] = lambda rank: None, data: Callable[[int], Any] = generated
) -> list[Child]:
    """Run two ranks as the command line does; `before` is called in each first."""
    port = free_port()

    def work(rank: int) -> None:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        before(rank)
        flow = make_workflow(folder / "run", data=data(rank), max_steps=4, verbose=False)
        try:
            dataclasses.replace(flow, phases=["train"], parallel=NoParallel(timeout_minutes=SECONDS / 60)).run()
        except RmxError as error:
            end_with(message_of(error), error, error.exit_code)
            os._exit(error.exit_code)

    children = [start(lambda rank=rank: work(rank), folder / f"log{rank}") for rank in (0, 1)]
    return [child.wait() for child in children]


def messages(children: list[Child]) -> list[str]:
    """What the ranks said to the user, all together."""
    return [line for child in children for line in child.text.splitlines() if line.startswith("rmx: ")]


def test_a_rank_that_never_comes_is_named(tmp_path: Path) -> None:
    zero, one = two_ranks(tmp_path, lambda rank: os._exit(9) if rank == 1 else None)
    assert (zero.code, one.code) == (1, 9)
    (said,) = messages([zero, one])
    assert "waited 3 seconds (parallel.timeout_minutes) at the start for 1 of 2 ranks, which have not come: 1;" in said


def test_a_rank_that_hangs_is_named_with_the_step(tmp_path: Path) -> None:
    """Rank 1 sleeps before it agrees on what is due after step 2, where rank 0 waits for it: 3 s, and no longer."""

    def before(rank: int) -> None:
        if rank == 1:
            at("end", 2, lambda: time.sleep(6))

    zero, one = two_ranks(tmp_path, before)
    assert zero.code == 1 and one.code == 1
    said = messages([zero])
    assert len(said) == 1
    assert "after step 2, where all ranks agree on what is due: got no answer in time" in said[0]
    assert "while waiting for rank 1 (" in said[0] and "last seen at step 2" in said[0]


def test_a_rank_that_is_killed_in_the_loop_is_named(tmp_path: Path) -> None:
    def before(rank: int) -> None:
        if rank == 1:
            at("begin", 3, lambda: os._exit(9))

    zero, one = two_ranks(tmp_path, before)
    assert (zero.code, one.code) == (1, 9)
    (said,) = messages([zero, one])
    assert "at step 3: lost its connection" in said and "rank 1 (" in said


def test_ranks_that_read_other_rows_end_with_both_named(tmp_path: Path) -> None:
    """40 comparisons for rank 0, of which 32 train and 8 evaluate; one more for rank 1 (33)."""
    zero, one = two_ranks(tmp_path, data=lambda rank: SyntheticData(size=40 + rank))
    assert (zero.code, one.code) == (2, 2)
    (said,) = messages([zero, one])
    assert said.startswith("rmx: data: rank 0 on ") and " and rank 1 on " in said
    assert "have read other rows: train has" in said


def test_a_mistake_that_one_rank_finds_alone_is_one_message(tmp_path: Path) -> None:
    """Rank 1 lacks the file; rank 0, which waits for it, says nothing that rank 1 has not said."""
    row = {"prompt": "Two and two?", "chosen": "Four.", "rejected": "Five."}
    (tmp_path / "rows-0.jsonl").write_text("".join(json.dumps(row | {"prompt": str(i)}) + "\n" for i in range(20)))
    zero, one = two_ranks(tmp_path, data=lambda rank: PreferenceData(path=str(tmp_path / f"rows-{rank}.jsonl")))
    assert (zero.code, one.code) == (1, 2)
    (said,) = messages([zero, one])
    assert "rows-1.jsonl" in said


def test_a_port_in_use_is_one_message(tmp_path: Path) -> None:
    import socket

    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]

    def before(rank: int) -> None:
        os.environ["MASTER_PORT"] = str(port)

    zero, _ = two_ranks(tmp_path, before)
    taken.close()
    assert zero.code == 2
    assert f"MASTER_PORT: port {port} on 127.0.0.1 is in use" in zero.text
