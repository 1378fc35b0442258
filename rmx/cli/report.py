"""`rmx report FOLDER...`: draw plots and pages again, and compare runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rmx.cli.words import mapping_of
from rmx.errors import ConfigError
from rmx.plots import draw_run
from rmx.report.compare_page import write_comparison
from rmx.report.run_page import write_run_report
from rmx.report.sweep_page import write_sweep_report
from rmx.report.texts import read_texts

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pages of run and sweep folders again; two or more runs also give a comparison page.

    Args:
        argv: the words after `rmx report`.

    Returns:
        0. Wrong input raises.

    Raises:
        ConfigError: --columns without --texts.
        DataError: a folder is neither that of a run nor that of a sweep.
        OutputError: a page cannot be written.
    """
    given = _parser().parse_args(argv)
    if given.columns and given.texts is None:
        raise ConfigError("--columns is for the rows of --texts; give --texts, or leave it out")
    texts = read_texts(given.texts, given.columns or {}) if given.texts else None
    runs = []
    for folder in given.folders:
        if (folder / "sweep.json").is_file():
            _say(write_sweep_report(folder))
        else:
            runs.append(folder)
            drawn = draw_run(folder)
            drawn.save()
            _say(write_run_report(drawn, texts=texts))
    if len(runs) > 1:
        _say(write_comparison(runs, given.output))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rmx report",
        description="Draw the plots and report.html of run folders again, sweep.html of sweep folders, and compare "
        "several runs side by side with a paired test.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="output folder of a run or of a sweep")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("comparison.html"),
        metavar="FILE",
        help="the page that compares several runs (default: comparison.html in the current folder)",
    )
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="ROWS.jsonl",
        help="show the texts of the worst mistakes, behind a click, from this file of id, prompt, chosen and "
        "rejected; without it a page holds no text of the data",
    )
    parser.add_argument(
        "--columns",
        metavar="{OURS: THEIRS}",
        type=mapping_of,
        help="of --texts: rmx's column name → the file's, such as '{chosen: better, rejected: worse}'",
    )
    return parser


def _say(path: Path) -> None:
    sys.stdout.write(f"{path}\n")
