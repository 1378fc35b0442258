"""What encoding did to the rows: kept, truncated, dropped, and what that cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

__all__ = ["Tally", "TruncationReport"]


@dataclass(frozen=True)
class TruncationReport:
    """Counts of comparisons unless a name says otherwise; read = kept + dropped + refused.

    Lengths are in tokens of full sequences (prompt and one response), before anything was cut.
    """

    max_tokens: int
    truncation: str
    read: int = 0
    kept: int = 0
    dropped: int = 0  # over max_tokens with truncation=drop
    refused: int = 0  # the template could not render them (only with on_bad_row=skip)
    truncated: int = 0  # kept, with a shorter prompt than they had
    turns_dropped: int = 0  # messages that whole-turn truncation left out, over all kept comparisons
    tokens_lost: int = 0  # over all sequences of the truncated comparisons
    prompt_lost: int = 0  # truncated so far that nothing of the prompt is left for some response
    response_cut: int = 0  # a response alone was over max_tokens: it keeps its end
    identical_pairs: int = 0  # pairs whose two sequences have the same ids: they can teach nothing
    literal_rows: int = 0  # comparisons whose content spells a control token; it was read as ordinary text
    tools_ignored: int = 0  # comparisons with tools that the template does not print
    longest: int = 0  # tokens of the longest sequence before cutting
    tokens: int = 0  # of all kept sequences
    shared_tokens: int = 0  # of all kept comparisons when each shared prefix is counted once
    percentiles: dict[str, int] = field(default_factory=dict)  # of sequence lengths before cutting
    refusals: tuple[str, ...] = ()  # the first five "where: reason" of `refused`

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values, for audit.json and the run's report."""
        return {**asdict(self), "refusals": list(self.refusals)}

    def summary(self) -> str:
        """One line for the screen.

        >>> TruncationReport(512, "keep_end", read=10, kept=10, truncated=2, longest=700).summary()
        '10 of 10 comparisons kept, 2 truncated to 512 tokens (longest 700)'
        """
        line = f"{self.kept} of {self.read} comparisons kept"
        if self.dropped:
            line += f", {self.dropped} dropped over {self.max_tokens} tokens"
        if self.truncated:
            line += f", {self.truncated} truncated to {self.max_tokens} tokens"
        line += f" (longest {self.longest})"
        for count, words in (
            (self.refused, "refused by the template"),
            (self.response_cut, "with a response over the limit"),
            (self.identical_pairs, "pairs with identical sides"),
            (self.literal_rows, "with control tokens spelled out in their text"),
            (self.tools_ignored, "with tools that the template does not print"),
        ):
            if count:
                line += f"; {count} {words}"
        return line


class Tally:
    """Collects counts and lengths while rows are encoded; `report` makes the frozen record of it."""

    def __init__(self, max_tokens: int, truncation: str) -> None:
        self._limits = (max_tokens, truncation)
        self.counts: dict[str, int] = {}
        self.refusals: list[str] = []
        self._histogram = np.zeros(0, dtype=np.int64)  # [length] -> sequences; bounded by the longest, not by the rows

    def add(self, name: str, count: int = 1) -> None:
        """Raise the count of one field of the report."""
        self.counts[name] = self.counts.get(name, 0) + count

    def lengths(self, lengths: list[int]) -> None:
        """Note the lengths of sequences before cutting."""
        counted = np.bincount(np.asarray(lengths, dtype=np.int64))
        if len(counted) > len(self._histogram):
            counted[: len(self._histogram)] += self._histogram
            self._histogram = counted
        else:
            self._histogram[: len(counted)] += counted

    def report(self) -> TruncationReport:
        """The record of everything so far."""
        seen = np.flatnonzero(self._histogram)
        percentiles: dict[str, int] = {}
        if len(seen):
            cumulative = np.cumsum(self._histogram)
            for percent in (50, 90, 95, 99):
                rank = int(np.ceil(percent / 100 * cumulative[-1]))  # nearest-rank percentile
                percentiles[f"p{percent}"] = int(np.searchsorted(cumulative, rank))
        max_tokens, truncation = self._limits
        return TruncationReport(
            max_tokens=max_tokens,
            truncation=truncation,
            longest=int(seen[-1]) if len(seen) else 0,
            percentiles=percentiles,
            refusals=tuple(self.refusals),
            **self.counts,
        )
