"""The guard of one job: starts it, outlives nothing, and writes down how it ended.

    sweeper ──pipe──▶ guard ──▶ job (its own session) ──▶ data workers, ranks, ...

- The sweeper holds the write end of the guard's stdin. When the sweeper ends, by whatever cause, the pipe closes and
  the guard stops the job: SIGTERM, time for a checkpoint, then SIGKILL for the job's whole process group.
- When the guard itself is killed, the kernel kills the job (PR_SET_PDEATHSIG, Linux).
- A lock per trial keeps a resumed sweep from starting a job whose predecessor is still saving its checkpoint.
- Start, end and exit code go to a JSON file, so that a job which ended after its sweeper is not run twice.

Run as a file by `python -I -S`, which starts in 20 ms: nothing but the standard library, nothing of rmx.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


class Guard:
    """One job from start to end.

    `spec` has: argv, cwd, log (file for stdout and stderr, appended), record (JSON file), lock (file) and
    grace_seconds.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.stop_at: float | None = None  # when the job is killed, once it was asked to stop
        self.asked = False
        self.wakeup_read, wakeup_write = os.pipe()
        os.set_blocking(wakeup_write, False)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self.poller = select.poll()
        self.poller.register(0, select.POLLIN)
        self.poller.register(self.wakeup_read, select.POLLIN)

    def run(self) -> int:
        """Run the job and return its exit code, 128 + signal where a signal ended it."""
        lock = os.open(self.spec["lock"], os.O_RDWR | os.O_CREAT, 0o644)
        waited = False
        while not self._locked(lock):  # the previous process of this trial is still on its way out
            waited = True
            self._wait(200)
            if self.asked:
                return 128 + signal.SIGTERM
        if waited and self._rows()[-1:] and self._rows()[-1].get("exit_code") == 0:
            return 0  # it was not stopped after all, and is done
        started = time.time()
        self._record({"started": started})
        with open(self.spec["log"], "ab", buffering=0) as log:
            try:
                job = subprocess.Popen(
                    self.spec["argv"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.spec["cwd"],
                    start_new_session=True,
                    preexec_fn=die_with_parent(),
                )
            except OSError as error:
                log.write(f"the job could not be started: {error}\n".encode())
                self._record({"started": started, "ended": time.time(), "exit_code": 127, "signal": None})
                return 127
        self._supervise(job.pid, started)
        _, status, usage = os.wait4(job.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        exit_code = 128 - code if code < 0 else code
        scale = 1 if sys.platform == "darwin" else 1024
        self._record(
            {
                "started": started,
                "ended": time.time(),
                "exit_code": exit_code,
                "signal": -code if code < 0 else None,
                "max_rss_bytes": usage.ru_maxrss * scale,
                "asked": self.stop_at is not None,
            }
        )
        return exit_code

    def _supervise(self, pid: int, started: float) -> None:
        """Return when the job has ended, not yet reaped, and nothing of its process group is left."""
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if self.asked and self.stop_at is None:
                self.stop_at = time.monotonic() + float(self.spec["grace_seconds"])
                self._record({"started": started, "asked": True})
                os.kill(pid, signal.SIGTERM)  # the main process alone: its workers must live for the checkpoint
            if self.stop_at is not None and time.monotonic() >= self.stop_at:
                os.killpg(pid, signal.SIGKILL)
            self._wait(1000 if self.stop_at is None else 100)
        # Reaping comes after this, so the process group's id cannot have been given to anyone else.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    def _wait(self, milliseconds: int) -> None:
        for descriptor, _ in self.poller.poll(milliseconds):
            if descriptor == self.wakeup_read:
                os.read(self.wakeup_read, 4096)
            else:
                # A byte is the sweeper's wish, the end of the file its death: the job is to stop in both cases.
                if not os.read(0, 1):
                    self.poller.unregister(0)
                elif self.asked:  # a second byte: at once
                    self.stop_at = time.monotonic()
                self.asked = True

    def _on_signal(self, *_: object) -> None:
        self.asked = True

    def _locked(self, lock: int) -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _rows(self) -> list[dict[str, Any]]:
        path = Path(self.spec["record"])
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    def _record(self, row: dict[str, Any]) -> None:
        """Append the row, or replace the last one where it is the same process's start."""
        path, rows = Path(self.spec["record"]), self._rows()
        if rows and rows[-1]["started"] == row["started"]:
            rows.pop()
        temporary = path.with_suffix(f".{os.getpid()}")  # as rmx.files does, which this file cannot import
        temporary.write_text(json.dumps([*rows, row], indent=1), encoding="utf-8")
        temporary.replace(path)


def die_with_parent() -> Callable[[], None] | None:
    """Return what a child runs before exec so that the kernel kills it when its parent ends (Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()  # looked up here: after fork only plain calls are safe

    def arrange() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended between fork and prctl
            os._exit(1)

    return arrange


if __name__ == "__main__":
    sys.exit(Guard(json.loads(sys.argv[1])).run())
