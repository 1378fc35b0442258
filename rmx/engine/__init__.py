"""The pair engine: every token that responses share is computed once, and no token is padding.

The K responses of a comparison start with the same prompt (P tokens). Computed one by one they cost K prefixes,
and padded into a rectangle also the empty space. Here a comparison is a row, and a micro-batch is one long row:

    comparison    a                       b
    row         [ P P P P  1 1 1  2 2 ] [ P P P  1 1 1 1  2 2 2 ]      T tokens
    positions     0 1 2 3  4 5 6  4 5     0 1 2  3 4 5 6  3 4 5        every response continues the prefix
    scored at                  ^    ^                  ^      ^        N rewards

Embeddings, norms, projections and MLPs work token by token and do not care. Attention does, so only there the
sharing is undone: the row's queries fall into runs, and each run is given the keys of its own full sequence.

    queries       P P P P  1 1 1 | 2 2         keys of run 1   P P P P 1 1 1    causal
                  run 1            run 2       keys of run 2   P P P P 2 2      causal from the bottom right

By causality a prefix token never sees a response, so its state is the same in all K sequences: rewards *and
gradients* are exactly those of each sequence run alone (with dropout, responses also share their prefix's draw).
Models for which that is not so (bidirectional, recurrent, chunked ...) are recognised by `applicability` and get
"flat" rows, padding-free with nothing shared, or at worst "padded" ones. The numbers are the same; the clock is not.

What nobody reads is not computed: no vocabulary logits, the last layer's MLP and queries at the scored tokens only
(`last`), and the scalar head at those, in float32 whatever the backbone's precision: bfloat16 rewards around 10
move in steps of 0.06.

    layout         comparisons -> rows, positions, runs; how many fit into a micro-batch
    attention      the un-sharing, run by run in PyTorch's fused attention; `varlen`: in one kernel call on a GPU
    last, forward  the last layer for the scored tokens; the forward call that returns rewards
    embedding      the vocabulary's gradient without rewriting the vocabulary
    applicability  which encoding a model may use, by a static rule and a numeric probe
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.distributed.tensor import DTensor

from rmx.engine import attention, forward, last, varlen
from rmx.engine.applicability import probe, why_not_rows
from rmx.engine.embedding import EmbeddingGradient
from rmx.engine.layout import Collator, Encoding, Layout, plan
from rmx.errors import ConfigError
from rmx.records import Batch, EncodedComparison

__all__ = ["Collator", "EmbeddingGradient", "Engine", "Layout"]

log = logging.getLogger(__name__)

# oneDNN, which multiplies bfloat16 on a CPU, compiles every matrix shape anew and keeps the last 1024: 0.5 ms and
# 0.65 MB for each product of each new row length (torch 2.13). Rows of few different lengths keep both small.
CPU_BF16_MULTIPLE = 128  # tokens


class Engine:
    """Rewards of comparisons, from a `<Arch>ForSequenceClassification`, bare or inside a PEFT model.

    Args:
        model: The model; plain calls of it behave as before.
        encoding: "auto" shares prefixes where that is exact, "shared" insists on it, "separate" never does.
        precision: "bf16" runs the backbone under autocast; the head is float32 always.

    Raises:
        ConfigError: `encoding="shared"` for a model that sharing would not be exact for.
    """

    def __init__(
        self,
        model: Any,
        *,
        encoding: Literal["auto", "shared", "separate"] = "auto",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self.wrapper, self.model = model, classifier_of(model)
        self.wanted, self.precision, self.kernel = encoding, precision, "per_run"
        self.multiple_of = CPU_BF16_MULTIPLE if precision == "bf16" and self.model.device.type == "cpu" else 1
        forward.return_rewards(self.model)
        self.encoding, self.reason = self._resolve()
        config = self.model.config.get_text_config()
        self.collator = Collator(self.encoding, config.pad_token_id or 0, self.multiple_of)
        log.debug("Encoding: %s, because %s", self.encoding, self.reason)

    def with_precision(self, precision: Literal["fp32", "bf16"]) -> Engine:
        """The same model at another precision, probed anew because another kernel may run it."""
        return self if precision == self.precision else Engine(self.wrapper, encoding=self.wanted, precision=precision)

    @property
    def attention(self) -> str:
        """Name of the attention implementation that the model runs with."""
        return self.model.config._attn_implementation

    def tokens(self, comparison: EncodedComparison) -> int:
        """Token positions that the model computes for `comparison` on its own."""
        return self.collator.cost([comparison])

    def plan(self, comparisons: Sequence[EncodedComparison], max_tokens: int) -> list[list[int]]:
        """Split into micro-batches of at most `max_tokens` computed tokens; returns indices into `comparisons`."""
        return plan(self.collator, comparisons, max_tokens)

    def collate(self, comparisons: Sequence[EncodedComparison]) -> Batch:
        """Lay out `comparisons` as one batch. `engine.collator` does the same where there is no model."""
        return self.collator(comparisons)

    def rewards(self, batch: Batch, model: Any = None) -> torch.Tensor:
        """Rewards [N] float32 of the batch's responses, in their order (float64 for a float64 model).

        `model` is the module to call where the engine's own is wrapped once more (DistributedDataParallel).
        """
        return self._run(batch, self.wrapper if model is None else model)

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Hidden states [N, H] at the scored tokens: what the head sees."""
        return self._run(batch, self.wrapper, states_only=True)

    def detach(self) -> None:
        """Give the model its own forward and attention back."""
        forward.unbind(self.model)
        attention.uninstall(self.model)
        last.widen(self.model)

    def _run(self, batch: Batch, model: Any, states_only: bool = False) -> torch.Tensor:
        device = self.model.device
        layout = None if batch.layout is None else batch.layout.on(device, self.kernel)
        divided = isinstance(next(self.model.parameters()), DTensor)
        call = forward.Call(layout, self.precision == "bf16", states_only, copy=divided)
        tensors = {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "attention_mask": batch.attention_mask,
        }
        inputs = {name: t.to(device, non_blocking=True) for name, t in tensors.items() if t is not None}
        return model(**inputs, rmx=call)

    def _resolve(self) -> tuple[Encoding, str]:
        """The encoding to use and why, in half a sentence."""
        reason = why_not_rows(self.model, self.wrapper)
        if reason is None and not attention.install(self.model):
            reason = "transformers does not let its attention be replaced"
        if reason is None:
            last.narrow(self.model)
            encoding: Encoding = "flat" if self.wanted == "separate" else "shared"
            # Weights on the meta device have no numbers: whoever plans with them goes by the static rule alone.
            reason = None if self.model.device.type == "meta" else self._probe(encoding)
            if reason is None:
                reasons = {"flat": "separate rows were asked for", "shared": "a shared prefix changes no reward"}
                return encoding, f"{reasons[encoding]} (attention: {self.attention}, {self.kernel})"
        if self.wanted == "shared":
            raise ConfigError(
                f"trainer.encoding: 'shared' would change the rewards of {type(self.model).__name__}: {reason}; "
                "allowed here: auto, separate"
            )
        return "padded", reason

    def _probe(self, encoding: Encoding) -> str | None:
        """Settle on the first attention kernel that is exact on the probe; if none is, say why the last was not."""
        dtype = torch.bfloat16 if self.precision == "bf16" else self.model.dtype
        for kernel in [*varlen.candidates(self.model.device, dtype), "per_run"]:
            self.kernel = kernel
            try:
                wrong = probe(self, encoding).failure(dtype)
            except (RuntimeError, TypeError, ValueError) as failure:  # a kernel or a model that takes other shapes
                reason = f"a probe of {encoding} rows failed: {str(failure).splitlines()[0][:200]}"
                continue
            if wrong is None:
                return None
            reason = f"{encoding} rows {wrong}"
        return reason


def classifier_of(model: torch.nn.Module) -> Any:
    """The transformers model inside PEFT or other wrappers: the first one on the way in."""
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise TypeError(f"{type(model).__name__} holds no transformers model")
