"""The loop over the rows of one source: read, filter, convert, and account for every one of them."""

from __future__ import annotations

import gc
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmx.data.accounting import REMARKS, Accounting, Reject, RowFault, SourceAccount
from rmx.data.read.raw import BLANK
from rmx.data.read.sources import locate
from rmx.data.rows import asking
from rmx.data.rows.applying import idle_option
from rmx.data.rows.drafts import Draft, RowOptions
from rmx.data.rows.gathering import Joined, Place
from rmx.data.rows.plan import TextNotRead
from rmx.data.rows.reading import RowReader, Wishes
from rmx.data.spool import Spool, take
from rmx.data.where import compile_where
from rmx.errors import DataError, counted, none_of_the_first
from rmx.records import Comparison

if TYPE_CHECKING:
    from rmx.data.preference import PreferenceData

__all__ = ["collect", "make_ids_unique", "stream"]

_SNIFF = 64  # rows that decide the format

# file, what stands before the number in an id, line or RowNumber, row, fault
Located = tuple[str, str, int, dict[str, Any] | None, RowFault | None]


def collect(
    spec: PreferenceData,
    accounting: Accounting,
    spool: Path | None = None,
    *,
    key: str = "data",
    inherited: bool = False,
    given: Collection[str] | None = None,
) -> Sequence[Comparison]:
    """All good rows of a source, at most `max_samples` of them; `accounting` gets the source's counts.

    For `key`, `inherited` and `given` see `stream`.

    With `streaming` the rows stay on disk, in a nameless file in the folder `spool`.

    Raises:
        DataError: nothing to read, no known format, or not one good row.
    """
    account = SourceAccount(max_bad_fraction=None if spec.on_bad_row == "error" else spec.max_bad_fraction)
    accounting.sources[spec.source] = account
    with _garbage_collection_off():
        rows = stream(spec, account, accounting.rejects, key, inherited, given)
        kept: Sequence[Comparison] = Spool.of(rows, spool) if spec.streaming else list(rows)
    accounting.notes += [f"{spec.source}: {note}" for note in (account.detected, *account.choices)]
    in_json = [name for name, column in account.columns.items() if column["looks"].endswith("JSON text")]
    if in_json:
        accounting.notes.append(f"{spec.source}: lists written as JSON text are read as lists: {', '.join(in_json)}")
    if spec.streaming and account.format in _HELD:
        accounting.notes.append(
            f"{spec.source}: all rows were held in memory until the last one was read, although data.streaming is on: "
            f"only then is it known which {_HELD[account.format]} belong together"
        )
    for remark, count in sorted(account.remarks.items()):
        accounting.notes.append(f"{spec.source}: {counted(count, 'row')} with {remark}: {REMARKS[remark]}")
    if spec.max_samples is not None and len(kept) > spec.max_samples:
        chosen = sorted(random.Random(spec.seed).sample(range(len(kept)), spec.max_samples))
        account.unused = len(kept) - len(chosen)
        kept = take(kept, chosen)
    account.kept = len(kept)
    return kept


def _tags_of(spec: PreferenceData, key: str) -> str:
    """Where the tags of a source were said: in the config, or in dataset_info.json."""
    return f"{key}.tags" if spec.say_columns is None else f"{spec.source}: tags of dataset_info.json"


_HELD = {"pointwise": "single responses", "messages": "messages of a tree"}


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
    spec: PreferenceData,
    account: SourceAccount,
    rejects: list[Reject],
    key: str = "data",
    inherited: bool = False,
    given: Collection[str] | None = None,
) -> Iterator[Comparison]:
    """Good rows one at a time, in file order, in memory that does not grow with the file.

    Two shapes are held until the last row, because any row may belong to an earlier one: single responses, and trees
    given as one message a row.

    `account` counts what is read and not used, `rejects` names the bad rows. `key` is what stands before the names of
    keys in messages; `inherited` says that `ignore` was said of another source, `given` which options were said of
    this one (None: all).

    Raises:
        DataError: nothing to read, no known format, a column that has to be explained first, or an option that has
            nothing to work on.
    """
    rows = _located(spec, account)
    head = list(islice(rows, _SNIFF))
    reader = _reader(spec, head, account, asking.Keys(key, spec.say_columns), inherited)
    yield from _read_all(reader, chain(head, rows), account, rejects, own_ids=not spec.streaming)
    mistake = _idle(spec, reader, account, key, given)
    if mistake is not None and account.read > account.bad:
        raise mistake


def _read_all(
    reader: RowReader, rows: Iterable[Located], account: SourceAccount, rejects: list[Reject], *, own_ids: bool
) -> Iterator[Comparison]:
    """Every row once: a comparison, a part of one, or counted as left out."""
    options, source = reader.wishes.options, reader.wishes.source
    gathering = reader.format.gather(options) if reader.format.gather else None
    for file, label, line, row, fault in rows:
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
                if gathering is not None:
                    for found in gathering.add(*read, Place(f"{label}:{int(line)}", f"{file}:{line}")):
                        yield from _joined(found, account, source, own_ids)
                    continue
                if read[1].remarks:
                    account.remarks.update(read[1].remarks)
                # Own ids may repeat, and finding that out takes memory for every row.
                yield _comparison(*read, source, f"{label}:{int(line)}", f"{file}:{line}", own_ids)
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
    for found in gathering.rest() if gathering is not None else ():
        yield from _joined(found, account, source, own_ids)


def _idle(
    spec: PreferenceData, reader: RowReader, account: SourceAccount, key: str, given: Collection[str] | None
) -> DataError | None:
    """An option, or tags, that had nothing to work on in any row."""
    source = spec.source
    mistake = idle_option(source, key, reader.wishes.options, account.detected, given)
    if not reader.tagged and (given is None or "tags" in given):
        named = ", ".join(f"{tag}: {name}" for tag, name in spec.tags.items())
        mistake = DataError(
            f"{_tags_of(spec, key)}={{{named}}}: does nothing for {source}: no message has such a key and role. "
            "Look at the keys of one message, or leave the tags out"
        )
    return mistake


def _joined(found: Joined, account: SourceAccount, source: str, own_ids: bool) -> Iterator[Comparison]:
    """The comparison of several rows, or a further one of the same row; rows that make none are counted."""
    if found.draft is None:
        account.filtered["no preference"] += found.rows
        return
    if found.rows:
        account.merged += found.rows - 1
    else:
        account.split += 1
    account.remarks.update(found.draft.remarks)
    yield _comparison({"id": found.own_id}, found.draft, source, *found.place, own_ids)


def _located(spec: PreferenceData, account: SourceAccount) -> Iterator[Located]:
    """Rows of all files (or of the hub dataset) of a spec, with their places."""
    for file in locate(spec.paths, spec.split, spec.config, spec.revision, account.choices):
        account.files.append(file.place)
        label = f"{spec.source}/{file.label}" if file.label else spec.source
        for number, row, fault in file.rows():
            yield file.place, label, number, row, fault


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
        raise DataError(f"data {spec.source}: {files} is empty: no row to read. Is that the right file?")
    first = "\n".join(f"  {reject}" for reject in faults[:5])
    raise DataError(
        f"data {spec.source}: {none_of_the_first(len(faults))} of {files} can be read:\n{first}\n"
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
