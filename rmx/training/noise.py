"""NEFTune: noise on the input embeddings while training (Jain et al. 2023, arXiv 2310.05914)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rmx.records import Batch

__all__ = ["EmbeddingNoise", "sequence_lengths"]


def sequence_lengths(batch: Batch) -> Tensor:
    """Return the length of the sequence that each position of a batch belongs to, [rows, T]; 0 for padding.

    In a row whose responses share their prompt, a response's tokens have the length of prompt + response, and the
    prompt's tokens the mean of those lengths over the responses that share it.

    A prompt of 3 tokens with responses of 2 and 4 tokens: sequences of 5 and 7, the prompt's mean is 6.

    >>> from rmx.engine import Collator
    >>> from rmx.records import EncodedComparison, Pair
    >>> c = EncodedComparison("a", "s", [7, 8, 9], ([1, 2], [3, 4, 5, 6]), (Pair(0, 1),))
    >>> sequence_lengths(Collator("shared", multiple_of=10)([c])).tolist()
    [[6.0, 6.0, 6.0, 5.0, 5.0, 7.0, 7.0, 7.0, 7.0, 0.0]]
    >>> sequence_lengths(Collator("padded")([c])).tolist()[0]
    [5.0, 5.0, 5.0, 5.0, 5.0, 0.0, 0.0]
    """
    if batch.layout is None:
        mask = batch.attention_mask
        if mask is None:
            raise ValueError("a padded batch has an attention mask")
        return mask.sum(1, keepdim=True) * mask.float()
    lengths = torch.zeros(batch.input_ids.shape, dtype=torch.float32)
    start, prompt = 0, 0
    shared: list[int] = []  # lengths of the sequences that share the prompt
    for queries, keys in zip(batch.layout.q_lens, batch.layout.k_lens, strict=True):
        lengths[0, start : start + queries] = keys
        if queries == keys:  # a first response comes with its prompt
            prompt, shared = start, []
        shared.append(keys)
        lengths[0, prompt : prompt + keys - queries] = sum(shared) / len(shared)
        start += queries
    return lengths


class EmbeddingNoise:
    """Adds uniform noise of size α / sqrt(L d) to the embeddings in training: L tokens of the sequence, d hidden size.

    L is the sequence's own length, whatever is computed beside it, so the noise does not depend on
    `max_tokens_per_micro_batch`. Responses share their prompt's draw, as they share its dropout.

    Args:
        model: any transformers model, or a PEFT model around one.
        alpha: `trainer.neftune_noise_alpha`; None adds nothing.
    """

    def __init__(self, model: Any, alpha: float | None) -> None:
        self.alpha = alpha
        self._scale: Tensor | None = None
        self._handle = None
        if alpha:
            self._handle = model.get_input_embeddings().register_forward_hook(self._add)

    @contextmanager
    def of(self, batch: Batch) -> Iterator[None]:
        """Run the forward pass of a batch inside."""
        if not self.alpha:
            yield
            return
        lengths = sequence_lengths(batch)
        self._scale = torch.where(lengths > 0, self.alpha * lengths.clamp(min=1).rsqrt(), 0.0)
        try:
            yield
        finally:
            self._scale = None

    def _add(self, module: Any, inputs: Any, output: Tensor) -> Tensor | None:
        if self._scale is None:
            return None
        scale = (self._scale / math.sqrt(output.shape[-1])).to(output.device, output.dtype)[..., None]
        return output + torch.empty_like(output).uniform_(-1, 1) * scale

    def remove(self) -> None:
        """Take the noise off the model."""
        if self._handle is not None:
            self._handle.remove()
