"""When the job that this process works for began: what a time limit of the job is counted from."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from rmx.errors import ConfigError
from rmx.launch.origin import origin_of

__all__ = ["BEGAN_VARIABLE", "seconds_since_job_began"]

BEGAN_VARIABLE = "RMX_JOB_BEGAN"  # seconds since 1970; for a process that is older, or younger, than its job
_IN_PARENT = ("rmx", "torchrun", "accelerate")  # they start ranks again after a failure; the job began with them


def seconds_since_job_began(environ: Mapping[str, str] | None = None) -> float:
    """Return the age of the job in seconds: of this process, or of the process that started it as a rank.

    `RMX_JOB_BEGAN` (seconds since 1970) takes precedence: a batch script that does other work first sets it to
    `$(date +%s)`.

    Raises:
        ConfigError: RMX_JOB_BEGAN is not a number.

    >>> round(time.time() - 1_700_000_000 - seconds_since_job_began({"RMX_JOB_BEGAN": "1700000000"}))
    0
    """
    import psutil

    environ = os.environ if environ is None else environ
    given = environ.get(BEGAN_VARIABLE)
    if given:
        try:
            return time.time() - float(given)
        except ValueError:
            raise ConfigError(
                f"{BEGAN_VARIABLE}={given!r} is not a time in seconds since 1970; set it with $(date +%s), or unset it"
            ) from None
    process = psutil.Process()
    if origin_of(environ).launcher in _IN_PARENT:
        process = process.parent() or process  # without one, the launcher is gone
    return time.time() - process.create_time()
