"""What a sweep shows on the screen: the leaderboard, the failures, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rmx.errors import MORE
from rmx.redact import redact_text
from rmx.results.sweep import SweepRow
from rmx.sweep.trials import SweepFolder

__all__ = ["failures_table", "last_line", "leaderboard_table", "parameter_text", "print_leaderboard", "short_duration"]

_FAILURES_SHOWN = 12


def print_leaderboard(
    console: Console,
    folder: SweepFolder,
    rows: Sequence[SweepRow],
    objectives: Sequence[str],
    *,
    confirms: bool = False,
) -> None:
    """Print the leaderboard, the failures, and how to go on; `confirms`: this is the confirmation already."""
    console.print(leaderboard_table(rows, objectives, folder.path.name))
    tied = [row for row in rows if row.vs_winner is not None and row.vs_winner.within_noise]
    if tied and not confirms:
        key = shlex.quote(f"hydra.sweeper.confirm={folder.path}")
        console.print(
            f"~ within the evaluation's noise of the winner: {', '.join(row.name for row in tied)}. Several seeds "
            f"tell: python -m rmx -m experiment=confirm {key} hydra.sweeper.top={min(len(tied) + 1, 3)}",
            soft_wrap=True,
            markup=False,
        )
    failures = [row for row in rows if row.status in ("failed", "killed")]
    if failures:
        console.print(failures_table(failures, folder))


def leaderboard_table(rows: Sequence[SweepRow], objectives: Sequence[str], title: str) -> Table:
    """Return the table of ranked trials."""
    names = varying(rows)
    extra = [metric for metric in objectives if metric not in ("eval/accuracy", "eval/loss")]
    table = Table(title=f"Sweep {title}", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("#", justify="right", no_wrap=True)
    for name in names:
        table.add_column(name.lstrip("+"), overflow="fold")
    for head in ("accuracy (95 %)", "vs best", "loss", *extra, "pairs/s", "time"):
        table.add_column(head, justify="right", no_wrap=True)
    for head in ("status", "folder"):
        table.add_column(head, no_wrap=True)
    for row in rows:
        style = "bold" if row.rank == 1 else "dim" if row.rank is None else ""
        rank = "" if row.rank is None else f"{row.rank}{'*' if row.pareto and len(objectives) > 1 else ''}"
        cells = [
            rank,
            *(parameter_text(row.params.get(name)) for name in names),
            accuracy_with_interval(row),
            versus_text(row),
        ]
        cells += [number_text(row.loss, 4), *(number_text(row.values.get(metric), 4) for metric in extra)]
        cells += [number_text(row.pairs_per_second, 1), short_duration(row.seconds), row.status, row.folder]
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def failures_table(rows: Sequence[SweepRow], folder: SweepFolder) -> Table:
    """Return the table of jobs that failed, with their logs."""
    table = Table(title="Jobs without a result", title_justify="left", title_style="bold red", box=None, pad_edge=False)
    for head in ("trial", "status", "exit", "reason", "log"):
        table.add_column(head, overflow="fold")
    for row in rows[:_FAILURES_SHOWN]:
        code = "" if row.exit_code is None else str(row.exit_code)
        reason = row.reason.removeprefix(f"exit {code}: ")
        table.add_row(*(Text(cell) for cell in (row.name, row.status, code, reason, str(folder.path / row.log))))
    if len(rows) > _FAILURES_SHOWN:
        table.caption = f"and {len(rows) - _FAILURES_SHOWN} more: leaderboard.csv has all of them"
        table.caption_justify = "left"
    return table


def accuracy_with_interval(row: SweepRow) -> str:
    """Spell an accuracy in per cent with its interval.

    60.0 (50.2-69.1) means 60 % correct, and 50.2 to 69.1 % at 95 % confidence.
    """
    if row.accuracy is None:
        return ""
    text = f"{100 * row.accuracy:.1f}"
    if row.accuracy_low is None or row.accuracy_high is None:
        return text
    return f"{text} ({100 * row.accuracy_low:.1f}–{100 * row.accuracy_high:.1f})"


def versus_text(row: SweepRow) -> str:
    """Spell the difference to the winner in percentage points; ~ marks one that is within noise."""
    if row.vs_winner is None:
        return ""
    return f"{'~' if row.vs_winner.within_noise else ''}{100 * row.vs_winner.difference:+.1f}"


def parameter_text(value: Any) -> str:
    """Spell a parameter: floats with four digits."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def number_text(value: float | None, digits: int) -> str:
    """Spell a number, or nothing."""
    return "" if value is None else f"{value:.{digits}g}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def short_duration(seconds: float) -> str:
    """Spell a duration, as short as columns of a terminal want it.

    >>> short_duration(7.25), short_duration(75), short_duration(7500)
    ('7.2s', '1m15s', '2h05m')
    """
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def varying(rows: Sequence[SweepRow]) -> list[str]:
    """Return the parameters that have more than one value among the rows, in their order."""
    names = list(dict.fromkeys(name for row in rows for name in row.params))
    return [name for name in names if len({row.params.get(name) for row in rows}) > 1] or names


def last_line(path: Path, limit: int = 120) -> str:
    """Return the last line of a log that says what happened, shortened; empty without a log."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 8192))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(MORE)]
    last = redact_text("".join(character for character in lines[-1] if character.isprintable())) if lines else ""
    return last if len(last) <= limit else last[: limit - 1] + "…"
