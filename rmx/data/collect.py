"""The loop over the rows of one source: read, filter, convert, and account for every one of them."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmx.data.accounting import Accounting, Reject, RowFault, SourceAccount
from rmx.data.read.raw import BLANK
from rmx.data.read.sources import locate
from rmx.data.rows.detect import FORMATS, Format, detect, renamed
from rmx.data.rows.drafts import Draft, RowOptions
from rmx.data.rows.messages import retagged
from rmx.data.rows.ranked import gather
from rmx.data.spool import Spool, take
from rmx.data.where import compile_where
from rmx.errors import DataError
from rmx.records import Comparison

if TYPE_CHECKING:
    from rmx.data.preference import PreferenceData

__all__ = ["collect", "make_ids_unique", "stream"]

_SNIFF = 64  # rows that decide the format

# file, what stands before the number in an id, line or RowNumber, row, fault
Located = tuple[str, str, int, dict[str, Any] | None, RowFault | None]


def collect(spec: PreferenceData, accounting: Accounting, spool: Path | None = None) -> Sequence[Comparison]:
    """All good rows of a source, at most `max_samples` of them; `accounting` gets the source's counts.

    With `streaming` the rows stay on disk, in a nameless file in the folder `spool`.

    Raises:
        DataError: nothing to read, no known format, or not one good row.
    """
    account = SourceAccount()
    accounting.sources[spec.source] = account
    with _garbage_collection_off():
        rows = stream(spec, account, accounting.rejects)
        kept: Sequence[Comparison] = Spool.of(rows, spool) if spec.streaming else list(rows)
    accounting.notes += [f"{spec.source}: {note}" for note in (account.detected, *account.choices)]
    if spec.max_samples is not None and len(kept) > spec.max_samples:
        chosen = sorted(random.Random(spec.seed).sample(range(len(kept)), spec.max_samples))
        account.unused = len(kept) - len(chosen)
        kept = take(kept, chosen)
    account.kept = len(kept)
    return kept


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Millions of small objects are made, and none of them in a cycle: looking for cycles doubles the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def stream(spec: PreferenceData, account: SourceAccount, rejects: list[Reject]) -> Iterator[Comparison]:
    """Good rows one at a time, in file order, in memory that does not grow with the file.

    `account` counts what is read and not used, `rejects` names the bad rows.

    Raises:
        DataError: nothing to read, or no known format.
    """
    rows = _located(spec, account)
    head = list(islice(rows, _SNIFF))
    entry = _format_of(spec, head, account, rejects)
    keep = compile_where(spec.where) if spec.where else None
    options = RowOptions(spec.ties, spec.min_gap, spec.margin_from_scores, spec.pair_weighting, spec.repeated_roles)
    source, columns, convert = spec.source, spec.columns, entry.convert
    points = Points(options, account) if entry.name == "pointwise" else None
    for file, label, line, row, fault in chain(head, rows):
        if fault is BLANK:
            account.blank += 1
            continue
        account.read += 1
        if row is not None:
            try:
                if columns:
                    row = renamed(row, columns)
                if spec.tags:
                    row = retagged(row, spec.tags)
                if keep is not None and not keep(row):
                    account.filtered["where"] += 1
                    continue
                draft = convert(row, options)
                # Own ids may repeat, and finding that out takes memory for every row.
                found = _comparison(row, draft, source, f"{label}:{int(line)}", f"{file}:{line}", not spec.streaming)
                if points is None:
                    yield found
                else:
                    points.add(found)
                continue
            except RowFault as error:
                fault = error
        if fault is None:
            continue
        if fault.reason == "no preference":
            account.filtered["no preference"] += 1
        else:
            account.rejected[fault.reason] += 1
            rejects.append(Reject(file, line, fault.reason, fault.detail))
    if points is not None:
        yield from points.comparisons()


class Points:
    """Scored single responses on their way to one comparison per prompt; they are held until the last row."""

    def __init__(self, options: RowOptions, account: SourceAccount) -> None:
        self.options, self.account = options, account
        self.groups: dict[str, list[Comparison]] = {}

    def add(self, row: Comparison) -> None:
        """Take in one row: a comparison of one response, with its score as margin."""
        self.groups.setdefault(json.dumps([row.prompt, row.tools], sort_keys=True), []).append(row)

    def comparisons(self) -> Iterator[Comparison]:
        """One comparison per prompt, in the order of first appearance; prompts without a pair are counted."""
        for rows in self.groups.values():
            first = rows[0]
            drafts = [Draft([], [list(row.responses[0])], row.pairs) for row in rows]
            try:
                draft = gather(list(first.prompt), drafts, self.options)
            except RowFault:  # one response, equal ones, or scores too close: good rows, but nothing to compare
                self.account.filtered["no preference"] += len(rows)
                continue
            self.account.merged += len(rows) - 1
            yield replace(first, responses=tuple(map(tuple, draft.responses)), pairs=draft.pairs)


def _located(spec: PreferenceData, account: SourceAccount) -> Iterator[Located]:
    """Rows of all files (or of the hub dataset) of a spec, with their places."""
    for file in locate(spec.paths, spec.split, spec.config, spec.revision, account.choices):
        account.files.append(file.place)
        label = f"{spec.source}/{file.label}" if file.label else spec.source
        for number, row, fault in file.rows():
            yield file.place, label, number, row, fault


def _format_of(spec: PreferenceData, head: Sequence[Located], account: SourceAccount, rejects: list[Reject]) -> Format:
    """The format given or detected; explains a file without a single usable row."""
    rows = [renamed(row, spec.columns) if spec.columns else row for _, _, _, row, _ in head if row is not None]
    if not rows:
        files = ", ".join(account.files[:3])
        faults = [Reject(file, line, fault.reason, fault.detail) for file, _, line, _, fault in head if fault]
        faults = [reject for reject in faults if reject.reason != BLANK.reason]
        if not faults:
            raise DataError(f"data {spec.source}: {files} is empty: no row to read. Is data.path the right file?")
        first = "\n".join(f"  {reject}" for reject in faults[:5])
        raise DataError(
            f"data {spec.source}: none of the first {len(faults)} rows of {files} can be read:\n{first}\n"
            "  Is this a JSON lines file? Rename it to its kind (.csv, .parquet, ...) or repair it"
        )
    if spec.format == "auto":
        entry, account.detected = detect(rows, spec.source)
    else:
        entry = FORMATS[spec.format]
        account.detected = f"{entry.title} (data.format={entry.name})"
        _check_columns(spec, entry, rows)
    account.format = entry.name
    return entry


def _check_columns(spec: PreferenceData, entry: Format, rows: Sequence[Mapping[str, Any]]) -> None:
    found = sorted({column for row in rows for column in row})
    missing = [column for column in entry.columns if column not in found]
    if missing:
        raise DataError(
            f"data {spec.source}: data.format={entry.name} needs the column {missing[0]}, and no row has it; "
            f"columns found: {', '.join(found)}. Name it with data.columns={{{missing[0]}: ITS_NAME}}"
        )


def _comparison(row: Mapping[str, Any], draft: Draft, source: str, label: str, where: str, own_ids: bool) -> Comparison:
    own = row.get("id") if own_ids else None
    return Comparison(
        id=str(own) if isinstance(own, str | int) and own != "" else label,
        source=source,
        prompt=tuple(draft.prompt),
        responses=tuple(map(tuple, draft.responses)),
        pairs=draft.pairs,
        tools=draft.tools,
        where=where,
    )


def make_ids_unique(sets: Iterable[list[Comparison]]) -> None:
    """Give every comparison an id of its own, in place: a repeated one gets `@file:line` behind it."""
    seen: set[str] = set()
    copies: dict[str, int] = {}
    for rows in sets:
        for i, comparison in enumerate(rows):
            if comparison.id in seen:
                new = at = f"{comparison.id}@{comparison.where}"
                while new in seen:
                    copies[at] = copies.get(at, 1) + 1
                    new = f"{at}#{copies[at]}"
                rows[i] = comparison = replace(comparison, id=new)
            seen.add(comparison.id)
