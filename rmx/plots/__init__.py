"""Figures of a run, drawn from `metrics.jsonl` and `generated_predictions*.jsonl` alone.

So they can be drawn again at any time, also of a run that was killed. A metric that was not logged gives no file and
a line in the log.
"""

from __future__ import annotations

import logging
from pathlib import Path

from matplotlib.figure import Figure

from rmx.plots.curves import Line, curve_figures, overlay_figure
from rmx.plots.scores import score_figures
from rmx.plots.style import inline_svg, save
from rmx.results import RunRecord, read_run

__all__ = [
    "Line",
    "draw_run",
    "inline_svg",
    "overlay_figure",
    "run_figures",
]

log = logging.getLogger(__name__)


def run_figures(record: RunRecord) -> tuple[dict[str, Figure], list[str]]:
    """All figures that a run's files allow, by file name, and a note for each that they do not."""
    curves, missing = curve_figures(record)
    scores, more = score_figures(record)
    return curves | scores, missing + more


def draw_run(folder: Path | str) -> list[Path]:
    """Draw the figures of a run folder as `plots/NAME.png` and `plots/NAME.svg`.

    Loss and accuracy of training and of each evaluation set over the steps (`training_loss`, `training_eval_loss`,
    `training_eval_NAME_accuracy`, ...); and of each predictions file `reward_distributions`, `margins`, `reliability`
    and `reward_vs_length`.

    Returns:
        The files written. What could not be drawn is said in the log.

    Raises:
        DataError: the folder does not exist, or is not that of a run.
    """
    record = read_run(folder)
    figures, notes = run_figures(record)
    for note in record.notes + notes:
        log.debug("%s: %s", record.folder, note)
    return [path for name, drawn in figures.items() for path in save(drawn, record.folder / "plots" / name)]
