"""The board of notes, and what is said when ranks do not come or have ended: stores of this process, no ranks."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from rmx.errors import ConfigError, RankError
from rmx.launch import Origin
from rmx.launch.board import Board, Failure
from rmx.launch.local import LocalRanks, RanksEnded, ended


def boards(ranks: int) -> list[Board]:
    store = dist.HashStore()
    return [Board(store, rank, ranks) for rank in range(ranks)]


def test_notes_say_who_is_behind() -> None:
    zero, one, _ = boards(3)
    zero.note("at step 7")
    one.note("at step 6")
    assert zero.behind() == [1, 2]
    assert zero.described(1).endswith("last seen at step 6")
    assert zero.described(2) == "rank 2, which has not started"
    one.note("at step 7")
    assert zero.behind() == [2]


def test_ranks_that_do_not_come_are_named() -> None:
    zero, one, *_ = boards(4)
    one.note("starting")
    with pytest.raises(RankError, match=r"waited 0\.2 seconds .* for 2 of 4 ranks, which have not come: 2, 3;"):
        zero.meet(0.2)


def test_a_rank_that_ended_at_the_start_ends_the_wait_at_once() -> None:
    zero, one = boards(2)
    one.failed(Failure(1, "DataError", "data.path: there is no file x.jsonl", 2, "gpu9", time.time()))
    with pytest.raises(RankError, match=r"rank 1 on gpu9 ended at the start: data\.path: there is no file x\.jsonl"):
        zero.meet(60)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"MASTER_PORT: port {port} on 127.0.0.1 is in use"):
            Board.open(Origin("srun", 0, 2, 0, 2, "127.0.0.1", port), 2, {})


def test_a_rank_0_that_does_not_answer_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(RankError, match=f"rank 1 on .* waited 0.2 seconds .* for rank 0 at 127.0.0.1:{port}"):
        Board.open(Origin("srun", 1, 2, 1, 2, "127.0.0.1", port), 0.2, {})


# --- The end of ranks that rmx has started: (what ranks said, how processes ended) → message, exit code, restart ------

DATA = Failure(1, "DataError", "data.path: no file", 2, "here")
SAME = replace(DATA, rank=0)
LOST = Failure(0, "RankError", "rank 0 lost its connection", 1, "here")
STOPPED = Failure(0, "Interrupted", "stopped by signal 15; saved checkpoint-6", 143, "here")
PRUNED = Failure(0, "Pruned", "step 3: stopped early by the sweep", 75, "here")


@pytest.mark.parametrize(
    ("said", "codes", "message", "exit_code", "again"),
    [
        ([DATA, LOST], {1: 2}, "rank 1 on here: data.path: no file", 2, False),  # the reason, not its consequence
        ([LOST, DATA], {0: 1}, "rank 1 on here: data.path: no file", 2, False),
        ([SAME, DATA], {0: 2}, "data.path: no file", 2, False),  # both said it: no number
        ([STOPPED], {0: 143}, "stopped by signal 15; saved checkpoint-6", 143, False),
        ([PRUNED], {0: 75}, "step 3: stopped early by the sweep", 75, False),
        ([LOST], {1: -9}, "rank 1, which has not started, was killed by SIGKILL (often: out of memory)", 1, True),
        ([STOPPED], {1: -9}, "rank 1, which has not started, was killed by SIGKILL (often: out of memory)", 1, True),
        ([LOST], {0: 1}, "rank 0 lost its connection", 1, True),
        ([], {1: 7}, "rank 1, which has not started, ended with exit code 7 and gave no reason", 1, True),
    ],
)  # fmt: skip
def test_the_rank_that_ended_first_is_named(
    said: list[Failure], codes: dict[int, int], message: str, exit_code: int, again: bool
) -> None:
    (board, _) = boards(2)
    now = time.time()
    for failure in said:
        board.failed(replace(failure, time=now))
    killed = {rank: ProcessFailure(rank, 100 + rank, code, "") for rank, code in codes.items()}
    found = ended(board, killed)
    assert str(found).startswith(message)
    assert (found.exit_code, found.by_accident) == (exit_code, again)


def test_a_rank_that_the_launcher_killed_later_is_not_the_reason() -> None:
    """Rank 0 gave up waiting ten seconds ago; rank 1, which hung, was killed because of that."""
    board, _ = boards(2)
    board.failed(Failure(0, "RankError", "rank 0 got no answer in time", 1, "here", time.time() - 10))
    found = ended(board, {1: ProcessFailure(1, 101, -9, "")})
    assert str(found) == "rank 0 got no answer in time"


@pytest.mark.parametrize(("restarts", "accident", "starts"), [(0, True, 1), (2, True, 3), (2, False, 1)])
def test_only_accidents_start_the_ranks_again(
    restarts: int, accident: bool, starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def once(self: LocalRanks, words: list[str], processes: int) -> None:
        tried.append(processes)
        raise RanksEnded("a rank ended", 1, by_accident=accident)

    monkeypatch.setattr(LocalRanks, "_run_once", once)
    with pytest.raises(RanksEnded):
        LocalRanks(max_restarts=restarts).start([], 2, Path())
    assert tried == [2] * starts


STORE_OF_ITS_OWN = """
import sys, torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
print(store.port, flush=True)
sys.stdin.read()
"""


def test_a_store_that_is_gone_is_asked_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Its process is killed, as that of rank 0 may be. For each question torch would print a C++ stack of 20 lines."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", STORE_OF_ITS_OWN], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        board = Board(dist.TCPStore("127.0.0.1", port, None, False), 1, 2)
        board.note("at step 1")
        assert board.answers()
        process.kill()
        process.wait()
    assert not board.answers()
    assert board.gone
    said = capfd.readouterr().err
    for step in range(2, 5):
        board.note(f"at step {step}")
    assert board.failures() == []
    assert board.doing(0) is None
    assert capfd.readouterr().err == "", said
    assert board.described(1).endswith("last seen at step 4")
