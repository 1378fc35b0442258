"""What `model=` says: which checkpoint, in which precision, with which head. Cheap to build; `load` does the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, MinLen

from rmx.errors import ConfigError
from rmx.models.tiny import TINY
from rmx.values import refuse_wrong_fields

if TYPE_CHECKING:
    from rmx.models.adapters import Adapter
    from rmx.models.loaded import LoadedModel
    from rmx.models.resolve import Resolved

__all__ = ["RewardModelSource"]


@dataclass(frozen=True)
class RewardModelSource:
    """Where a reward model starts from: a base model, a finished reward model, or the embedded tiny one.

    Building one touches neither disk nor network; `load` does.

    Attributes:
        name: Short name, used in folder names and reports; by default that of the folder or repository.
        path: Local folder or hub id; None or "tiny" is the embedded model.
        dtype: Precision of the backbone's weights. "auto": float32 when all weights are trained (they are the
            optimiser's master copy; `trainer.bf16` autocasts the computation), else what the checkpoint is
            stored in. The head is float32 always: a bfloat16 reward near 20 moves in steps of 0.125.
        attn_implementation: Attention kernel; "auto" is sdpa where the architecture has it, else eager. Always
            passed on explicitly, so that no checkpoint's config can choose code to run (CVE-2026-4372).
        quantization: bitsandbytes weights of the frozen base under an adapter. None: those that a finished adapter
            was trained on, else the weights as they are stored; "none": always as they are stored.
        revision: Branch, tag or commit of a hub id.
        head_init: "keep" keeps the head of a checkpoint that is a reward model already, and draws a normal one
            for a checkpoint without; "normal" always draws N(0, 1/(H+1)), variance as in OpenRLHF; "zero"
            starts every reward at 0.
        freeze_layers: Number of lowest transformer layers kept frozen, the embeddings with them; -1 trains the
            head alone.
        dropout: False sets the base model's own dropout to 0 (an adapter's dropout is its own).
        tokenizer_path: Local folder or hub id of another tokenizer.

    >>> RewardModelSource().embedded, RewardModelSource(path="Qwen/Qwen3-4B").name
    (True, 'Qwen3-4B')
    >>> RewardModelSource(name="x", path="org/x", freeze_layers=-2)
    Traceback (most recent call last):
    rmx.errors.ConfigError: model.freeze_layers: -2 is not an integer from -1 up
    """

    name: str = ""
    path: Annotated[str, MinLen(1)] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3"] = "auto"
    quantization: Literal["8bit", "4bit", "none"] | None = None
    revision: str | None = None
    head_init: Literal["keep", "normal", "zero"] = "keep"
    freeze_layers: Annotated[int, Ge(-1)] = 0
    dropout: bool = False
    tokenizer_path: str | None = None

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "model")
        if not self.name:
            object.__setattr__(self, "name", _name_of(self.path))
        if self.embedded and (self.quantization or self.revision or self.tokenizer_path):
            raise ConfigError("model.path: the embedded tiny model has no revision, quantization or other tokenizer")

    @property
    def embedded(self) -> bool:
        """Whether this is the model that rmx carries in its code."""
        return self.path is None or self.path == TINY

    def locate(self) -> Resolved | None:
        """Find the local files, downloading a hub id; None for the embedded model, which has none.

        `load` does this too. Called alone it tells within a second, before any heavy import, that a model cannot
        be had.

        Raises:
            ModelError: There is no such folder or id, no permission, or no network; the message says which.
        """
        from rmx.models.resolve import resolve

        return None if self.path is None or self.embedded else resolve(self.path, self.revision)

    def load(
        self,
        *,
        adapter: Adapter | None = None,
        trainable: bool = True,
        seed: int = 0,
        device: str | None = None,
        divided: bool = False,
        parts_only: bool = False,
    ) -> LoadedModel:
        """Load weights and tokenizer, and put the scalar head (and the adapter) in place.

        Args:
            adapter: Train this adapter and the head instead of all weights.
            trainable: False for evaluation: nothing requires a gradient, weights stay as they are stored.
            seed: Seeds the head, the adapter and the embedded model: the same seed gives the same weights.
            device: Where to, e.g. "cuda:0"; None leaves the model on the CPU (the trainer moves it).
            divided: Leave the weights in their files where each process can read its part of them later
                (`LoadedModel.unread`); nothing is moved to `device`.
            parts_only: With `divided`, refuse a model that every process would have to read whole.

        Raises:
            ReadWholeError: It cannot be read in parts.
            ModelError: It cannot be found, reached or used; the message says which and what to do.
        """
        place = self.locate()  # first, because it may fail: the imports of the next line take seconds
        from rmx.models.load import load_model

        return load_model(
            self,
            place,
            adapter=adapter,
            trainable=trainable,
            seed=seed,
            device=device,
            divided=divided,
            parts_only=parts_only,
        )


def _name_of(path: str | None) -> str:
    """Name a model by its repository or folder; a run's `model/` by the run.

    >>> _name_of("org/name"), _name_of("outputs/hh/model/"), _name_of(None)
    ('name', 'hh', 'tiny')
    """
    parts = [part for part in (path or TINY).split("/") if part not in {"", "."}]
    own = [part for part in parts if part not in {"model", "model-merged"}]
    return (own or parts or ["model"])[-1]
