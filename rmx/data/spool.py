"""Comparisons on disk, 8 bytes of memory a row: for sets larger than memory (`data.streaming=true`)."""

from __future__ import annotations

import marshal
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from rmx.errors import OutputError
from rmx.records import Comparison, Pair

__all__ = ["Spool", "take"]


class _Open:
    """An open file that is closed with its last user."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class Spool(Sequence[Comparison]):
    """Rows in a nameless file that is gone with the last of its users; `take` gives a part without copying it.

    The file is in the run's folder or, without one, where temporary files go. Rows are written by `marshal`, which is
    for data of one process only, and that is what this is.

    >>> rows = Spool.of([Comparison("a", "s", (), (), (Pair(0, 1),)), Comparison("b", "s", (), (), ())])
    >>> len(rows), rows[1].id, [row.id for row in rows], rows[0].pairs
    (2, 'b', ['a', 'b'], (Pair(winner=0, loser=1, margin=0.0, target=1.0, weight=1.0, tie=False),))
    """

    def __init__(self, file: _Open, starts: array[int], chosen: array[int] | None = None) -> None:
        self._file, self._starts = file, starts  # starts: offset of each row, and of the end
        self._chosen = chosen  # numbers of the rows that this part has; None for all

    @classmethod
    def of(cls, rows: Iterable[Comparison], folder: Path | None = None) -> Spool:
        """Write all rows.

        Raises:
            OutputError: the folder cannot be written to, or is full.
        """
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            number, path = tempfile.mkstemp(prefix=".rows.", dir=folder)
            os.unlink(path)
            starts, end = array("Q", [0]), 0
            with open(number, "wb", buffering=1 << 20, closefd=False) as file:
                for row in rows:
                    end += file.write(marshal.dumps(_plain(row)))
                    starts.append(end)
        except OSError as error:
            where = folder if folder is not None else tempfile.gettempdir()
            raise OutputError(f"data.streaming: cannot keep the rows in {where} ({error.strerror})") from error
        return cls(_Open(number), starts)

    def take(self, numbers: Iterable[int]) -> Spool:
        """The rows with these numbers, in this order."""
        chosen = array("Q", numbers)
        if self._chosen is not None:
            chosen = array("Q", (self._chosen[i] for i in chosen))
        return Spool(self._file, self._starts, chosen)

    def __len__(self) -> int:
        return len(self._starts) - 1 if self._chosen is None else len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Comparison: ...
    @overload
    def __getitem__(self, index: slice) -> Spool: ...
    def __getitem__(self, index: int | slice) -> Comparison | Spool:
        """One row, or a part."""
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        number = range(len(self))[index]
        if self._chosen is not None:
            number = self._chosen[number]
        start, end = self._starts[number], self._starts[number + 1]
        return _row(marshal.loads(os.pread(self._file.number, end - start, start)))

    def __iter__(self) -> Iterator[Comparison]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        """Its size only."""
        return f"Spool({len(self)} comparisons)"


def take(rows: Sequence[Comparison], numbers: Iterable[int]) -> list[Comparison] | Spool:
    """The rows with these numbers, from memory or from disk."""
    return rows.take(numbers) if isinstance(rows, Spool) else [rows[i] for i in numbers]


def _plain(row: Comparison) -> tuple[Any, ...]:
    pairs = [(p.winner, p.loser, p.margin, p.target, p.weight, p.tie) for p in row.pairs]
    return row.id, row.source, row.prompt, row.responses, pairs, row.tools, row.where, row.truth


def _row(plain: tuple[Any, ...]) -> Comparison:
    name, source, prompt, responses, pairs, tools, where, truth = plain
    return Comparison(name, source, prompt, responses, tuple(Pair(*pair) for pair in pairs), tools, where, truth)
