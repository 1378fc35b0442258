"""The embedding's gradient, added row by row where a CPU would otherwise write the whole table.

A micro-batch looks up some thousand tokens; autograd answers with a dense gradient of the whole vocabulary, fresh
zeros but for those rows, made and added up again for every micro-batch. For a 128k vocabulary that is up to a
quarter of a small model's step. Here the table is zeroed once per step and each micro-batch adds its own rows:
the same sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["EmbeddingGradient"]


class EmbeddingGradient:
    """Keeps the dense gradient of a model's input embedding from step to step.

    Only on a CPU and in one process: a GPU clears memory in no time and would have to wait for the row numbers, and
    DistributedDataParallel sends dense buckets. A frozen embedding, or a layer that is no plain `nn.Embedding`, is
    left alone.
    """

    def __init__(self, model: Any, *, ranks: int = 1) -> None:
        table = model.get_input_embeddings()
        fits = isinstance(table, nn.Embedding) and table.weight.device.type == "cpu" and ranks == 1
        self.table = table if fits and not (table.sparse or table.scale_grad_by_freq) else None
        self._gradient: torch.Tensor | None = None

    @contextmanager
    def rows_only(self) -> Iterator[None]:
        """Run the forward and backward passes of one optimizer step inside; `weight.grad` is dense as ever after it."""
        if self.table is None or not self.table.weight.requires_grad:
            yield
            return
        weight = self.table.weight
        if weight.grad is None:  # after zero_grad(); clearing memory that is ours is cheaper than asking for new
            self._gradient = torch.zeros_like(weight) if self._gradient is None else self._gradient.zero_()
            weight.grad = self._gradient
        self.table.sparse = True  # autograd then hands over rows, and adds them to a dense gradient in place
        try:
            yield
        finally:
            self.table.sparse = False
