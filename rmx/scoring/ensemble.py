"""Several reward models as one: their rewards brought onto one scale, combined, and how far they disagree.

Rewards of two models differ by an offset and a scale that mean nothing: r + b ranks as r does (Bradley and Terry).
Before they are combined they are brought together:

    prompt        r_mk - mean_k r_mk              the offset goes; needs K ≥ 2 responses
    calibration   (r_mk - mean_m) / std_m         mean and std over the responses of a file, for each model m
    none          r_mk

combined (Coste et al. 2024, "Reward Model Ensembles Help Mitigate Overoptimization"):

    mean     mean_m r_mk
    min      min_m r_mk                           the worst case
    lower    mean_m r_mk - k * std_m r_mk         the uncertainty-weighted mean

Letters: m of E models, k of K responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rmx.errors import ConfigError

__all__ = ["Center", "Combine", "Ensemble", "Scale"]

Combine = Literal["mean", "min", "lower"]
Center = Literal["prompt", "calibration", "none"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and standard deviation of one model's rewards on the calibration rows."""

    mean: float
    std: float

    @classmethod
    def of(cls, rewards: Sequence[float], model: str) -> Scale:
        """Measure it.

        >>> Scale.of([1.0, 3.0], "a")
        Scale(mean=2.0, std=1.0)

        Raises:
            ConfigError: fewer than two rewards, or all of them equal.
        """
        values = np.asarray(rewards, np.float64)
        if len(values) < 2 or not values.std() > 0:
            raise ConfigError(
                f"calibration: {model} gives {len(values)} rewards without spread; give rows with several responses"
            )
        return cls(float(values.mean()), float(values.std()))


@dataclass(frozen=True, slots=True)
class Ensemble:
    """How the rewards of E models become one reward per response.

    >>> members = np.array([[1.0, 3.0], [10.0, 14.0]])  # E=2 models, K=2 responses
    >>> combined, std, disagreement = Ensemble().combined(members)
    >>> combined.tolist(), std.tolist(), disagreement  # margins 2 and 4: mean 3, std 1
    ([-1.5, 1.5], [0.5, 0.5], 1.0)
    >>> Ensemble("lower", k=2.0).combined(members)[0].tolist()
    [-2.5, 0.5]
    """

    combine: Combine = "mean"
    k: float = 1.0  # of `lower`
    center: Center = "prompt"
    scales: tuple[Scale, ...] = ()  # of the models, with `calibration`

    def combined(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Combine rewards [E, K].

        Returns:
            Reward [K]; standard deviation over the models [K]; and the row's disagreement: the standard deviation over
            the models of the lead of the best response over the next one, or of the reward where K is 1. In the units
            that the rewards have once they are brought together.

        Raises:
            ConfigError: one response, and `center` is `prompt`.
        """
        together = self.centered(members.astype(np.float64))
        std = together.std(axis=0)
        if self.combine == "min":
            reward = together.min(axis=0)
        else:
            reward = together.mean(axis=0) - (self.k * std if self.combine == "lower" else 0.0)
        if together.shape[1] == 1:
            return reward, std, float(std[0])
        best, second = np.argsort(-reward, kind="stable")[:2]
        return reward, std, float((together[:, best] - together[:, second]).std())

    def centered(self, members: np.ndarray) -> np.ndarray:
        """Bring rewards [E, K] onto one scale; see above."""
        if self.center == "prompt":
            if members.shape[1] == 1:
                raise ConfigError(
                    "center=prompt: a row has one response, and centred on its prompt its reward is always 0; "
                    "give center=calibration calibration=ROWS, or center=none"
                )
            return members - members.mean(axis=1, keepdims=True)
        if self.center == "calibration":
            mean = np.array([[scale.mean] for scale in self.scales])
            return (members - mean) / np.array([[scale.std] for scale in self.scales])
        return members
