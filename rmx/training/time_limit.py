"""`trainer.stop_after`: a run ends before its job's time does, with a checkpoint that the same command continues.

A run goes on to another step only if that step, and a checkpoint after it, will fit:

    elapsed + what is due now + one step + 1.5 x a checkpoint  <=  stop_after

Each is taken to last as long as the longest of the last ones; before there is one, an evaluation as long as training
on as many comparisons, and a checkpoint as long as a slow disk takes for what the process holds. Every process makes
one step at least: a limit that leaves no time for that is refused, because a batch system that starts the command
again and again would never get on.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator

from rmx.errors import ConfigError
from rmx.launch import seconds_since_job_began

__all__ = ["TimeLimit", "in_words", "seconds_of"]

log = logging.getLogger(__name__)

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SHAPE = re.compile("".join(rf"(?:(\d+){unit})?" for unit in _UNITS), re.ASCII)
_REMEMBERED = 16  # steps: the first, which may compile, does not count for ever
_MARGIN = 1.5  # times the longest checkpoint: disks that many share are not even
_DISK_BYTES_PER_SECOND = 200e6  # of a slow one


def seconds_of(duration: str) -> int:
    """Return the seconds of a duration such as 90s, 45m, 3h50m or 1d2h.

    Raises:
        ValueError: it is not one; the message says what to write.

    >>> seconds_of("3h50m"), seconds_of("1d2h"), seconds_of("90s")
    (13800, 93600, 90)
    >>> seconds_of("3:50:00")
    Traceback (most recent call last):
    ValueError: '3:50:00' is not a duration; write numbers with the units d, h, m, s: 90s, 45m, 3h50m, 1d2h
    """
    found = _SHAPE.fullmatch(duration.strip())
    if not duration.strip() or found is None:
        hint = "write numbers with the units d, h, m, s: 90s, 45m, 3h50m, 1d2h"
        if duration.strip().replace(".", "", 1).isdigit():
            hint = f"it has no unit: write {duration.strip()}s, {duration.strip()}m or {duration.strip()}h"
        raise ValueError(f"{duration!r} is not a duration; {hint}")
    seconds = sum(int(number or 0) * size for number, size in zip(found.groups(), _UNITS.values(), strict=True))
    if seconds == 0:
        raise ValueError(f"{duration!r} leaves no time; give one above zero, or null for no limit")
    return seconds


def in_words(seconds: float) -> str:
    """Write a time as `seconds_of` reads it; below a minute with a digit more.

    >>> in_words(13_800), in_words(93_600), in_words(59.94), in_words(0.26), in_words(3_605)
    ('3h50m', '1d2h', '59.9s', '0.3s', '1h5s')
    """
    if seconds < 60:
        return f"{seconds:.1f}s"
    left, words = round(seconds), ""
    for unit, size in _UNITS.items():
        number, left = divmod(left, size)
        words += f"{number}{unit}" if number else ""
    return words


class TimeLimit:
    """Watches the clock of one process; of several, the first one's clock decides.

    Args:
        asked: the duration since the job began; None sets no limit.
        age: seconds since the job began, asked once.
        clock: a clock that never goes back, in seconds.

    >>> now = [0.0]
    >>> limit = TimeLimit("90s", age=lambda: 10.0, clock=lambda: now[0])  # the job began 10 seconds ago
    >>> limit.begin()
    >>> now[0] = 25.0; limit.step_done(comparisons=8)
    >>> with limit.timed("checkpoint"): now[0] = 31.0
    >>> limit.is_up(), limit.needed()  # 10 + 31 elapsed; a step of 25 s and 1.5 x 6 s fit before 90
    (False, 34.0)
    >>> now[0] = 56.0; limit.step_done(comparisons=8)
    >>> limit.is_up()  # 66 + 25 + 9 = 100
    True
    """

    def __init__(
        self,
        asked: str | None,
        *,
        age: Callable[[], float] = seconds_since_job_began,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.asked, self.clock = asked, clock
        self.seconds = None if asked is None else seconds_of(asked)
        self.began = 0.0 if asked is None else clock() - age()
        self.took: dict[str, deque[float]] = {
            name: deque(maxlen=_REMEMBERED) for name in ("step", "evaluation", "checkpoint")
        }
        self.seconds_per_comparison = 0.0
        self.held_bytes: Callable[[], int] = lambda: 0  # what a checkpoint of this process will hold
        self.mark, self.between = clock(), 0.0  # end of the last step; what was not a step since then

    @property
    def elapsed(self) -> float:
        """Seconds since the job began."""
        return self.clock() - self.began

    def begin(self) -> None:
        """Start to measure steps.

        Raises:
            ConfigError: the time is up already, so that not one step would be made.
        """
        if self.seconds is not None and self.elapsed >= self.seconds:
            raise ConfigError(
                f"trainer.stop_after: {self.asked} is over before the first step: the job began "
                f"{in_words(self.elapsed)} ago, and starting, reading the data and loading the model took that long; "
                "give more, because with this value no step would ever be made"
            )
        self.mark, self.between = self.clock(), 0.0

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure an evaluation or a checkpoint."""
        started = self.clock()
        try:
            yield
        finally:
            seconds = self.clock() - started
            self.took[name].append(seconds)
            self.between += seconds

    def step_done(self, comparisons: int) -> None:
        """Measure a step of so many comparisons: all since the last one but evaluations and checkpoints."""
        now = self.clock()
        self.took["step"].append(now - self.mark - self.between)
        self.seconds_per_comparison = max(self.took["step"]) / max(comparisons, 1)
        self.mark, self.between = now, 0.0

    def is_up(self, *, evaluates: int = 0, saves: bool = False, is_last: bool = False) -> bool:
        """Whether to stop here, at the end of a step, because going on does not fit.

        Args:
            evaluates: comparisons of an evaluation that is due now; 0 for none.
            saves: whether a checkpoint is due now.
            is_last: whether no step follows.
        """
        if self.seconds is None or not self.took["step"]:
            return False
        if is_last and not evaluates and not saves:
            return False  # nothing is left that a later start could do
        return self.elapsed + self.needed(evaluates=evaluates, saves=saves, is_last=is_last) > self.seconds

    def needed(self, *, evaluates: int = 0, saves: bool = False, is_last: bool = False) -> float:
        """Return the seconds that going on takes, up to the next checkpoint; see `is_up`."""
        now = self.expected("evaluation", evaluates) if evaluates else 0.0
        if saves and not is_last:
            now += self.expected("checkpoint")
        return now + (0.0 if is_last else max(self.took["step"])) + _MARGIN * self.expected("checkpoint")

    def expected(self, name: str, comparisons: int = 0) -> float:
        """Return how long the next evaluation, or the next checkpoint, may take."""
        if self.took[name]:
            return max(self.took[name])
        if name == "evaluation":
            return comparisons * self.seconds_per_comparison
        return self.held_bytes() / _DISK_BYTES_PER_SECOND

    def ended_in_words(self, step: int, steps: int, checkpoint: str) -> str:
        """Say when and where the run was stopped, after its checkpoint; and whether that was too late."""
        late = self.elapsed - (self.seconds or 0)
        over = f" ({in_words(late)} late)" if late > 0 else ""
        return (
            f"trainer.stop_after={self.asked}: stopped after {in_words(self.elapsed)}{over} at step {step} of {steps}, "
            f"and saved {checkpoint}; the same command continues"
        )
