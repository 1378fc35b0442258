"""`rmx watch FOLDER`: what the runs below a folder are doing now, from the files they write; it changes nothing."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rmx.errors import InputError, counted
from rmx.results.metrics import MetricsTail, float_or_nan
from rmx.sweep.on_screen import short_duration
from rmx.sweep.trials import SweepFolder

__all__ = ["RunView", "Watcher", "main", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"
_DEPTH = 3  # folders below the watched one: outputs/sweeps/<name>/<trial>
_FILE_WIDTH = 160  # columns where the output is no terminal
_WIDE = 110  # columns from which everything fits
_COLUMNS = (  # (head, whether a narrow terminal shows it)
    ("run", True), ("status", True), ("step", True), ("epoch", False), ("loss", True), ("accuracy", False),
    ("eval acc", True), ("pairs/s", False), ("loss so far", False), ("last row", True),
)  # fmt: skip
_TEXTS = ("run", "status", "loss so far")
_KEPT = 400  # losses kept per run for its sparkline


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """Draw numbers as a line of bars, the newest at the right; each bar is the mean of its share of them.

    >>> sparkline([4, 3, 2, 1, 1, 1, 1, 0], width=4)
    '█▃▂▁'
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    width = min(width, len(finite))
    edges = [round(index * len(finite) / width) for index in range(width + 1)]
    means = [sum(finite[low:high]) / (high - low) for low, high in pairwise(edges) if high > low]
    lowest, spread = min(means), max(means) - min(means)
    top = len(_BARS) - 1
    return "".join(_BARS[int((value - lowest) / spread * top)] if spread else _BARS[0] for value in means)


@dataclass
class RunView:
    """One run as seen so far."""

    path: Path
    tail: MetricsTail
    last: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Read what the run has added."""
        for row in self.tail.rows():
            self.last |= {key: float_or_nan(value) for key, value in row.items() if key != "phase"}
            if "train/loss" in row:
                self.losses = [*self.losses, float_or_nan(row["train/loss"])][-_KEPT:]

    def status(self, now: float) -> str:
        """Say what the run is doing: as its sweep knows it, or by what it has written."""
        if (self.path / "PRUNE").exists():
            return "pruned"
        attempts = SweepFolder(self.path.parent).attempts(self.path.name)
        if attempts and attempts[-1].ended is not None:
            return "done" if attempts[-1].exit_code == 0 else f"exit {attempts[-1].exit_code}"
        if (self.path / "all_results.json").exists() and not attempts:
            return "done"
        age = now - self.last.get("time", now)
        return "running" if age < 60 else f"silent {short_duration(age)}"

    def cells(self, root: Path, now: float) -> list[str]:
        """Return the run's line of the table."""
        name = self.path.name if self.path == root else str(self.path.relative_to(root))
        evaluation = next((key for key in self.last if key.startswith("eval") and key.endswith("/accuracy")), "")
        step, epoch = self.last.get("step"), self.last.get("epoch")
        return [
            name,
            self.status(now),
            "" if step is None else f"{step:.0f}",
            "" if epoch is None or math.isnan(epoch) else f"{epoch:.2f}",
            _number(self.last.get("train/loss"), 4),
            _number(self.last.get("train/accuracy"), 3),
            _number(self.last.get(evaluation), 3),
            _number(self.last.get("train/pairs_per_second"), 1),
            sparkline(self.losses),
            short_duration(now - self.last["time"]) if "time" in self.last else "",
        ]


class Watcher:
    """All runs below a folder, found again at every look, because a sweep starts new ones.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"rmx watch: there is no folder {root}; give a run folder or one above it")
        self.root = root
        self.runs: dict[Path, RunView] = {}

    def look(self) -> None:
        """Find runs and read what they have added."""
        patterns = ["/".join(["*"] * depth + ["metrics.jsonl"]) for depth in range(_DEPTH + 1)]
        for file in sorted(path for pattern in patterns for path in self.root.glob(pattern)):
            folder = file.parent
            if "best" not in folder.relative_to(self.root).parts:  # a link to one of the others
                self.runs.setdefault(folder, RunView(folder, MetricsTail(file)))
        for run in self.runs.values():
            run.look()

    def table(self, now: float | None = None, width: int = _FILE_WIDTH, height: int | None = None) -> Group:
        """Return what to show: in a narrow terminal fewer columns, in a low one the running runs first."""
        now = time.time() if now is None else now
        shown = [index for index, (_, needed) in enumerate(_COLUMNS) if needed or width >= _WIDE]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index in shown:
            head = _COLUMNS[index][0]
            table.add_column(
                head, justify="left" if head in ("run", "status", "loss so far") else "right", no_wrap=True
            )
        lines = [run.cells(self.root, now) for run in sorted(self.runs.values(), key=lambda run: run.path)]
        hidden = 0
        if height is not None and len(lines) > max(1, height - 3):
            lines.sort(key=lambda cells: cells[1] != "running")
            hidden = len(lines) - max(1, height - 3)
            lines = lines[: len(lines) - hidden]
        for cells in lines:
            table.add_row(*(Text(cells[index]) for index in shown), style="" if cells[1] == "running" else "dim")
        if not self.runs:
            return Group(Text(f"{self.root}: no metrics.jsonl yet"))
        more = f" ({hidden} not shown)" if hidden else ""
        return Group(table, Text(f"{counted(len(self.runs), 'run')}{more} in {self.root}", style="dim", no_wrap=True))


def main(argv: Sequence[str]) -> int:
    """Show the runs below a folder until Ctrl-C, or once; returns the exit code."""
    parser = argparse.ArgumentParser(prog="rmx watch", description="What the runs below a folder are doing now.")
    parser.add_argument("folder", type=Path, help="a run, a sweep, or a folder of them")
    parser.add_argument("--once", action="store_true", help="print once and leave")
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="time between looks (default 2)")
    arguments = parser.parse_args(list(argv))
    watcher = Watcher(arguments.folder)
    console = Console(highlight=False)
    watcher.look()
    if arguments.once or not console.is_terminal:
        console = console if console.is_terminal else Console(highlight=False, width=_FILE_WIDTH)
        console.print(watcher.table())
        return 0
    try:
        with Live(watcher.table(None, *console.size), console=console, auto_refresh=False) as live:
            while True:
                live.update(watcher.table(None, *console.size), refresh=True)
                time.sleep(max(0.1, arguments.every))
                watcher.look()
    except KeyboardInterrupt:
        return 0


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
