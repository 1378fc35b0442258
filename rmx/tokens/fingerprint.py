"""What training reads of its rows, as a number per set: equal on all ranks, and equal when a run continues."""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence
from typing import Any

import xxhash

from rmx.records import EncodedComparison

__all__ = ["rows_facts"]


def rows_facts(sets: Mapping[str, Sequence[EncodedComparison]]) -> dict[str, dict[str, Any]]:
    """Return the number of comparisons of each set and a hash of all that training reads of them, order included."""
    return {name: {"comparisons": len(rows), "content": content_hash(rows)} for name, rows in sets.items()}


def content_hash(rows: Sequence[EncodedComparison]) -> str:
    """Return the xxh3_128 of ids, token ids and pairs."""
    digest = xxhash.xxh3_128()
    for row in rows:
        pairs = [(p.winner, p.loser, p.margin, p.target, p.weight, p.tie) for p in row.pairs]
        digest.update(repr((row.id, row.source, row.lengths, pairs)).encode("utf-8", "surrogatepass"))
        for ids in (row.prefix_ids, *row.suffix_ids):
            digest.update(array.array("q", ids).tobytes())
    return digest.hexdigest()
