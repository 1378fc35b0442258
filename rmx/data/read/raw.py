"""What every reader yields: `(number, row, fault)`, a dict and None, or None and one reason why there is no row.

A reader never raises for a bad row, so that every row is accounted for.
"""

from __future__ import annotations

import gzip
import zlib
from typing import Any

from rmx.data.accounting import RowFault

__all__ = ["BLANK", "DAMAGE", "RawRow", "RowNumber"]


class RowNumber(int):
    """The number of a row, from 1, in a file whose rows do not stand on lines of their own.

    >>> f"pairs.parquet:{RowNumber(7)}", f"pairs.jsonl:{7}"
    ('pairs.parquet:row 7', 'pairs.jsonl:7')
    """

    def __format__(self, spec: str) -> str:
        """As it stands in a place: `row 7`."""
        return f"row {int(self)}"


RawRow = tuple[int, dict[str, Any] | None, RowFault | None]  # line from 1 or RowNumber, row, fault

BLANK = RowFault("blank line")  # yielded for lines of white space, which are counted, not rejected
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)  # what reading a broken packed file raises
