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
from rmx.data.read.files import find_files, is_local, is_saved_dataset
from rmx.data.read.json_files import BLANK, read_rows
from rmx.data.rows import asking
from rmx.data.rows.drafts import Draft, RowOptions
from rmx.data.rows.plan import TextNotRead
from rmx.data.rows.ranked import gather
from rmx.data.rows.reading import RowReader, Wishes
from rmx.data.spool import Spool, take
from rmx.data.where import compile_where
from rmx.errors import DataError
from rmx.records import Comparison

if TYPE_CHECKING:
    from rmx.data.preference import PreferenceData

__all__ = ["collect", "make_ids_unique", "stream"]

_SNIFF = 64  # rows that decide the format

# file, what stands before the line number in an id, line, row, fault
Located = tuple[str, str, int, dict[str, Any] | None, RowFault | None]


def collect(
    spec: PreferenceData,
    accounting: Accounting,
    spool: Path | None = None,
    *,
    key: str = "data",
    inherited: bool = False,
) -> Sequence[Comparison]:
    """All good rows of a source, at most `max_samples` of them; `accounting` gets the source's counts.

    For `key` and `inherited` see `stream`.

    With `streaming` the rows stay on disk, in a nameless file in the folder `spool`.

    Raises:
        DataError: nothing to read, no known format, or not one good row.
    """
    account = SourceAccount()
    accounting.sources[spec.source] = account
    with _garbage_collection_off():
        rows = stream(spec, account, accounting.rejects, key, inherited)
        kept: Sequence[Comparison] = Spool.of(rows, spool) if spec.streaming else list(rows)
    accounting.notes.append(f"{spec.source}: {account.detected}")
    in_json = [name for name, column in account.columns.items() if column["looks"].endswith("JSON text")]
    if in_json:
        accounting.notes.append(f"{spec.source}: lists written as JSON text are read as lists: {', '.join(in_json)}")
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


def stream(
    spec: PreferenceData, account: SourceAccount, rejects: list[Reject], key: str = "data", inherited: bool = False
) -> Iterator[Comparison]:
    """Good rows one at a time, in file order, in memory that does not grow with the file.

    `account` counts what is read and not used, `rejects` names the bad rows. `key` is what stands before the names of
    keys in messages; `inherited` says that `ignore` was said of another source.

    Raises:
        DataError: nothing to read, no known format, or a column that has to be explained first.
    """
    rows = _located(spec, account)
    head = list(islice(rows, _SNIFF))
    reader = _reader(spec, head, account, asking.Keys(key, spec.say_columns), inherited)
    points = Points(reader.wishes.options, account) if reader.format.name == "pointwise" else None
    source = spec.source
    for file, label, line, row, fault in chain(head, rows):
        if fault is BLANK:
            account.blank += 1
            continue
        account.read += 1
        if row is not None:
            try:
                read = reader.draft(row)
                if read is None:
                    account.filtered["where"] += 1
                    continue
                # Own ids may repeat, and finding that out takes memory for every row.
                found = _comparison(*read, source, f"{label}:{line}", f"{file}:{line}", not spec.streaming)
                if points is None:
                    yield found
                else:
                    points.add(found)
                continue
            except RowFault as error:
                fault = error
                if isinstance(error, TextNotRead):
                    reader.judge(error, row, f"{file}:{line}")
        if fault is None:
            continue
        if fault.reason == "no preference":
            account.filtered["no preference"] += 1
        else:
            account.rejected[fault.reason] += 1
            rejects.append(Reject(file, line, fault.reason, fault.detail))
    reader.finish()
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
    for path in spec.paths:
        if not is_local(path):
            from rmx.data.read import hub

            account.files.append(path)
            for line, row, fault in hub.read_hub(path, spec.config, spec.split, spec.revision):
                yield path, spec.source, line, row, fault
            continue
        if is_saved_dataset(path):
            from rmx.data.read import hub

            account.files.append(path)
            for line, row, fault in hub.read_disk(path, spec.split):
                yield path, spec.source, line, row, fault
            continue
        files = find_files(path)
        several = len(spec.paths) + len(files) > 2
        for file in files:
            account.files.append(str(file))
            label = f"{spec.source}/{file.name}" if several else spec.source
            for line, row, fault in read_rows(file):
                yield str(file), label, line, row, fault


def _reader(
    spec: PreferenceData, head: Sequence[Located], account: SourceAccount, keys: asking.Keys, inherited: bool
) -> RowReader:
    """The reader of a source's rows; explains a file without a single usable row."""
    rows = [row for _, _, _, row, _ in head if row is not None]
    if rows:
        wishes = Wishes(
            source=spec.source,
            format=spec.format,
            columns=spec.columns,
            ignore=spec.ignore,
            tags=spec.tags,
            keep=compile_where(spec.where) if spec.where else None,
            options=RowOptions(
                spec.ties, spec.min_gap, spec.margin_from_scores, spec.pair_weighting, spec.repeated_roles
            ),
            allow_empty_prompt=spec.allow_empty_prompt,
            inherited=inherited,
        )
        return RowReader(wishes, keys, rows, account)
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
    for rows in sets:
        for i, comparison in enumerate(rows):
            if comparison.id in seen:
                rows[i] = comparison = replace(comparison, id=f"{comparison.id}@{comparison.where}")
                number = 2
                while comparison.id in seen:
                    rows[i] = comparison = replace(comparison, id=f"{comparison.id}#{number}")
                    number += 1
            seen.add(comparison.id)
