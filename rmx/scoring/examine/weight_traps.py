"""Traps that lie in the weights: not finite, not trained, too coarse in half precision."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from rmx.models.artefact.save import CONTRACT, head_hash
from rmx.models.head import head_of, linear_of
from rmx.scoring.examine.opened import Opened

__all__ = [
    "HALF_TOLERANCE",
    "Found",
    "alignment",
    "alone",
    "clean",
    "half_moves_scores",
    "head_changed",
    "head_untrained",
    "non_finite",
    "trap",
    "unknown",
]

HALF_TOLERANCE = 0.1  # of the standard deviation of the rewards over the ten rows
DRAWS = 9_999
SIGNIFICANT = 0.01
STANDARD_ERRORS = 4.0


class Found(NamedTuple):
    """What a look found: True is a trap, False none, None not to be told here."""

    trapped: bool | None
    detail: str


def trap(detail: str) -> Found:
    """It is there."""
    return Found(True, detail)


def clean(detail: str) -> Found:
    """It is not there."""
    return Found(False, detail)


def unknown(detail: str) -> Found:
    """It cannot be told for this folder."""
    return Found(None, detail)


def non_finite(opened: Opened) -> Found:
    """Are all weights finite numbers?"""
    bad = [
        name
        for name, value in opened.model().state_dict().items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    ]
    if not bad:
        return clean("all weights are finite")
    return trap(f"NaN or infinity in {len(bad)} tensors ({', '.join(bad[:3])}{' ...' * (len(bad) > 3)})")


def head_changed(opened: Opened) -> Found:
    """Is the head the one that the contract names?"""
    expected = opened.contract.get("head", {}).get("sha256")
    if expected is None:
        return unknown(f"no {CONTRACT} names the head of the training")
    return (
        clean("its hash is right") if head_hash(opened.model()) == expected else trap(f"its hash is not {CONTRACT}'s")
    )


def head_untrained(opened: Opened) -> Found:
    """Is the head a fresh draw?

    The spread of its weights alone does not tell: after 20 steps of the tiny model it was still 0.0879, and
    1/sqrt(H+1) is 0.0880. But training turns the head and the hidden states towards each other, while a fresh draw
    knows nothing of them. So both are asked: is the spread that of an initialiser, and do the hidden states of the
    ten rows vary along the head no more than along random directions (`alignment`, p >= 0.01)? A model that was not
    trained is found in 99 of 100 cases.
    """
    weight = linear_of(head_of(opened.model()).module).weight.detach().float()[0]
    if not weight.abs().max() > 0:
        return trap("all its weights are 0")
    spread = float(weight.std())
    starts = {
        "initializer_range": getattr(opened.config.get_text_config(), "initializer_range", None),
        "1/sqrt(H+1)": (weight.numel() + 1) ** -0.5,
    }
    near = [
        f"{name} {start:.4f}"
        for name, start in starts.items()
        if isinstance(start, float)
        and start > 0
        and abs(spread / start - 1) * math.sqrt(2 * weight.numel()) < STANDARD_ERRORS
    ]
    ratio, p = alignment(weight, _head_inputs(opened))
    facts = f"its inputs vary along it {ratio:.1f} times as much as along random directions (p = {p:.4f})"
    if near and p >= SIGNIFICANT:
        return trap(f"std {spread:.4f} is that of {near[0]}, and {facts}")
    return clean(f"std {spread:.4f}; {facts}")


def alignment(weight: torch.Tensor, hidden: torch.Tensor, draws: int = DRAWS) -> tuple[float, float]:
    """Compare the variance of hidden states along a head with that along random heads.

    t(w) = sum_i (w . (h_i - mean h))^2 / |w|^2; the first number is t(weight) over its mean for w ~ N(0, I), the second
    the Monte Carlo p-value (1 + #{t(w) >= t(weight)}) / (draws + 1), exact for a head that was drawn independently of
    the backbone (Davison & Hinkley 1997, section 4.2).

    Args:
        weight: [H].
        hidden: [N, H].

    >>> along = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> ratio, p = alignment(torch.tensor([0.0, 1.0]), along)
    >>> ratio, p
    (0.0, 1.0)
    """
    centred = hidden - hidden.mean(0)
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(draws, weight.numel(), generator=generator)
    null = (random @ centred.T).square().sum(1) / random.square().sum(1)
    own = (centred @ weight).square().sum() / weight.square().sum()
    p = (1 + int((null >= own).sum())) / (draws + 1)
    return float(own / null.mean().clamp(min=1e-30)), p


def _head_inputs(opened: Opened) -> torch.Tensor:
    """What the last linear layer reads for each of the ten rows, [10, H]."""
    model = opened.model()
    seen: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].detach().float().reshape(-1, args[0].shape[-1])[-1])

    handle = linear_of(head_of(model).module).register_forward_pre_hook(keep)
    try:
        alone(opened, torch.float32)
    finally:
        handle.remove()
    return torch.stack(seen)


def half_moves_scores(opened: Opened) -> Found:
    """How far do the rewards move when everything is loaded in bfloat16?"""
    if opened.loading:
        return unknown("the weights are quantised")
    exact, half = alone(opened, torch.float32), alone(opened, torch.bfloat16)
    opened.forget(torch.bfloat16)
    spread = float(torch.tensor(exact).std())
    moved = max(abs(a - b) for a, b in zip(exact, half, strict=True))
    allowed = HALF_TOLERANCE * spread
    facts = f"bfloat16 moves a reward by up to {moved:.4f}; {allowed:.4f} allowed, a tenth of their spread"
    return clean(facts) if moved <= allowed else trap(facts)


@torch.no_grad()
def alone(opened: Opened, dtype: torch.dtype) -> list[float]:
    """The rewards of the ten rows, each scored alone as plain transformers does it."""
    model: Any = opened.model(dtype)
    return [float(model(input_ids=torch.tensor([row], device=model.device)).logits[0, 0]) for row in opened.token_ids]
