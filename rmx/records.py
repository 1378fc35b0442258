"""The nouns of rmx: what flows from a data file to a reward. Frozen, without logic.

    row ──read──▶ Comparison ──encode──▶ EncodedComparison ──collate──▶ Batch ──engine──▶ rewards [N]

Letters used for sizes, here and everywhere:
    C  comparisons in a batch (one prompt each)       K  responses of one comparison (2 for a pair)
    N  distinct responses in a batch, sum of the K    M  (winner, loser) pairs in a batch
    T  tokens in a padding-free row                   P  tokens of a shared prefix
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Batch", "Comparison", "EncodedComparison", "Message", "Pair", "PairTable"]

# {"role": "user" | "assistant" | "system" | "tool", "content": str}, and what chat templates know besides
# (tool_calls, name, ...). A plain dict, because every chat template takes exactly that.
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference: response number `winner` beats response number `loser` of the same comparison."""

    winner: int
    loser: int
    margin: float = 0.0  # reward units by which the winner should lead (Llama 2, eq. 2)
    target: float = 1.0  # share of annotators who prefer the winner; 0.5 when they are split
    weight: float = 1.0  # how much this pair counts in loss and metrics' weighted means
    tie: bool = False  # the annotators called it a tie: a third outcome, not a split vote


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt, K ≥ 2 responses and which response beats which."""

    id: str  # unique within a run; the row's own id, or "source:line"
    source: str  # name of the dataset the row came from: per-source metrics use it
    prompt: tuple[Message, ...]  # may be empty
    responses: tuple[tuple[Message, ...], ...]  # K responses; each one or more messages (agent trajectories)
    pairs: tuple[Pair, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    where: str = ""  # "file:line", for error messages
    truth: tuple[float, ...] | None = None  # K true rewards in Bradley–Terry logits, where they are known


@dataclass(frozen=True, slots=True)
class EncodedComparison:
    """Token ids of one comparison: full sequence k is `prefix_ids + suffix_ids[k]`, scored at its last token.

    `prefix_ids` is the longest common *token* prefix of all K sequences, cut so that every suffix keeps at
    least its last token. Ids are lists of Python ints or int32 arrays.
    """

    id: str
    source: str
    prefix_ids: Any  # [P]
    suffix_ids: tuple[Any, ...]  # K × [S_k], S_k ≥ 1
    pairs: tuple[Pair, ...]
    truncated: bool = False
    truth: tuple[float, ...] | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token count of each of the K full sequences."""
        return tuple(len(self.prefix_ids) + len(suffix) for suffix in self.suffix_ids)

    @property
    def shared_tokens(self) -> int:
        """Tokens that have to be computed when the prefix is computed once: P + sum of S_k."""
        return len(self.prefix_ids) + sum(len(suffix) for suffix in self.suffix_ids)


@dataclass(slots=True)
class PairTable:
    """Which of a batch's N rewards beats which, with what the losses need to know of each pair."""

    winner: torch.Tensor  # [M] int64, index into the batch's N rewards
    loser: torch.Tensor  # [M] int64
    margin: torch.Tensor  # [M] float32
    target: torch.Tensor  # [M] float32
    weight: torch.Tensor  # [M] float32
    tie: torch.Tensor  # [M] bool

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairTable:
        """Return the same table on `device`."""
        return PairTable(**{name: getattr(self, name).to(device, non_blocking=non_blocking) for name in self.__slots__})


@dataclass(slots=True)
class Batch:
    """What one forward pass takes: token rows, where rewards are read, and which response beats which.

    Padding-free encodings have one row [1, T]; the padded fallback has [N, T] and an `attention_mask`.
    `layout` is private to the engine.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor | None
    attention_mask: torch.Tensor | None
    pool_index: torch.Tensor  # [N] int64, flat index of the scored token of each response
    pairs: PairTable
    ids: tuple[str, ...]  # [C] the comparisons, for messages
    tokens: int  # token positions that the model computes for this batch, padding included
    layout: Any = None
    extra: dict[str, Any] = field(default_factory=dict)
