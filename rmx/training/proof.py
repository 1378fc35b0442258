"""The saved artefact is the trained model: it is loaded afresh, and scores some rows as the model in memory did.

one process, or whole models     the first process loads it as others will (`verify_artefact`)
divided weights                  every process reads its part of the new files, and all score together: neither a
                                 host nor a process holds the whole
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from rmx.errors import ArtefactError, ModelError
from rmx.models import RewardModelSource, verify_artefact
from rmx.models.artefact.verify import Verification, room
from rmx.models.loaded import LoadedModel
from rmx.models.unread import ReadWholeError
from rmx.training.strategies import OneProcess

__all__ = ["prove"]

log = logging.getLogger(__name__)


def prove(
    strategy: OneProcess,
    folder: Path,
    trained: LoadedModel,
    token_ids: Sequence[Sequence[int]],
    expected: Sequence[float],
    *,
    device: torch.device,
    max_tokens_per_batch: int,
) -> Verification:
    """Load an artefact and compare its scores with those of the model that it was saved from; all processes call it.

    Args:
        strategy: how the trained model is divided.
        folder: the artefact.
        trained: the model in memory, without optimizer and gradients.
        token_ids: as of `verify_artefact`.
        expected: their rewards from the model in memory.
        device: of this process.
        max_tokens_per_batch: padded positions computed at once.

    Raises:
        ArtefactError: it scores otherwise, or does not load; in every process.
    """
    options: dict[str, Any] = {"device": str(device), "max_tokens_per_batch": max_tokens_per_batch}
    if strategy.divides_again:
        with room(held(trained.model), trained.model, device):
            checked = _prove_in_parts(strategy, folder, trained, token_ids, expected, options)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
        if checked is not None:
            return checked
    beside = None if strategy.divided else trained.model
    return strategy.first(lambda: verify_artefact(folder, token_ids, expected, beside=beside, **options))


def _prove_in_parts(
    strategy: OneProcess,
    folder: Path,
    trained: LoadedModel,
    token_ids: Sequence[Sequence[int]],
    expected: Sequence[float],
    options: dict[str, Any],
) -> Verification | None:
    saved = _parts_of(strategy, folder, trained)
    if saved is None:
        return None
    strategy.divide_again(saved.model, saved.unread)
    return strategy.everywhere(
        lambda: verify_artefact(folder, token_ids, expected, loaded=saved.model, whole=strategy.whole, **options)
    )


def _parts_of(strategy: OneProcess, folder: Path, trained: LoadedModel) -> LoadedModel | None:
    """Build the saved model without its weights; None, and a line in the log, where it has to be read whole."""
    source = RewardModelSource(
        path=str(folder), dtype=trained.source.dtype, attn_implementation=trained.source.attn_implementation
    )

    def build() -> LoadedModel | str:
        if not folder.is_dir():
            return f"process {strategy.process} does not see {folder}"
        try:
            return source.load(trainable=False, divided=True, parts_only=True)
        except ReadWholeError as why:
            return str(why)
        except ModelError as error:
            raise ArtefactError(f"{folder} does not load: {error}") from error

    built = strategy.everywhere(build)
    whole = isinstance(built, str)
    if strategy.largest([int(whole)]) == [0]:
        return built if isinstance(built, LoadedModel) else None
    log.info(
        "The first process loads the whole of %s to check it: %s",
        folder,
        built if whole else "another process cannot read its part",
    )
    return None


def held(model: torch.nn.Module) -> int:
    """Return the bytes of a model's parameters that this process has.

    >>> held(torch.nn.Linear(3, 2))
    32
    """
    parts = (p.to_local() if isinstance(p, DTensor) else p for p in model.parameters())
    return sum(part.numel() * part.element_size() for part in parts)
