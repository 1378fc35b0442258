"""Durations, and the rule by which a run stops: by hand, with a clock that is set."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from rmx.errors import ConfigError
from rmx.launch import seconds_since_job_began
from rmx.training.arguments import trainer_settings
from rmx.training.time_limit import TimeLimit, in_words, seconds_of


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limit_of(asked: str | None, clock: Clock, *, age: float = 0.0) -> TimeLimit:
    limit = TimeLimit(asked, age=lambda: age, clock=clock)
    limit.begin()
    return limit


@pytest.mark.parametrize("words", ["90s", "45m", "3h50m", "1d2h", "1d2h3m4s", "120m"])
def test_durations_are_read_as_they_are_written(words: str) -> None:
    assert seconds_of(in_words(max(seconds_of(words), 60))) == seconds_of(words)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3600, "it has no unit: write 3600s, 3600m or 3600h"), (1.5, "it has no unit"), ("3h 50m", "the units d, h, m, s"),
     ("50m3h", "the units d, h, m, s"), ("", "the units d, h, m, s"), ("-5m", "the units"), ("0h", "leaves no time")],
)  # fmt: skip
def test_what_is_not_a_duration_is_refused_with_what_to_write(value: object, text: str) -> None:
    with pytest.raises(ConfigError, match="^trainer.stop_after: .*" + text):
        trainer_settings(stop_after=value)  # type: ignore[arg-type]


def test_a_step_and_a_checkpoint_after_it_have_to_fit(clock: Clock) -> None:
    """Steps of 10 s and no checkpoint yet, of 1 GB at 200 MB/s: 5 s, with its margin 7.5. Of 60 s: up at 42.5."""
    limit = limit_of("60s", clock)
    limit.held_bytes = lambda: 10**9
    clock.now = 10.0
    limit.step_done(8)
    assert limit.needed() == 10 + 7.5
    clock.now = 42.5
    assert not limit.is_up()
    clock.now = 42.6
    assert limit.is_up()
    with limit.timed("checkpoint"):  # measured, it counts as measured
        clock.now += 2
    assert limit.needed() == 10 + 3


def test_what_is_due_now_comes_before_the_next_step(clock: Clock) -> None:
    """16 comparisons to evaluate as fast as 8 are trained in 10 s: 20 s, then as measured; a checkpoint takes 4 s."""
    limit = limit_of("1h", clock)
    with limit.timed("checkpoint"):
        clock.now = 4.0
    clock.now = 14.0
    limit.step_done(8)  # 14 less 4
    assert limit.needed(evaluates=16) == 20 + 10 + 6
    with limit.timed("evaluation"):
        clock.now += 7
    assert limit.needed(evaluates=16) == 7 + 10 + 6
    assert limit.needed(evaluates=16, saves=True) == 7 + 4 + 10 + 6
    assert limit.needed(evaluates=16, is_last=True) == 7 + 6


def test_a_first_slow_step_does_not_count_for_ever(clock: Clock) -> None:
    """300 s of compiling, then 16 steps of 1 s."""
    limit = limit_of("1h", clock)
    clock.now = 300.0
    limit.step_done(8)
    assert limit.needed() == 300
    for _ in range(16):
        clock.now += 1
        limit.step_done(8)
    assert limit.needed() == 1


def test_never_before_the_first_step_and_never_when_nothing_is_left(clock: Clock) -> None:
    limit = limit_of("60s", clock, age=59.0)
    clock.now = 500.0
    assert not limit.is_up()
    limit.step_done(8)
    assert limit.is_up() and not limit.is_up(is_last=True) and limit.is_up(is_last=True, evaluates=1)
    assert not limit_of(None, clock).is_up()


def test_a_time_that_is_over_at_the_start_is_refused(clock: Clock) -> None:
    with pytest.raises(ConfigError, match=r"60s is over before the first step: the job began 1m1s ago"):
        limit_of("60s", clock, age=61.0)


def test_the_job_began_with_the_process_that_started_the_rank() -> None:
    """A rank of torchrun is younger than torchrun, whose child it is; one that is alone goes by itself."""
    code = "from rmx.launch import seconds_since_job_began as age; print(age())"
    time.sleep(0.5)
    torchrun = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"}
    ages = [
        float(subprocess.run([sys.executable, "-c", code], env={**os.environ, **given}, capture_output=True).stdout)
        for given in ({}, torchrun)
    ]
    here = seconds_since_job_began({})
    assert ages[0] < ages[1] <= here + 0.1
    assert here - ages[1] < 30  # the same process, asked a moment earlier


def test_a_batch_script_may_say_when_it_began() -> None:
    assert seconds_since_job_began({"RMX_JOB_BEGAN": str(time.time() - 100)}) == pytest.approx(100, abs=5)
    with pytest.raises(ConfigError, match=r"RMX_JOB_BEGAN='today' is not a time"):
        seconds_since_job_began({"RMX_JOB_BEGAN": "today"})
