"""Proof of the artefact: load it as others will, and score rows that were scored before it was saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from rmx.errors import ArtefactError, ModelError
from rmx.models.artefact.save import CONTRACT, head_hash
from rmx.models.quantization import as_stored, quantization_in
from rmx.models.quiet import quiet
from rmx.models.tensor_files import json_object

__all__ = ["Verification", "room", "verify_artefact"]

ACTIVATIONS = 2**30  # bytes left for a batch of the check
FLOAT32_PARAMETERS = 2 * 10**9  # 8 GB; a larger model is proved in the precision it is stored in


@dataclass(frozen=True)
class Verification:
    """What the fresh load gave beside what was expected."""

    rows: int
    max_difference: float  # in reward units
    tolerance: float  # the allowed difference at reward 1
    order_changes: int  # neighbouring rows whose order is another one
    dtype: str


def verify_artefact(
    folder: str | Path,
    token_ids: Sequence[Sequence[int]],
    expected: Sequence[float],
    *,
    tolerance: float | None = None,
    device: str | None = None,
    max_tokens_per_batch: int = 4096,
    beside: torch.nn.Module | None = None,
    loaded: torch.nn.Module | None = None,
    whole: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach,
) -> Verification:
    """Load the artefact with plain `AutoModelForSequenceClassification` and score rows as TRL and others do.

    The rows are padded on the right and scored in batches, and the first one also alone: padding must not count.

    Args:
        token_ids: Rendered and tokenised conversations, each ending at its scored token.
        expected: Their rewards from the model in memory.
        tolerance: Allowed |difference| / max(1, |reward|). None is 1e-4 where weights and computation are float32;
            0.05 where either was in half precision; 0.25 where the fresh model is in half precision too, for plain
            loading then rounds the head and the adapter as well. (It is loaded in float32 up to 2e9 parameters.)
        device: Where to score, e.g. "cuda:0"; None is the CPU.
        max_tokens_per_batch: Padded positions computed at once; a longer row stands alone.
        beside: The model in memory. Where `device` has no room for the saved one next to it, it waits in the host's
            memory for as long as the check takes.
        loaded: The artefact, where it was loaded in another way: read in parts and divided among processes, each of
            which calls this. Half precision has then rounded neither head nor adapter.
        whole: Makes a weight of `loaded` whole, in every process.

    Raises:
        ArtefactError: A reward differs by more, or the head on disk is not the one that was trained.

    """
    folder = Path(folder)
    if not token_ids or len(token_ids) != len(expected):
        raise ValueError(f"{len(token_ids)} rows and {len(expected)} rewards: give at least one row, one reward each")
    contract = json_object(folder / CONTRACT) if (folder / CONTRACT).exists() else {}
    place = torch.device(device or "cpu")
    needed = None if loaded is not None or quantization_in(contract) is not None else _plain_bytes(contract)
    with room(needed, beside, place):  # quantised weights stay where they are
        model: Any = _load_plain(folder, contract, device or "cpu") if loaded is None else loaded
        dtype = model.dtype
        if loaded is not None or dtype == torch.float32:  # else the head is rounded too
            _check_head(folder, model, contract, whole)
        got = _score(model, token_ids, contract, max_tokens_per_batch, place)
        del model
    stored_half = contract.get("model", {}).get("dtype", str(dtype)) not in ("float32", "torch.float32")
    if tolerance is None:
        half = stored_half or contract.get("precision") not in (None, "fp32")
        tolerance = 0.25 if loaded is None and dtype != torch.float32 else 0.05 if half else 1e-4
    wanted = torch.tensor([*expected, expected[0]], dtype=torch.float32)
    difference = (torch.tensor(got) - wanted).abs()
    worst = int(torch.nan_to_num(difference / wanted.abs().clamp(min=1), nan=torch.inf).argmax())
    if not difference[worst] <= tolerance * max(1.0, abs(float(wanted[worst]))):
        row = "the first row alone" if worst == len(expected) else f"row {worst}"
        raise ArtefactError(
            f"{folder}: loaded afresh, {row} scores {got[worst]:.6f} where the run scored {float(wanted[worst]):.6f} "
            f"(allowed difference {tolerance:g}): the saved model is not the trained one, do not use it"
        )
    return Verification(
        rows=len(expected),
        max_difference=float(difference.max()),
        tolerance=tolerance,
        order_changes=_order_changes(got[: len(expected)], list(expected)),
        dtype=str(dtype).removeprefix("torch."),
    )


def _load_plain(folder: Path, contract: dict[str, Any], device: str) -> PreTrainedModel:
    """As others load it; only a base that was quantised in training is so here too, or two models are compared."""
    large = contract.get("model", {}).get("parameters", 0) > FLOAT32_PARAMETERS
    base = quantization_in(contract)
    extra: dict[str, Any] = {} if base is None else {"quantization_config": base.config(), "device_map": {"": device}}
    try:
        with quiet():
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=1, trust_remote_code=False, dtype="auto" if large else torch.float32, **extra
            )
    except (OSError, ValueError, RuntimeError, KeyError, ModelError) as error:
        raise ArtefactError(f"{folder} does not load with AutoModelForSequenceClassification: {error}") from None
    as_stored(model)
    return model.eval() if base is not None else model.to(device).eval()


def _check_head(
    folder: Path, model: PreTrainedModel, contract: dict[str, Any], whole: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    expected = contract.get("head", {}).get("sha256")
    if expected is None:
        return
    weights = model.state_dict(keep_vars=True)
    if head_hash(model, lambda name: whole(weights[name])) != expected:
        raise ArtefactError(f"{folder}: the head on disk is not the trained one (its hash differs from {CONTRACT})")


def _plain_bytes(contract: dict[str, Any]) -> int:
    parameters = contract.get("model", {}).get("parameters", 0)
    return parameters * (2 if parameters > FLOAT32_PARAMETERS else 4)


@contextmanager
def room(needed: int | None, beside: torch.nn.Module | None, device: torch.device) -> Iterator[None]:
    """Move the model in memory to the host while the device has no room for another one.

    Args:
        needed: Bytes of the other one's weights; None leaves the model where it is.
        beside: The model in memory, or this process's parts of it.
        device: Where it is, and where the other one goes.
    """
    fits = device.type != "cuda" or needed is None or torch.cuda.mem_get_info(device)[0] > needed + ACTIVATIONS
    if fits or beside is None:
        yield
        return
    beside.to("cpu")
    torch.cuda.empty_cache()
    try:
        yield
    finally:
        beside.to(device)


@torch.no_grad()
def _score(
    model: Any, rows: Sequence[Sequence[int]], contract: dict[str, Any], budget: int, device: torch.device
) -> list[float]:
    """Score all rows, longest first, and the first one once more, alone."""
    # An adapter's base knows no padding; TRL and others hand it over from the tokenizer, as here.
    config = model.config.get_text_config()
    pad = config.pad_token_id = contract.get("tokenization", {}).get("padding_token_id", config.pad_token_id)
    rewards = [0.0] * len(rows)
    for part in _batches(rows, budget):
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(list(rows[i]), dtype=torch.long) for i in part], batch_first=True, padding_value=pad
        )
        lengths = torch.tensor([len(rows[i]) for i in part])
        mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        for i, reward in zip(part, logits[:, 0].float().tolist(), strict=True):
            rewards[i] = reward
    alone = model(input_ids=torch.tensor([list(rows[0])], device=device)).logits
    return [*rewards, float(alone[0, 0])]


def _batches(rows: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """Indices of the rows, longest first, in batches of at most `budget` padded positions.

    >>> list(_batches([[1] * 3, [1] * 5, [1] * 2, [1] * 9], 8))
    [[3], [1], [0, 2]]
    """
    part: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        if part and len(rows[part[0]]) * (len(part) + 1) > budget:
            yield part
            part = []
        part.append(i)
    yield part


def _order_changes(got: list[float], expected: list[float]) -> int:
    pairs = zip(pairwise(got), pairwise(expected), strict=True)
    return sum((a > b) != (c > d) for (a, b), (c, d) in pairs)
