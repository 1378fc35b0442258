"""How comparisons become token rows, and how many of them fit into one micro-batch. No model is needed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from rmx.records import Batch, EncodedComparison, PairTable

__all__ = ["Collator", "Layout", "pair_table", "plan"]

Encoding = Literal["shared", "flat", "padded"]


@dataclass(slots=True)
class Layout:
    """Which keys each run of consecutive queries of a padding-free row sees.

    Run i holds `q_lens[i]` queries and sees `k_lens[i] >= q_lens[i]` keys. Its queries are the *last* ones of
    its sequence, so causality is aligned to the bottom right: query a sees key b when b <= a + k - q.
    `kv_index` lists the row positions of all runs' keys, one run after the other; None when every run sees
    exactly itself. Lengths are Python ints: reading them never waits for a GPU.
    """

    q_lens: tuple[int, ...]
    k_lens: tuple[int, ...]
    kv_index: torch.Tensor | None
    pool_index: torch.Tensor  # row position of each run's last query: the scored tokens
    scored_only: bool = False  # the queries are those of `pool_index` alone
    kernel: str = "per_run"  # or a name of `varlen.KERNELS`; the engine decides
    masks: dict[tuple[int, int, int], torch.Tensor] = field(default_factory=dict)  # made once, used by every layer
    cumulative: list[torch.Tensor] = field(default_factory=list)
    windows: list[int | None] = field(default_factory=list)  # what each layer gave as its window, for the probe

    def on(self, device: torch.device, kernel: str = "per_run") -> Layout:
        """Return the same layout for `device` and for attention by `kernel`."""
        index = None if self.kv_index is None else self.kv_index.to(device, non_blocking=True)
        pool_index = self.pool_index.to(device, non_blocking=True)
        return replace(self, kv_index=index, pool_index=pool_index, kernel=kernel, masks={}, cumulative=[])

    def last(self) -> Layout:
        """The layout of the last layer: one query per run, the scored one, sees the same keys."""
        ones = (1,) * len(self.q_lens)
        return replace(self, q_lens=ones, scored_only=True, masks={}, cumulative=[])

    def mask(self, queries: int, keys: int, window: int, device: torch.device) -> torch.Tensor:
        """Boolean [queries, keys]: causal from the bottom right, reaching back `window` keys (its own included)."""
        found = self.masks.get((queries, keys, window))
        if found is None:
            found = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
            if window < keys:
                found = found.triu(keys - queries - window + 1)
            self.masks[queries, keys, window] = found
        return found

    def boundaries(self, device: torch.device) -> list[torch.Tensor]:
        """Where the runs' queries and where their keys begin and end, 2 × [runs + 1] int32 (flash's cu_seqlens)."""
        if not self.cumulative:
            both = torch.tensor([(0, *self.q_lens), (0, *self.k_lens)]).cumsum(1, dtype=torch.int32)
            self.cumulative += both.to(device, non_blocking=True).unbind()
        return self.cumulative


@dataclass(frozen=True, slots=True)
class Collator:
    """Turns comparisons into a `Batch`. Small and picklable, so that DataLoader workers need no model.

    >>> from rmx.records import EncodedComparison, Pair
    >>> c = EncodedComparison("a", "s", [7, 8, 9], ([1, 2], [3]), (Pair(0, 1),))
    >>> batch = Collator("shared")([c])
    >>> batch.input_ids.tolist(), batch.position_ids.tolist()
    ([[7, 8, 9, 1, 2, 3]], [[0, 1, 2, 3, 4, 3]])
    >>> batch.pool_index.tolist(), batch.layout.q_lens, batch.layout.k_lens, batch.layout.kv_index.tolist()
    ([4, 5], (5, 1), (5, 4), [0, 1, 2, 3, 4, 0, 1, 2, 5])
    >>> Collator("padded", pad_token_id=0)([c]).input_ids.tolist()
    [[7, 8, 9, 1, 2], [7, 8, 9, 3, 0]]

    `multiple_of` fills a padding-free row up to a multiple of so many tokens, for kernels that are compiled for each
    new length. The filler comes last, sees nothing and is seen by nothing.

    >>> Collator("shared", multiple_of=4)([c]).input_ids.tolist()
    [[7, 8, 9, 1, 2, 3, 0, 0]]
    """

    encoding: Encoding
    pad_token_id: int = 0
    multiple_of: int = 1

    def __call__(self, comparisons: Sequence[EncodedComparison]) -> Batch:
        """Lay out `comparisons` and index their pairs; rewards come in the order of their responses."""
        if self.encoding == "padded":
            return self._padded(comparisons)
        return self._row(comparisons)

    def cost(self, comparisons: Sequence[EncodedComparison]) -> int:
        """Token positions that the model computes for a batch of `comparisons`, padding included."""
        if self.encoding == "shared":
            return sum(c.shared_tokens for c in comparisons)
        if self.encoding == "flat":
            return sum(sum(c.lengths) for c in comparisons)
        lengths = [length for c in comparisons for length in c.lengths]
        return len(lengths) * max(lengths, default=0)

    def _row(self, comparisons: Sequence[EncodedComparison]) -> Batch:
        """One row [1, T]: prefix and suffixes of each comparison ("shared"), or its whole sequences ("flat")."""
        ids, positions, keys, q_lens, k_lens = [], [], [], [], []
        start = 0  # row position of the comparison's first token
        for comparison in comparisons:
            prefix = np.asarray(comparison.prefix_ids, dtype=np.int64)
            end = start
            for k, suffix in enumerate(comparison.suffix_ids):
                length = len(prefix) + len(suffix)
                reused = len(prefix) if k > 0 and self.encoding == "shared" else 0
                ids += [suffix] if reused or not len(prefix) else [prefix, suffix]
                positions.append(np.arange(reused, length))
                q_lens.append(length - reused)
                k_lens.append(length)
                keys += [np.arange(start, start + reused), np.arange(end, end + length - reused)]
                end += length - reused
            start = end
        kv_index = _tensor(keys) if q_lens != k_lens else None
        filler = -start % self.multiple_of
        ids.append([self.pad_token_id] * filler)
        positions.append(np.zeros(filler, dtype=np.int64))
        pool_index = torch.tensor(q_lens).cumsum(0) - 1  # a run ends with its scored token
        return Batch(
            input_ids=_tensor(ids)[None],
            position_ids=_tensor(positions)[None],
            attention_mask=None,
            pool_index=pool_index,
            pairs=pair_table(comparisons),
            ids=tuple(c.id for c in comparisons),
            tokens=start + filler,
            layout=Layout(tuple(q_lens), tuple(k_lens), kv_index, pool_index),
        )

    def _padded(self, comparisons: Sequence[EncodedComparison]) -> Batch:
        """One row per response, [N, T], padded on the right. The mask comes from lengths, never from pad ids."""
        rows = [
            np.concatenate([np.asarray(part, dtype=np.int64) for part in (c.prefix_ids, suffix)])
            for c in comparisons
            for suffix in c.suffix_ids
        ]
        lengths = torch.tensor([len(row) for row in rows])
        width = int(lengths.max())
        input_ids = torch.full((len(rows), width), self.pad_token_id)
        for target, row in zip(input_ids, rows, strict=True):
            target[: len(row)] = torch.from_numpy(row)
        return Batch(
            input_ids=input_ids,
            position_ids=None,
            attention_mask=(torch.arange(width) < lengths[:, None]).long(),
            pool_index=torch.arange(len(rows)) * width + lengths - 1,
            pairs=pair_table(comparisons),
            ids=tuple(c.id for c in comparisons),
            tokens=input_ids.numel(),
        )


def plan(collator: Collator, comparisons: Sequence[EncodedComparison], max_tokens: int) -> list[list[int]]:
    """Split `comparisons` into micro-batches of at most `max_tokens` computed tokens; returns their indices.

    A comparison that is larger than the budget gets a micro-batch of its own. Longest first, which wastes
    little of the budget, puts rows of like length together where they are padded, and shows a lack of memory
    at once rather than after an hour.

    >>> from rmx.records import EncodedComparison
    >>> three = [EncodedComparison(str(n), "s", [0] * n, ([1],), ()) for n in (3, 9, 4)]
    >>> plan(Collator("shared"), three, max_tokens=9)
    [[1], [2, 0]]
    """
    length = [max(c.lengths) for c in comparisons]
    batches: list[list[int]] = []
    used = rows = width = 0
    for index in sorted(range(len(comparisons)), key=lambda i: (-length[i], i)):
        comparison = comparisons[index]
        if collator.encoding == "padded":  # the first comparison of a micro-batch is its longest
            after = (rows + len(comparison.suffix_ids)) * max(width, length[index])
        else:
            after = used + collator.cost([comparison])
        if not batches or after > max_tokens:
            batches.append([])
            rows, width = 0, length[index]
            after = collator.cost([comparison])
        batches[-1].append(index)
        used, rows = after, rows + len(comparison.suffix_ids)
    return batches


def pair_table(comparisons: Sequence[EncodedComparison]) -> PairTable:
    """All pairs of `comparisons`, as indices into the batch's N rewards."""
    pairs, first = [], 0  # `first`: index of the comparison's first reward
    for comparison in comparisons:
        pairs += [(pair, first) for pair in comparison.pairs]
        first += len(comparison.suffix_ids)
    return PairTable(
        winner=torch.tensor([first + pair.winner for pair, first in pairs], dtype=torch.int64),
        loser=torch.tensor([first + pair.loser for pair, first in pairs], dtype=torch.int64),
        margin=torch.tensor([pair.margin for pair, _ in pairs], dtype=torch.float32),
        target=torch.tensor([pair.target for pair, _ in pairs], dtype=torch.float32),
        weight=torch.tensor([pair.weight for pair, _ in pairs], dtype=torch.float32),
        tie=torch.tensor([pair.tie for pair, _ in pairs], dtype=torch.bool),
    )


def _tensor(parts: Sequence[object]) -> torch.Tensor:
    """Join lists or arrays of integers into one int64 tensor."""
    return torch.from_numpy(np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]))
