"""Figures of a run, drawn from `metrics.jsonl` and `generated_predictions*.jsonl` alone.

So they can be drawn again at any time, also of a run that was killed. A metric that was not logged gives no file and
a line in the log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from rmx.files import writing
from rmx.plots.learning_curves import Line, curve_figures, overlay_figure
from rmx.plots.scores import score_figures
from rmx.plots.style import Picture
from rmx.results import RunRecord, read_run

__all__ = ["Line", "Picture", "RunPictures", "draw_run", "overlay_figure"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunPictures:
    """The pictures of a run, by file name, drawn once for `plots/` and for the report.

    Loss and accuracy of training and of each evaluation set over the steps (`training_loss`, `training_eval_loss`,
    `training_eval_NAME_accuracy`, ...); and of each predictions file `reward_distributions`, `margins`, `reliability`
    and `reward_vs_length`.
    """

    record: RunRecord
    pictures: dict[str, Picture]
    notes: list[str]  # why a picture could not be drawn

    def save(self) -> list[Path]:
        """Write each as `plots/NAME.png` and `plots/NAME.svg` into the run folder, and return the files.

        Raises:
            OutputError: the folder cannot be written to.
        """
        folder = self.record.folder / "plots"
        if not self.pictures:
            return []
        with writing(folder):
            folder.mkdir(exist_ok=True)
        return [path for picture in self.pictures.values() for path in picture.save(folder)]


def draw_run(folder: Path | str) -> RunPictures:
    """Read a run folder and draw all that its files allow; what could not be drawn is said in the log.

    Raises:
        DataError: the folder does not exist, or is not that of a run.
    """
    record = read_run(folder)
    curves, missing = curve_figures(record)
    scores, more = score_figures(record)
    notes = missing + more
    for note in record.notes + notes:
        log.debug("%s: %s", record.folder, note)
    return RunPictures(record, {name: Picture(name, drawn) for name, drawn in (curves | scores).items()}, notes)
