"""Checks and small arithmetic that all metrics share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmx.errors import DataError, NonFiniteError

__all__ = ["column", "columns", "group_sums", "sigmoid", "softplus"]

Floats = NDArray[np.float64]


def column(values: ArrayLike, name: str) -> Floats:
    """A one-dimensional float64 array without NaN or infinity.

    Raises:
        NonFiniteError: some value is NaN or infinite; the message counts them and names the first.
        DataError: more than one dimension.

    >>> column([1, 2], "chosen").tolist()
    [1.0, 2.0]
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise DataError(f"{name}: expected one number per pair, got an array of shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise NonFiniteError(
            f"{name}: {bad.size} of {array.size} values are NaN or infinite, the first in row {bad[0]}"
        )
    return array


def columns(**named: ArrayLike) -> list[Floats]:
    """Several columns of the same, non-zero length.

    Raises:
        DataError: the lengths differ, or there are no pairs.
        NonFiniteError: see `column`.

    >>> [c.tolist() for c in columns(chosen=[1.0], rejected=[0.5])]
    [[1.0], [0.5]]
    """
    arrays = [column(values, name) for name, values in named.items()]
    sizes = {name: array.size for name, array in zip(named, arrays, strict=True)}
    if len(set(sizes.values())) > 1:
        raise DataError(f"columns of different lengths: {sizes}")
    if arrays[0].size == 0:
        raise DataError(f"no pairs: {', '.join(named)} are empty, so no metric is defined")
    return arrays


def group_sums(values: Floats, labels: ArrayLike) -> Floats:
    """Sums of the last axis over entries with the same label, in the order of the sorted labels.

    >>> group_sums(np.array([1.0, 2.0, 4.0]), ["a", "b", "a"]).tolist()
    [5.0, 2.0]
    """
    _, group = np.unique(np.asarray(labels), return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0])
    return np.add.reduceat(values[..., order], starts, axis=-1)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x) without overflow.

    >>> sigmoid(np.array([0.0, -1000.0])).tolist()
    [0.5, 0.0]
    """
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def softplus(x: Floats) -> Floats:
    """log(1 + e^x) without overflow.

    >>> softplus(np.array([1000.0])).tolist()
    [1000.0]
    """
    return np.logaddexp(0.0, x)
