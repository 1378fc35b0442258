"""Which reward models judge, and how several become one: the keys that `rmx score` and `rmx serve` have in common."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, MinLen

from rmx.errors import DataError
from rmx.values import AtLeastZero, Count, Mistake

if TYPE_CHECKING:
    from rmx.scoring.panel import Panel

__all__ = ["CALIBRATION_ROWS", "NotEmpty", "PanelKeys", "RowFormat"]

log = logging.getLogger(__name__)

CALIBRATION_ROWS = 10_000  # of a calibration file that are read
NotEmpty = Annotated[str, MinLen(1)]
RowFormat = Literal[
    "auto",
    "sharegpt",
    "alpaca",
    "choices",
    "dialogue",
    "preference",
    "last_turn",
    "candidates",
    "two_sides",
    "single",
]


@dataclass(frozen=True, kw_only=True)
class PanelKeys:
    """The models and how they are loaded; a verb's own class explains every key to its users.

    >>> PanelKeys(model="outputs/hh").models
    ['outputs/hh']
    >>> [str(mistake) for mistake in PanelKeys(model="a", k=2.0).panel_mistakes()]
    ['k: is for several models; give model=[A,B], or leave it out']
    """

    model: NotEmpty | Annotated[list[str], MinLen(1)]
    combine: Literal["mean", "min", "lower"] = "mean"
    k: AtLeastZero = 1.0
    center: Literal["prompt", "calibration", "none"] = "prompt"
    calibration: NotEmpty | None = None
    calibrated: bool = False
    max_tokens: Annotated[int, Ge(2)] | None = None
    truncation: Literal["keep_end", "error"] = "keep_end"
    precision: Literal["fp32", "bf16"] = "fp32"
    device: NotEmpty | None = None
    max_tokens_per_micro_batch: Count = 4096

    @property
    def models(self) -> list[str]:
        """The models as a list."""
        return [self.model] if isinstance(self.model, str) else list(self.model)

    def panel_mistakes(self) -> Iterator[Mistake]:
        """What is wrong with these keys, beyond the type of each."""
        one = isinstance(self.model, str) or len(self.model) == 1
        if one:
            for key, usual in (("combine", "mean"), ("k", 1.0), ("center", "prompt"), ("calibration", None)):
                if getattr(self, key) != usual:
                    yield Mistake(key, "is for several models; give model=[A,B], or leave it out")
        elif len(set(self.model)) < len(self.model):
            yield Mistake("model", "names one model twice; it would count double")
        if self.k != 1.0 and self.combine != "lower" and not one:
            yield Mistake("k", f"is for combine=lower, and combine is {self.combine}; leave it out")
        if not one and (self.center == "calibration") != (self.calibration is not None):
            yield Mistake("calibration", "and center=calibration belong together; give both, or neither")
        if self.device is not None and re.fullmatch(r"cpu|cuda(:\d+)?", str(self.device)) is None:
            yield Mistake("device", f"{self.device!r} is not cpu, cuda or cuda:N")

    def load_panel(self, device: str | None = None) -> Panel:
        """Load the models, measure them on the calibration rows where there are some, and log a line for each.

        Args:
            device: where `self.device` leaves it open.

        Raises:
            ModelError: one cannot be loaded, or is no reward model.
            DataError: a calibration row cannot be read.
        """
        from rmx.scoring.ensemble import Ensemble
        from rmx.scoring.panel import Panel

        panel = Panel.of(
            self.models,
            device=self.device or device,
            precision=self.precision,
            max_tokens=self.max_tokens,
            max_tokens_per_micro_batch=self.max_tokens_per_micro_batch,
            truncation=self.truncation,
            calibrated=self.calibrated,
        )
        panel.ensemble = Ensemble(self.combine, self.k, self.center)
        if self.calibration is not None:
            panel.calibrate(_calibration_rows(self.calibration), panel.ensemble)
        for line in panel.described():
            log.info("%s", line)
        return panel


def _calibration_rows(path: str) -> list[Any]:
    from rmx.data.unlabelled import RowsToScore

    rows = list(islice(RowsToScore([path]), CALIBRATION_ROWS))
    bad = next((row for row in rows if row.fault is not None), None)
    if bad is not None:
        raise DataError(f"calibration: {bad.where}: {bad.fault}; put the row right")
    return [row.comparison for row in rows]
