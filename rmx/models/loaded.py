"""`LoadedModel`: a reward model in memory, with its tokenizer and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rmx.models.adapters import Adapter
    from rmx.models.quantization import Quantization
    from rmx.models.source import RewardModelSource
    from rmx.models.unread import Unread

__all__ = ["LoadedModel"]


@dataclass
class LoadedModel:
    """A reward model in memory with its tokenizer and what is to be known of where it came from."""

    model: PreTrainedModel  # <Arch>ForSequenceClassification with one label, or a PeftModel around it
    tokenizer: PreTrainedTokenizerBase  # pad token set, and not the end token
    source: RewardModelSource
    base_path: str  # hub id or absolute folder of the weights below the adapter; "tiny" for the embedded model
    revision: str | None  # commit of the hub id
    head_name: str  # "score"; "classifier" in encoders
    head_was_kept: bool  # the checkpoint brought its head
    adapter: Adapter | None
    base_changed: bool  # the weights below the adapter are at no base_path: they go into the artefact as well
    parameters: int
    trainable_parameters: int
    dtype: str  # of the backbone
    attn_implementation: str
    max_positions: int | None  # longest sequence the model knows positions for; None without a limit
    is_encoder: bool  # reads in both directions and scores with its own pooling
    notes: list[str] = field(default_factory=list)  # one sentence for each thing that loading decided
    folder: Path | None = None  # the local files it was read from
    quantization: Quantization | None = None  # of the weights below the adapter
    initial_adapter: dict[str, torch.Tensor] | None = None  # PiSSA: the adapter that was taken out of the base
    fused: str | None = None  # which kernels of Liger stand in its place
    unread: dict[str, Unread] = field(default_factory=dict)  # weights that are on the meta device, and where they lie

    @property
    def head(self) -> torch.nn.Module:
        """The scalar head: hidden state [..., H] to reward [..., 1]."""
        from rmx.models.head import head_of

        return head_of(self.model).module
