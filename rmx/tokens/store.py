"""Encoded comparisons in a folder of flat arrays: written in a stream, read by memory map.

    ids.npy       int32   all token ids, comparison by comparison: prefix, suffix 0, suffix 1, ...
    parts.npy     int32   the lengths of those parts                   parts_end.npy   int64, where each row's end
    pairs.npy     record  winner, loser, margin, target, weight, tie   pairs_end.npy   int64
    names.npy     uint8   the rows' ids, UTF-8                         names_end.npy   int64
    truth.npy     float64 [all suffixes] known rewards, else NaN
    rows.npy      record  source (number), truncated, has_truth
    meta.json     version, report, names of sources, size and xxh3 digest of every file; written last

A folder is complete when its meta.json is there and agrees with the files; nothing else is ever read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import xxhash

from rmx.records import EncodedComparison, Pair
from rmx.tokens.tally import TruncationReport

__all__ = ["VERSION", "EncodedRows", "Writer"]

VERSION = 2
_PAIR = np.dtype(
    [("winner", "<i4"), ("loser", "<i4"), ("margin", "<f8"), ("target", "<f8"), ("weight", "<f8"), ("tie", "?")]
)
_ROW = np.dtype([("source", "<i4"), ("truncated", "?"), ("has_truth", "?")])
_FILES: dict[str, np.dtype[Any]] = {
    "ids": np.dtype("<i4"),
    "parts": np.dtype("<i4"),
    "parts_end": np.dtype("<i8"),
    "pairs": _PAIR,
    "pairs_end": np.dtype("<i8"),
    "names": np.dtype("u1"),
    "names_end": np.dtype("<i8"),
    "truth": np.dtype("<f8"),
    "rows": _ROW,
}


class EncodedRows(Sequence[EncodedComparison]):
    """The comparisons of a finished folder; each is made when it is asked for, its ids are views of the file.

    Holds no row in memory, and pickles as its path (for DataLoader workers).

    Raises:
        ValueError: the folder is incomplete or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            if meta["version"] != VERSION:
                raise ValueError(f"version {meta['version']}, not {VERSION}")
            for name, (size, digest) in meta["files"].items():
                _check(folder / f"{name}.npy", size, digest)
        except (OSError, KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        self.report = TruncationReport.from_dict(meta["report"])
        self._sources: list[str] = meta["sources"]
        self._arrays = {name: _open(folder / f"{name}.npy", dtype) for name, dtype in _FILES.items()}
        parts = self._arrays["parts"]
        # 8 bytes a part: where each part begins in ids.npy
        self._starts = np.concatenate([[0], np.cumsum(parts, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self._arrays["rows"])

    @overload
    def __getitem__(self, index: int) -> EncodedComparison: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedComparison]: ...
    def __getitem__(self, index: int | slice) -> EncodedComparison | list[EncodedComparison]:
        if isinstance(index, slice):
            return [self._row(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._row(int(index) % len(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return EncodedRows, (self.folder,)

    def _row(self, index: int) -> EncodedComparison:
        arrays, starts = self._arrays, self._starts
        first, last = _span(arrays["parts_end"], index)
        ids = [arrays["ids"][starts[part] : starts[part + 1]] for part in range(first, last)]
        source, truncated, has_truth = arrays["rows"][index].item()
        name_first, name_last = _span(arrays["names_end"], index)
        pair_first, pair_last = _span(arrays["pairs_end"], index)
        return EncodedComparison(
            id=arrays["names"][name_first:name_last].tobytes().decode("utf-8", "surrogatepass"),
            source=self._sources[source],
            prefix_ids=ids[0],
            suffix_ids=tuple(ids[1:]),
            pairs=tuple(Pair(*values) for values in arrays["pairs"][pair_first:pair_last].tolist()),
            truncated=truncated,
            # one part of each earlier row is its prefix, which has no truth
            truth=tuple(arrays["truth"][first - index : last - index - 1].tolist()) if has_truth else None,
        )


class Writer:
    """Writes rows into an empty folder, chunk by chunk; `finish` makes it a complete one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {name: _File(folder / f"{name}.npy", dtype) for name, dtype in _FILES.items()}
        self._sources: dict[str, int] = {}
        self._ends = {"parts": 0, "pairs": 0, "names": 0}

    def add(self, rows: Iterable[EncodedComparison]) -> None:
        """Append comparisons."""
        columns: dict[str, list[Any]] = {name: [] for name in _FILES}
        for row in rows:
            parts = [row.prefix_ids, *row.suffix_ids]
            letters = row.id.encode("utf-8", "surrogatepass")
            columns["ids"] += parts
            columns["parts"] += map(len, parts)
            columns["pairs"] += [(p.winner, p.loser, p.margin, p.target, p.weight, p.tie) for p in row.pairs]
            columns["names"].append(np.frombuffer(letters, dtype=np.uint8))
            columns["truth"] += row.truth if row.truth is not None else [np.nan] * len(row.suffix_ids)
            source = self._sources.setdefault(row.source, len(self._sources))
            columns["rows"].append((source, row.truncated, row.truth is not None))
            for kind, count in (("parts", len(parts)), ("pairs", len(row.pairs)), ("names", len(letters))):
                self._ends[kind] += count
                columns[f"{kind}_end"].append(self._ends[kind])
        for name, values in columns.items():
            joined = np.concatenate(values) if name in ("ids", "names") and values else values
            self._files[name].write(np.asarray(joined, dtype=_FILES[name]))

    def finish(self, report: TruncationReport) -> None:
        """Close all files, and write meta.json."""
        files = {name: file.close() for name, file in self._files.items()}
        meta = {"version": VERSION, "report": report.to_dict(), "sources": list(self._sources), "files": files}
        (self.folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")

    def abandon(self) -> None:
        """Close the files without finishing."""
        for file in self._files.values():
            file.handle.close()


class _File:
    """A one-dimensional .npy file that grows; its header gets the length when it is closed."""

    HEADER = 128  # bytes; the header is padded to this, whatever the length

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.dtype, self.count = dtype, 0
        self.handle = path.open("w+b")
        self.digest = xxhash.xxh3_64()
        self.handle.write(bytes(self._header_size()))

    def write(self, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values).tobytes()
        self.handle.write(data)
        self.digest.update(data)
        self.count += len(values)

    def close(self) -> tuple[int, str]:
        """Returns size in bytes and digest of the data (the header is checked by being read)."""
        self.handle.seek(0)
        self.handle.write(self._header())
        self.handle.close()
        return self._header_size() + self.count * self.dtype.itemsize, self.digest.hexdigest()

    def _header_size(self) -> int:
        return self.HEADER * (3 if self.dtype.names else 1)

    def _header(self) -> bytes:
        described = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.count,)}
        text = repr(described).encode("latin1")
        room = self._header_size() - 10
        return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n"


def _check(path: Path, size: int, digest: str) -> None:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != size:
            raise ValueError(f"{path.name} is not complete")
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        found = xxhash.xxh3_64()
        while block := file.read(1 << 22):
            found.update(block)
    if found.hexdigest() != digest:
        raise ValueError(f"{path.name} is damaged")


def _open(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """A view of the file; copy-on-write, so that torch takes it as writable, and the file never changes."""
    if path.stat().st_size == _File.HEADER * (3 if dtype.names else 1):
        return np.zeros(0, dtype=dtype)  # nothing to map
    found = np.load(path, mmap_mode="c", allow_pickle=False).view(np.ndarray)
    if found.dtype != dtype or found.ndim != 1:
        raise ValueError(f"{path.name} holds {found.dtype}, not {dtype}")
    return found


def _span(ends: np.ndarray, index: int) -> tuple[int, int]:
    return (int(ends[index - 1]) if index else 0), int(ends[index])
