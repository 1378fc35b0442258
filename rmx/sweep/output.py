"""What a sweep leaves: sweep.json, leaderboard.csv, best, and the tables on the screen."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rmx.redact import redact_text
from rmx.sweep.leaderboard import Row
from rmx.sweep.trials import SweepFolder, write_atomically

__all__ = ["csv_text", "failures_table", "leaderboard_table", "point_to_best", "show", "varying"]

_FAILURES_SHOWN = 12
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # OWASP, "CSV injection"


def varying(rows: Sequence[Row]) -> list[str]:
    """Return the parameters that have more than one value among the rows, in their order."""
    names = list(dict.fromkeys(name for row in rows for name in row.params))
    return [name for name in names if len({row.params.get(name) for row in rows}) > 1] or names


# --- Files ------------------------------------------------------------------------------------------------------------


def csv_text(rows: Sequence[Row], objectives: Sequence[str]) -> str:
    """Return leaderboard.csv: all parameters, full-precision numbers, and no cell that a spreadsheet would execute."""
    names = list(dict.fromkeys(name for row in rows for name in row.params))
    extra = [metric for metric in objectives if metric not in ("eval/accuracy", "eval/loss")]
    head = ["rank", "trial", *names, "accuracy", "accuracy_low", "accuracy_high", "loss", *extra, "pairs_per_second"]
    head += ["seconds", "step", "status", "difference_to_winner", "p_value", "within_noise", "reason", "folder"]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([_cell(name) for name in head])
    for row in rows:
        versus = row.vs_winner
        cells: list[Any] = [row.rank, row.name, *(row.params.get(name) for name in names)]
        cells += [row.accuracy, row.accuracy_low, row.accuracy_high, row.loss]
        cells += [row.values.get(metric) for metric in extra] + [row.pairs_per_second, round(row.seconds, 1), row.step]
        cells += [row.status, versus and versus.difference, versus and versus.p_value, versus and versus.within_noise]
        cells += [row.reason, row.folder]
        writer.writerow([_cell(cell) for cell in cells])
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet takes for a formula; numbers stay numbers."""
    if value is None:
        return ""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


def json_text(content: Mapping[str, Any]) -> str:
    """Return strict JSON: numbers that are not finite become null."""
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def point_to_best(folder: SweepFolder, winner: Row | None) -> None:
    """Make `best` a link to the winner's folder; a text file with its name where links are not possible."""
    if winner is None:
        return
    temporary = folder.path / ".best"
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(winner.folder, target_is_directory=True)
        temporary.replace(folder.best)
    except OSError:
        write_atomically(folder.path / "best.txt", winner.folder + "\n")


# --- Screen -----------------------------------------------------------------------------------------------------------


def show(
    console: Console, folder: SweepFolder, rows: Sequence[Row], objectives: Sequence[str], *, confirms: bool = False
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


def leaderboard_table(rows: Sequence[Row], objectives: Sequence[str], title: str) -> Table:
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
        cells = [rank, *(shown(row.params.get(name)) for name in names), accuracy_with_interval(row), versus_text(row)]
        cells += [number(row.loss, 4), *(number(row.values.get(metric), 4) for metric in extra)]
        cells += [number(row.pairs_per_second, 1), duration(row.seconds), row.status, row.folder]
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def failures_table(rows: Sequence[Row], folder: SweepFolder) -> Table:
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


def accuracy_with_interval(row: Row) -> str:
    """Spell an accuracy in per cent with its interval.

    60.0 (50.2-69.1) means 60 % correct, and 50.2 to 69.1 % at 95 % confidence.
    """
    if row.accuracy is None:
        return ""
    text = f"{100 * row.accuracy:.1f}"
    if row.accuracy_low is None or row.accuracy_high is None:
        return text
    return f"{text} ({100 * row.accuracy_low:.1f}–{100 * row.accuracy_high:.1f})"


def versus_text(row: Row) -> str:
    """Spell the difference to the winner in percentage points; ~ marks one that is within noise."""
    if row.vs_winner is None:
        return ""
    return f"{'~' if row.vs_winner.within_noise else ''}{100 * row.vs_winner.difference:+.1f}"


def shown(value: Any) -> str:
    """Spell a parameter: floats with four digits."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def number(value: float | None, digits: int) -> str:
    """Spell a number, or nothing."""
    return "" if value is None else f"{value:.{digits}g}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Spell a duration.

    >>> duration(7.25), duration(75), duration(7500)
    ('7.2s', '1m15s', '2h05m')
    """
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def write_files(
    folder: SweepFolder, content: Mapping[str, Any], rows: Sequence[Row], objectives: Sequence[str]
) -> None:
    """Write sweep.json and leaderboard.csv, each whole or not at all."""
    write_atomically(folder.json, json_text(content))
    write_atomically(folder.csv, csv_text(rows, objectives))


def tail_of(path: Path, limit: int = 120) -> str:
    """Return the last line of a log that says something, shortened; empty without a log."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 8192))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = redact_text("".join(character for character in lines[-1] if character.isprintable())) if lines else ""
    return last if len(last) <= limit else last[: limit - 1] + "…"
