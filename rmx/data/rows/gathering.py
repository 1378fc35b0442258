"""Rows that are not one comparison each: several that make one together, or one that makes several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from rmx.data.rows.drafts import Draft, Row

__all__ = ["Gathering", "Joined", "Place"]


class Place(NamedTuple):
    """Where a row stands."""

    label: str  # the id of a comparison without one of its own, "source:line"
    where: str  # "file:line"


class Joined(NamedTuple):
    """A comparison, and how many of the rows read it stands for; None for rows that make no comparison."""

    draft: Draft | None
    own_id: object
    place: Place
    rows: int  # 0 for a further comparison of a row that has made one already


class Gathering(Protocol):
    """Takes rows in order and gives comparisons, when they are complete."""

    def add(self, row: Row, draft: Draft, place: Place) -> Iterable[Joined]:
        """Take in one row, whose text is in `draft`; the comparisons that are complete now."""

    def rest(self) -> Iterable[Joined]:
        """The comparisons that had to wait for the last row."""
