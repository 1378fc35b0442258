"""What encoding did to the rows: kept, truncated, dropped, and what that cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from rmx.errors import DataError, counted
from rmx.templates.printed import part_of_conversation

__all__ = ["CAUSES", "Tally", "TruncationReport"]

# Why the two sides of a pair have the same token ids.
CAUSES = {
    "data": "the two responses say the same",
    "template": "the template leaves out what differs",
    "tokenizer": "the tokenizer gives different texts the same ids",
    "limit": "data.max_tokens cuts off what differs",
}


@dataclass(frozen=True)
class TruncationReport:
    """Counts of comparisons unless a name says otherwise; read = kept + dropped + refused + all_equal.

    A pair whose two sides have the same token ids can teach and measure nothing: it is left out (a labelled tie, too),
    and with its last pair the comparison. `equal_pairs` counts such pairs by cause, a key of `CAUSES`.

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
    all_equal: int = 0  # left out, because the two sides of each of their pairs have the same ids
    equal_pairs: dict[str, int] = field(default_factory=dict)  # pairs left out for that, by cause
    literal_rows: int = 0  # comparisons whose content spells a control token; it was read as ordinary text
    unprinted: dict[str, int] = field(default_factory=dict)  # by field that the template does not print in full
    longest: int = 0  # tokens of the longest sequence before cutting
    tokens: int = 0  # of all kept sequences
    shared_tokens: int = 0  # of all kept comparisons when each shared prefix is counted once
    percentiles: dict[str, int] = field(default_factory=dict)  # of sequence lengths before cutting
    refusals: tuple[str, ...] = ()  # the first five "where: reason" of `refused`
    equal_examples: dict[str, str] = field(default_factory=dict)  # by cause, where the first such pair stands
    unprinted_examples: dict[str, str] = field(default_factory=dict)  # by field, where it is first left out

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values, for audit.json and the run's report."""
        return {**asdict(self), "refusals": list(self.refusals)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TruncationReport:
        """The report that `to_dict` made these values of."""
        return cls(**{**values, "refusals": tuple(values["refusals"])})

    def findings(self) -> Iterator[tuple[Literal["warning", "note"], str]]:
        """What the user should know of pairs that became equal and of fields that are not printed: level and text."""
        if self.response_cut:
            share = f"({self.response_cut / self.read:.1%})"
            many = f"comparisons {share} have"
            text = f"{counted(self.response_cut, f'comparison {share} has', many)} a response longer than "
            yield "warning", f"{text}{self.max_tokens} tokens with what surrounds it: its beginning is cut off"
        for cause, count in self.equal_pairs.items():
            left_out = counted(count, "pair is left out", "pairs are left out")
            text = f"{left_out}, because both sides are the same tokens: {CAUSES[cause]}"
            yield "warning", f"{text}, first {self.equal_examples[cause]}"
        for name, count in self.unprinted.items():
            text = f"{name} of {count} comparisons ({count / self.read:.1%}) is not printed, or not in full, by the "
            level: Literal["warning", "note"] = "warning" if part_of_conversation(name) else "note"
            yield level, f"{text}template, first {self.unprinted_examples[name]}"

    def require_printed(self, name: str, template: str, limit: float) -> None:
        """Stop where the template leaves out a part of too many conversations.

        Args:
            name: the set, for the message.
            template: the template's name.
            limit: `template.max_unprinted_fraction`.

        Raises:
            DataError: names the fields, their shares, and the keys to set.
        """
        over = [
            f"{field} in {count} of {self.read} comparisons ({count / self.read:.1%}; first: "
            f"{self.unprinted_examples[field]})"
            for field, count in self.unprinted.items()
            if part_of_conversation(field) and count > limit * self.read
        ]
        if over:
            raise DataError(
                f"{name}: template {template!r} does not print {', '.join(over)}: the model would judge what it cannot "
                f"see, and template.max_unprinted_fraction={limit:g} allows no more. Choose a template that prints it "
                "(template=qwen3, for example, prints tools, tool calls and reasoning), or allow it: "
                "template.max_unprinted_fraction=1"
            )

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
            (self.literal_rows, "with control tokens spelled out in their text"),
        ):
            if count:
                line += f"; {count} {words}"
        if self.equal_pairs:
            causes = ", ".join(f"{count} by the {cause}" for cause, count in self.equal_pairs.items())
            line += (
                f"; {counted(sum(self.equal_pairs.values()), 'pair')} left out, both sides the same tokens ({causes})"
            )
        if self.unprinted:
            fields = ", ".join(f"{field} of {count}" for field, count in self.unprinted.items())
            line += f"; not printed in full by the template: {fields}"
        return line


class Tally:
    """Collects counts and lengths while rows are encoded; `report` makes the frozen record of it."""

    def __init__(self, max_tokens: int, truncation: str) -> None:
        self._limits = (max_tokens, truncation)
        self.counts: dict[str, int] = {}
        self.refusals: list[str] = []
        self.equal_pairs, self.unprinted = Counter[str](), Counter[str]()
        self.first: dict[str, dict[str, str]] = {"equal": {}, "unprinted": {}}
        self._histogram = np.zeros(0, dtype=np.int64)  # [length] -> sequences; bounded by the longest, not by the rows

    def add(self, name: str, count: int = 1) -> None:
        """Raise the count of one field of the report."""
        self.counts[name] = self.counts.get(name, 0) + count

    def equal(self, cause: str, where: str) -> None:
        """Note a pair whose two sides are the same tokens."""
        self.equal_pairs[cause] += 1
        self.first["equal"].setdefault(cause, where)

    def not_printed(self, fields: Iterable[str], where: str) -> None:
        """Note the fields of a comparison that the template does not print in full."""
        for name in sorted(fields):
            self.unprinted[name] += 1
            self.first["unprinted"].setdefault(name, where)

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
            equal_pairs=dict(self.equal_pairs.most_common()),
            equal_examples=dict(self.first["equal"]),
            unprinted=dict(self.unprinted.most_common()),
            unprinted_examples=dict(self.first["unprinted"]),
            **self.counts,
        )
