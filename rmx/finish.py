"""The end of a run: plots, the report page, the model card, the final table, and the paths of what was written."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rmx.plots import draw_run
from rmx.report import write_run_report
from rmx.summary import final_table

if TYPE_CHECKING:
    from rmx.run import Run

__all__ = ["finish"]

log = logging.getLogger(__name__)

# What a run may leave, in the order in which a person wants to know of it.
SHOWN_FILES = (
    "report.html", "model", "model-merged", "generated_predictions*.jsonl", "all_results.json", "metrics.jsonl",
    "plots", "audit.json", "rejects.jsonl", "checkpoints", "run.yaml", "run.log",
)  # fmt: skip


def finish(run: Run) -> None:
    """Draw, write and show what remains to be drawn, written and shown."""
    plots = draw_run(run.folder)
    write_run_report(run.folder)
    numbers = {key: value for key, value in run.results.items() if isinstance(value, int | float)}
    run.recorder.summary(numbers, [path for path in plots if path.suffix == ".png"])
    if numbers:
        run.screen.metrics("", *final_table(numbers))
    written = [
        f"{path.relative_to(run.folder)}{'/' if path.is_dir() else ''}"
        for pattern in SHOWN_FILES
        for path in sorted(run.folder.glob(pattern))
    ]
    run.screen.done(run.folder, written)
