"""What a person sees: a header, one progress bar, a final table and the paths of what was written.

Log messages and the bar share one console, so neither tears the other; a file in the run folder holds the log
as well. With `verbose=false` only warnings, errors and the last line appear.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rmx.redact import HidingFormatter, redact_text

__all__ = ["Screen"]


class _ConsoleHandler(logging.Handler):
    """Prints log messages above the bar, unwrapped; warnings in colour."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        style = "bold red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else ""
        self.console.print(Text(redact_text(record.getMessage()), style=style), soft_wrap=True)


class _LogFile(logging.FileHandler):
    """run.log; a full disk is reported by what cannot do without the disk, not by a traceback per message."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave the message out."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class Screen:
    """The console of one run.

    Args:
        verbose: False shows warnings and the final line only.
        log_file: receives every message of level DEBUG and above, whatever `verbose` says.
    """

    def __init__(self, *, verbose: bool = True, log_file: Path | None = None, console: Console | None = None) -> None:
        # A notebook gets lines, as a log does: rich's own way there is a box per line, and a bar needs ipywidgets.
        lines_only = False if Console().is_jupyter else None
        self.console = console or Console(highlight=False, force_jupyter=False, force_terminal=lines_only)
        if console is None and not self.console.is_terminal:
            self.console.width = 120  # a log file or a pipe: rich would assume 80
        self.verbose = verbose
        self.log_file = log_file
        self.progress: Progress | None = None
        self._handlers: list[logging.Handler] = []

    # --- Logging ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Screen:
        logger = logging.getLogger("rmx")
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        shown = _ConsoleHandler(self.console)
        shown.setLevel(logging.INFO if self.verbose else logging.WARNING)
        self._handlers = [shown]
        if self.log_file is not None:
            written = _LogFile(self.log_file, encoding="utf-8")
            written.setFormatter(HidingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            self._handlers.append(written)
        for handler in self._handlers:
            logger.addHandler(handler)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_bar()
        for handler in self._handlers:
            logging.getLogger("rmx").removeHandler(handler)
            handler.close()
        self._handlers = []

    # --- Header and tables -----------------------------------------------------------------------------------------

    def header(self, title: str, rows: Mapping[str, Any], sample: Text | None = None) -> None:
        """Show what is about to run: names and values, and one rendered conversation with its scored token."""
        if not self.verbose:
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, value in rows.items():
            table.add_row(name, Text(str(value)))
        self.console.print(Panel(table, title=Text(title, style="bold"), title_align="left", border_style="dim"))
        if sample is not None:
            self.console.print(sample)

    def metrics(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Show a final table: one row per metric, one column per phase or set."""
        if not self.verbose:
            return
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def text(self, text: str | Text) -> None:
        """Show a paragraph as it is."""
        if self.verbose:
            self.console.print(text, soft_wrap=isinstance(text, str), markup=False)

    def done(self, folder: Path, written: Iterable[str]) -> None:
        """Show where everything is; the one line that `verbose=false` shows too."""
        if not self.verbose:
            self.console.print(str(folder), soft_wrap=True, markup=False)
            return
        self.console.print(Text(f"\n{folder}", style="bold"), soft_wrap=True)
        for name in written:
            self.console.print(f"  {name}", markup=False, soft_wrap=True)

    # --- One bar ---------------------------------------------------------------------------------------------------

    def start_bar(self, what: str, total: int, completed: int = 0) -> None:
        """Start the progress bar; there is never more than one."""
        self.stop_bar()
        if not self.verbose:
            return
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            transient=True,
        )
        self.progress.add_task(what, total=total, completed=completed, numbers="")
        self.progress.start()

    def advance(self, completed: int, numbers: str | None = None) -> None:
        """Move the bar to `completed` and show `numbers` behind it."""
        if self.progress is not None:
            task = self.progress.tasks[0]
            shown = task.fields["numbers"] if numbers is None else numbers
            self.progress.update(task.id, completed=completed, numbers=shown)

    def note(self, numbers: str) -> None:
        """Show `numbers` behind the bar, where it is."""
        if self.progress is not None:
            self.progress.update(self.progress.tasks[0].id, numbers=numbers)

    def stop_bar(self) -> None:
        """Remove the bar."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
