"""Length statistics of preference data: how long, who is longer, and what a model that only counts would get right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rmx.records import Comparison, EncodedComparison, Message

if TYPE_CHECKING:
    import numpy as np

__all__ = ["character_lengths", "token_lengths"]

_PERCENTILES = (5, 25, 50, 75, 95, 99)


def character_lengths(sets: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    """Statistics in characters; works for any language and needs no tokenizer."""
    tables = {name: _Table(map(_character_row, rows)) for name, rows in sets.items()}
    return _statistics("characters", tables)


def token_lengths(sets: Mapping[str, Sequence[EncodedComparison]]) -> dict[str, Any]:
    """Statistics in tokens of rows as they are trained on; who is longer, of those that were not truncated."""
    tables = {name: _Table(map(_token_row, rows)) for name, rows in sets.items()}
    return _statistics("tokens", tables)


Lengths = tuple[int, tuple[int, ...], Iterator[tuple[int, int]]]  # shared, per response beyond it, (winner, loser)


def _character_row(row: Comparison) -> Lengths:
    return _size(row.prompt), tuple(map(_size, row.responses)), _decided(row)


def _token_row(row: EncodedComparison) -> Lengths:
    # Of a truncated comparison the sides are as long as the limit lets them: they say nothing about who is longer.
    decided = iter(()) if row.truncated else _decided(row)
    return len(row.prefix_ids), tuple(map(len, row.suffix_ids)), decided


def _decided(row: Comparison | EncodedComparison) -> Iterator[tuple[int, int]]:
    return ((pair.winner, pair.loser) for pair in row.pairs if not pair.tie and pair.target > 0.5)


def _size(messages: Sequence[Message]) -> int:
    return sum(len(message["content"]) for message in messages)


class _Table:
    """The lengths of one set as arrays."""

    def __init__(self, rows: Iterator[Lengths]) -> None:
        import numpy as np

        shared: list[int] = []
        responses: list[int] = []
        longest: list[int] = []
        winners: list[int] = []
        losers: list[int] = []
        self.whole = self.in_prefix = 0
        for prefix, beyond, pairs in rows:
            shared.append(prefix)
            responses.extend(beyond)
            longest.append(prefix + max(beyond))
            self.whole += prefix * len(beyond) + sum(beyond)
            self.in_prefix += prefix * len(beyond)
            for winner, loser in pairs:
                winners.append(beyond[winner])
                losers.append(beyond[loser])
        self.shared, self.responses, self.longest = np.array(shared), np.array(responses), np.array(longest)
        self.winners, self.losers = np.array(winners), np.array(losers)

    def longer_wins(self) -> tuple[int, int, int]:
        """Pairs whose longer, shorter, and equally long side is preferred."""
        return (
            int((self.winners > self.losers).sum()),
            int((self.winners < self.losers).sum()),
            int((self.winners == self.losers).sum()),
        )


def _statistics(unit: str, tables: Mapping[str, _Table]) -> dict[str, Any]:
    """The numbers of all sets; the length-only rule takes its direction from the training rows.

    A model that knows only the lengths can do no better than to prefer always the longer, or always the shorter
    side: any increasing function of the difference gives the same choices. Equal lengths count as half.
    """
    train = tables.get("train")
    longer, shorter, _ = train.longer_wins() if train is not None else (0, 0, 0)
    prefers = "longer" if longer >= shorter else "shorter"
    return {
        "unit": unit,
        "rule": f"prefer the {prefers} response",
        "sets": {name: _one(table, prefers) for name, table in tables.items() if len(table.shared)},
    }


def _one(table: _Table, prefers: str) -> dict[str, Any]:
    from rmx.metrics import wilson_interval  # numpy; a configuration is checked without it

    longer, shorter, equal = table.longer_wins()
    pairs = longer + shorter + equal
    out: dict[str, Any] = {
        "prompt": _percentiles(table.shared),
        "response": _percentiles(table.responses),
        "sequence": _percentiles(table.longest),
        "total": table.whole,
        "shared_prefix_share": table.in_prefix / table.whole if table.whole else 0.0,
        "histogram": _histogram({"preferred": table.winners, "other": table.losers}),
    }
    if pairs:
        right = (longer if prefers == "longer" else shorter) + 0.5 * equal
        low, high = wilson_interval(right, pairs)
        out.update(
            pairs=pairs,
            longer_preferred=longer / pairs,
            shorter_preferred=shorter / pairs,
            equally_long=equal / pairs,
            length_only_accuracy=right / pairs,
            length_only_accuracy_low=low,
            length_only_accuracy_high=high,
        )
    return out


def _percentiles(values: np.ndarray) -> dict[str, float]:
    import numpy as np

    at = np.percentile(values, _PERCENTILES)
    named = {f"p{p}": float(value) for p, value in zip(_PERCENTILES, at, strict=True)}
    return {"min": float(values.min()), **named, "max": float(values.max()), "mean": float(values.mean())}


def _histogram(series: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Counts in bins that double every two steps, so that short and long texts both have room."""
    import numpy as np

    top = max((int(values.max()) for values in series.values() if len(values)), default=1)
    edges = [0.0]
    while edges[-1] <= top:
        edges.append(float(round(8 * 2 ** ((len(edges) - 1) / 2))))
    return {"edges": edges, **{name: np.histogram(values, edges)[0].tolist() for name, values in series.items()}}
