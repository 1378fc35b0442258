"""A scale for rewards, measured on held-out rows and kept in config.json, applied only where it is asked for.

    calibrated reward = (reward - mean) / scale

The order of responses, and so every accuracy, stays. What changes is that numbers of two models, or a threshold, can
be read: with method `std` the held-out responses have mean 0 and standard deviation 1; with `temperature` the
difference of two calibrated rewards of one prompt is the log odds that annotators prefer the first (temperature
scaling, Guo et al. 2017, arXiv 1706.04599).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rmx.errors import ModelError
from rmx.files import write_text
from rmx.models.tensor_files import json_object

__all__ = ["CALIBRATION", "Calibration", "read_calibration", "store_calibration"]

CALIBRATION = "reward_calibration"  # the key of config.json


@dataclass(frozen=True)
class Calibration:
    """How rewards of one model are brought onto a scale that means something.

    Args:
        method: `std` or `temperature`.
        mean: of the rewards of the held-out responses.
        scale: their standard deviation, or the temperature of their pairs; above 0.
        pairs: held-out pairs it was measured on.
        measured_on: what they were: the name of a file or of a run's evaluation sets.

    >>> Calibration("std", mean=2.0, scale=4.0, pairs=100, measured_on="heldout.jsonl").apply(np.array([2.0, 6.0]))
    array([0., 1.])
    """

    method: Literal["std", "temperature"]
    mean: float
    scale: float
    pairs: int
    measured_on: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.scale) and self.scale > 0):
            raise ModelError(
                f"{CALIBRATION}: mean {self.mean} and scale {self.scale} are no scale: both finite, the scale above 0"
            )

    def apply(self, rewards: np.ndarray) -> np.ndarray:
        """Return (rewards - mean) / scale, in the dtype of the rewards."""
        return ((rewards - self.mean) / self.scale).astype(rewards.dtype)


def read_calibration(folder: Path) -> Calibration:
    """Read the scale that config.json holds.

    Raises:
        ModelError: it holds none, or not a whole one.
    """
    found = json_object(folder / "config.json").get(CALIBRATION) if (folder / "config.json").exists() else None
    if found is None:
        raise ModelError(
            f"calibrated: the config.json of {folder} has no {CALIBRATION}; "
            "`rmx export FOLDER --format calibrated OUT` writes a model that has"
        )
    try:
        return Calibration(**found)
    except TypeError:
        raise ModelError(
            f"calibrated: {CALIBRATION} in {folder / 'config.json'} needs the keys "
            f"{', '.join(Calibration.__dataclass_fields__)}"
        ) from None


def store_calibration(folder: Path, calibration: Calibration) -> None:
    """Put the scale into the folder's config.json."""
    config = json_object(folder / "config.json") | {CALIBRATION: asdict(calibration)}
    write_text(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
