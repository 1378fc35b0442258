"""CPU seconds, wall seconds and memory between two moments of one process."""

from __future__ import annotations

import re
import resource
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

STATUS = Path("/proc/self/status")
CLEAR_PEAK = Path("/proc/self/clear_refs")


def memory(key: str) -> float:
    """VmRSS (now) or VmHWM (the peak) of this process, in MB."""
    found = re.search(rf"{key}:\s+(\d+) kB", STATUS.read_text())
    if found is None:
        raise OSError(f"{STATUS} has no {key}")
    return int(found[1]) / 1024


class Meter(TrainerCallback):
    """Measures from `start` to `stop`; as a callback, from the end of the warm-up steps to the end of training."""

    def __init__(self, warm_up_steps: int = 1) -> None:
        self.warm_up_steps = warm_up_steps
        self.losses: list[float] = []

    def start(self) -> None:
        """Begin the clock."""
        self._cpu, self._wall = self._cpu_seconds(), time.perf_counter()

    def loaded(self) -> None:
        """Everything is in memory, nothing has run: peaks count from here."""
        self.loaded_mb = memory("VmRSS")
        CLEAR_PEAK.write_text("5")

    def result(self) -> dict[str, float]:
        """CPU and wall seconds since `start`, and the memory peak since `loaded`."""
        cpu, wall = self._cpu_seconds() - self._cpu, time.perf_counter() - self._wall
        peak = memory("VmHWM")
        return {
            "cpu_seconds": cpu,
            "wall_seconds": wall,
            "peak_mb": peak,
            "peak_above_load_mb": peak - self.loaded_mb,
        }

    @staticmethod
    def _cpu_seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loaded()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.warm_up_steps:
            self.start()
        if state.global_step == state.max_steps:
            self.measured = self.result()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))
