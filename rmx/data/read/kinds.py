"""Kinds of files by their names, and how packed ones are read."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

__all__ = ["SUFFIXES", "is_local", "kind_of", "open_bytes"]

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")
_PACKED = (".gz", ".zst")


def kind_of(path: Path) -> str:
    """The suffix that decides the reader, without the packing.

    >>> kind_of(Path("a/train.jsonl.gz"))
    '.jsonl'
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_local(path: str) -> bool:
    """Whether a path means files here, not a dataset id of the hub such as `org/name`.

    >>> is_local("./pairs.jsonl"), is_local("Anthropic/hh-rlhf")
    (True, False)
    """
    if Path(path).expanduser().exists() or kind_of(Path(path)) in SUFFIXES or any(sign in path for sign in "*?["):
        return True
    return path.startswith(("/", ".", "~")) or path.count("/") != 1


def hub_ids(places: Iterable[str]) -> list[str]:
    """The datasets of the hub among the places of files.

    >>> hub_ids(["org/pairs/data/train-0.parquet", "org/pairs/data/train-1.parquet", "/data/mine.jsonl"])
    ['org/pairs']
    """
    return sorted({repo for repo in ("/".join(place.split("/")[:2]) for place in places) if not is_local(repo)})


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file, unpacked, as bytes. Reading beyond a place where the packing breaks off raises EOFError."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"), 1 << 20)
    if suffix == ".zst":
        return io.BufferedReader(_ZstdFile(path), 1 << 20)
    return path.open("rb", buffering=1 << 20)


class _ZstdFile(io.RawIOBase):
    """A zstd file, frame after frame; unlike zstandard's own reader, it does not take a broken frame for the end."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._damage = zstandard.ZstdError
        self._file = path.open("rb")
        self._frame = self._new_frame()
        self._inside = False  # a frame has begun and not ended
        self._ready = b""

    def readable(self) -> bool:
        """It can be read."""
        return True

    def close(self) -> None:
        """Close the packed file too."""
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with unpacked bytes; 0 at the end.

        Raises:
            EOFError: the file is damaged, or ends within a frame.
        """
        while not self._ready:
            packed = self._file.read(1 << 16)
            if not packed:
                if self._inside:
                    raise EOFError("the file ends within a zstd frame")
                return 0
            self._ready = self._unpack(packed)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _unpack(self, packed: bytes) -> bytes:
        out = []
        while packed:
            self._inside = True
            try:
                out.append(self._frame.decompress(packed))
            except self._damage as error:
                raise EOFError("not a zstd file, or a damaged one") from error
            packed = b""
            if self._frame.eof:
                packed = self._frame.unused_data
                self._frame, self._inside = self._new_frame(), False
        return b"".join(out)
