"""Comparisons that begin alike become one row of tokens, whichever request they came with.

The engine computes what the K responses of a comparison share once. Two waiting comparisons under one prompt are, for
the engine, one comparison with more responses:

    a    [ P P P P | 1 1 1 | 2 2 ]     4 + 3 + 2 = 9 tokens
    b    [ P P P P | 3 3 ]             4 + 2     = 6
    a+b  [ P P P P | 1 1 1 | 2 2 | 3 3 ]          = 11

The shared beginning is found among the *ids*, so it is exact whatever the texts were; a reward depends on its own
sequence alone (`rmx.engine`), so who else is in the row changes nothing but the clock.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rmx.records import EncodedComparison
from rmx.tokens.truncate import common_prefix

__all__ = ["SharedRow", "merged", "sequences_of"]


def sequences_of(one: EncodedComparison) -> list[np.ndarray]:
    """The K whole sequences of a comparison."""
    return [np.concatenate([one.prefix_ids, suffix]) for suffix in one.suffix_ids]


def merged(comparisons: Sequence[EncodedComparison]) -> EncodedComparison:
    """All responses of several comparisons, in their order, as one comparison without pairs.

    >>> a = EncodedComparison("a", "s", np.array([7, 8]), (np.array([1, 2]), np.array([3])), ())
    >>> b = EncodedComparison("b", "s", np.array([7, 8, 9]), (np.array([4]),), ())
    >>> both = merged([a, b])
    >>> both.prefix_ids.tolist(), [suffix.tolist() for suffix in both.suffix_ids]
    ([7, 8], [[1, 2], [3], [9, 4]])
    """
    if len(comparisons) == 1:
        return comparisons[0]
    sequences = [sequence for one in comparisons for sequence in sequences_of(one)]
    shared = common_prefix(sequences)
    first = comparisons[0]
    return EncodedComparison(
        first.id, first.source, sequences[0][:shared], tuple(sequence[shared:] for sequence in sequences), ()
    )


class SharedRow:
    """A row that grows: how many tokens it has, and would have with one comparison more.

    >>> a = EncodedComparison("a", "s", np.array([7, 8, 9]), (np.array([1, 2]), np.array([3])), ())
    >>> b = EncodedComparison("b", "s", np.array([7, 8, 9, 5]), (np.array([4]),), ())
    >>> row = SharedRow(a)
    >>> row.tokens, row.tokens_with(b)
    (6, 8)
    """

    def __init__(self, first: EncodedComparison) -> None:
        self._head = sequences_of(first)[0]
        self._shared = len(first.prefix_ids)
        self._total = sum(first.lengths)
        self._sequences = len(first.suffix_ids)

    @property
    def tokens(self) -> int:
        """Tokens to compute: the shared beginning once, and every end."""
        return self._total - (self._sequences - 1) * self._shared

    def tokens_with(self, other: EncodedComparison) -> int:
        """Tokens of the row once `other` has joined it."""
        shared, sequences = self._shared_with(other), self._sequences + len(other.suffix_ids)
        return self._total + sum(other.lengths) - (sequences - 1) * shared

    def add(self, other: EncodedComparison) -> None:
        """Let `other` join."""
        self._shared = self._shared_with(other)
        self._total += sum(other.lengths)
        self._sequences += len(other.suffix_ids)

    def _shared_with(self, other: EncodedComparison) -> int:
        """The beginning that all sequences share; every one of them keeps its last token."""
        return common_prefix([self._head[: self._shared + 1], *sequences_of(other)])
