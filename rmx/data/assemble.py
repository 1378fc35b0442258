"""Rows → `Splits`: put rows aside by prompt, add the named evaluation sets, and judge the bad rows.

One way for a single source and for a mixture, so that no prompt stands on both sides *across* sources either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from rmx.data.accounting import Accounting, Splits, judge, write_rejects
from rmx.data.collect import make_ids_unique
from rmx.data.fingerprints import sides
from rmx.data.holdout import SplitBy, split_by_prompt
from rmx.data.spool import take
from rmx.errors import DataError
from rmx.records import Comparison

__all__ = ["Policy", "assemble"]

Overlap = Literal["error", "drop_train", "allow"]


class Policy(Protocol):
    """The keys of a data spec that are about the whole, not about one row."""

    @property
    def validation_fraction(self) -> float:
        """Share of rows put aside, by prompt."""

    @property
    def validation_by(self) -> SplitBy:
        """How they are chosen; see `rmx.data.holdout.held_out`."""

    @property
    def seed(self) -> int:
        """Of the split."""

    @property
    def on_overlap(self) -> Overlap:
        """What a pair does that stands in training and evaluation."""


def assemble(
    rows: Sequence[Comparison],
    accounting: Accounting,
    policy: Policy,
    eval_sets: Mapping[str, Callable[[Accounting], Sequence[Comparison]]],
    output_dir: Path | None,
    *,
    key: str = "data",
) -> Splits:
    """Training rows and evaluation sets, with every count in `accounting`; `key` stands before the names of keys.

    Raises:
        DataError: bad rows that are not allowed, or nothing left.
        OutputError: `output_dir` cannot be written to.
    """
    evals: dict[str, Sequence[Comparison]] = {}
    for name, read in eval_sets.items():
        own = Accounting()
        evals[name] = read(own)
        for account in own.sources.values():
            account.evals = {name: account.kept}
        accounting.merge(own)
    judge(accounting, write_rejects(accounting.rejects, output_dir), key)
    train, aside = split_by_prompt(rows, policy.validation_fraction, policy.seed, policy.validation_by)
    if policy.on_overlap == "drop_train":
        train = _without(train, evals, accounting)
        if not train:
            raise DataError("data.on_overlap=drop_train: every training row has its pair in an evaluation set")
    counts = Counter(row.source for row in train), Counter(row.source for row in aside)
    for name in {*counts[0], *counts[1]}:
        account = accounting.sources[name]
        account.train = counts[0][name]
        if aside:
            account.evals["eval"] = counts[1][name]
    if aside:
        evals = {"eval": aside, **evals}
    make_ids_unique([rows for rows in (train, *evals.values()) if isinstance(rows, list)])
    return Splits(train, evals, accounting, overlap_allowed=policy.on_overlap == "allow")


def _without(
    train: Sequence[Comparison], evals: Mapping[str, Sequence[Comparison]], accounting: Accounting
) -> Sequence[Comparison]:
    """Training rows without those that have a pair in an evaluation set."""
    held = {key for rows in evals.values() for row in rows for key in sides(row)}
    kept = []
    for number, row in enumerate(train):
        if held.isdisjoint(sides(row)):
            kept.append(number)
        else:
            accounting.sources[row.source].filtered["in an evaluation set"] += 1
            accounting.sources[row.source].kept -= 1
    return take(train, kept)
