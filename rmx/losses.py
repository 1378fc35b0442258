"""Losses on (winner, loser) rewards: pure functions, one term per pair, in nats.

Every loss has the same shape, so that a YAML file can choose one by name and the trainer can call any:

    loss(winner_M, loser_M, pairs, *, knobs...) -> terms_M

M counts pairs. The terms are not yet weighted or averaged: the trainer takes `sum(weight * term) / sum(weight)`
over the pairs of the whole optimizer step, on all ranks, because a mean per micro-batch would let pairs of small
batches count more. Half-precision rewards are lifted to float32 first (float64 stays, for gradient checks).

What a row of preference data may say besides "this one is better" comes in `pairs`: `margin` (by how much),
`target` (share of annotators who agree), `tie` (no winner). Without `pairs` all are at their neutral values.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from rmx.values import AtLeastZero, Positive, checked

if TYPE_CHECKING:  # torch is imported when a loss is first computed: configurations are checked without it
    from torch import Tensor

    from rmx.records import PairTable

__all__ = ["bradley_terry", "davidson", "focal", "hinge", "plackett_luce", "rao_kupper"]

_checked = checked("loss")


@_checked
def bradley_terry(
    winner_M: Tensor,
    loser_M: Tensor,
    pairs: PairTable | None = None,
    *,
    margin: float = 0.0,
    label_smoothing: Annotated[float, Interval(ge=0, lt=0.5)] = 0.0,
    center_coefficient: AtLeastZero = 0.0,
) -> Tensor:
    """Cross entropy of the Bradley–Terry model, the standard reward-model loss.

    With `z = winner - loser - margin - pairs.margin` and `t` the smoothed target:
    `-t log σ(z) - (1 - t) log σ(-z) + center_coefficient (winner + loser)²`
    (Bradley & Terry 1952; margin: Llama 2, arXiv 2307.09288, eq. 2; centering: Eisenstein et al. 2023,
    arXiv 2312.09244, appendix, which fixes the constant that differences of rewards leave free).
    A pair called a tie has target 1/2 and no margin.

    Args:
        winner_M: rewards of the preferred responses, [M].
        loser_M: rewards of the others, [M].
        pairs: per-pair margin, target and tie flag.
        margin: reward units by which every winner should lead, added to the pair's own.
        label_smoothing: share ε of labels held to be wrong: the target becomes `t (1 - ε) + (1 - t) ε`; in [0, 0.5).
        center_coefficient: weight of `(winner + loser)²`, ≥ 0; 0.01 is the paper's choice.

    Returns:
        Terms in nats, [M].

    Raises:
        ConfigError: a knob is outside its range.

    >>> import torch
    >>> [round(x, 4) for x in bradley_terry(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])).tolist()]
    [0.6931, 0.1269]
    """
    winner_M, loser_M = _full(winner_M), _full(loser_M)
    z_M = winner_M - loser_M - _margin(pairs, margin)
    target = _target(pairs)
    target = target * (1.0 - label_smoothing) + (1.0 - target) * label_smoothing
    terms_M = target * _softplus(-z_M) + (1.0 - target) * _softplus(z_M)
    return _centered(terms_M, winner_M, loser_M, center_coefficient)


@_checked
def focal(
    winner_M: Tensor,
    loser_M: Tensor,
    pairs: PairTable | None = None,
    *,
    gamma: AtLeastZero = 2.0,
    margin: float = 0.0,
    center_coefficient: AtLeastZero = 0.0,
) -> Tensor:
    """Bradley–Terry with the terms of pairs that are already right turned down: `(1 - p)^γ · (-log p)`.

    `p = σ(winner - loser - margin - pairs.margin)` (Lin et al. 2017, arXiv 1708.02002, eq. 4). Soft targets mix the
    two outcomes; `gamma=0` is `bradley_terry`.

    Raises:
        ConfigError: `gamma` or `center_coefficient` is negative.

    At p = 1/2 and γ = 2: 0.25 · 0.6931.

    >>> import torch
    >>> round(focal(torch.tensor([1.0]), torch.tensor([1.0])).item(), 4)
    0.1733
    """
    winner_M, loser_M = _full(winner_M), _full(loser_M)
    z_M = winner_M - loser_M - _margin(pairs, margin)
    target = _target(pairs)
    # (1 - σ(z))^γ = exp(-γ softplus(z)): stays exact where 1 - σ(z) would round to 0.
    right_M = (-gamma * _softplus(z_M)).exp() * _softplus(-z_M)
    wrong_M = (-gamma * _softplus(-z_M)).exp() * _softplus(z_M)
    return _centered(target * right_M + (1.0 - target) * wrong_M, winner_M, loser_M, center_coefficient)


@_checked
def hinge(
    winner_M: Tensor,
    loser_M: Tensor,
    pairs: PairTable | None = None,
    *,
    margin: Positive = 1.0,
    center_coefficient: AtLeastZero = 0.0,
) -> Tensor:
    """Pairwise hinge: `max(0, margin + pairs.margin - (winner - loser))` (ranking SVM; Joachims 2002).

    A soft target t mixes it with the hinge of the opposite order; a tie is t = 1/2 without the pair's margin.
    The terms are reward units, not nats, and the rewards have no probabilistic reading: look at accuracy, not
    calibration.

    Raises:
        ConfigError: `margin` is not above 0 (the loss would be 0 for equal rewards) or centering is negative.

    >>> import torch
    >>> hinge(torch.tensor([2.0, 0.5]), torch.tensor([0.0, 0.0])).tolist()
    [0.0, 0.5]
    """
    winner_M, loser_M = _full(winner_M), _full(loser_M)
    lead_M = winner_M - loser_M
    wanted = _margin(pairs, margin, tie_margin=margin)
    target = _target(pairs)
    terms_M = target * (wanted - lead_M).relu() + (1.0 - target) * (wanted + lead_M).relu()
    return _centered(terms_M, winner_M, loser_M, center_coefficient)


@_checked
def rao_kupper(
    winner_M: Tensor,
    loser_M: Tensor,
    pairs: PairTable | None = None,
    *,
    tie_threshold: Positive = 0.5,
    margin: float = 0.0,
    center_coefficient: AtLeastZero = 0.0,
) -> Tensor:
    """Bradley–Terry with a third outcome: rewards closer than a threshold η tend to be called a tie.

    With d = winner - loser:  P(win) = σ(d - η),  P(loss) = σ(-d - η),  P(tie) = (e^{2η} - 1) σ(d - η) σ(-d - η);
    the three add to 1 (Rao & Kupper 1967, with θ = e^η). Pairs flagged `tie` take -log P(tie), others the cross
    entropy of their target between win and loss, with d reduced by the margins.

    Args:
        winner_M: rewards of the preferred responses (either one for a tie), [M].
        loser_M: rewards of the others, [M].
        pairs: per-pair margin, target and tie flag.
        tie_threshold: η in reward units, above 0; at equal rewards the model says tie with probability
            (e^η - 1) / (e^η + 1): 0.24 for 0.5, 0.46 for 1.
        margin: reward units by which every winner should lead.
        center_coefficient: weight of `(winner + loser)²`.

    Returns:
        Terms in nats, [M].

    Raises:
        ConfigError: `tie_threshold` is not above 0: a tie would be impossible and its loss infinite.

    >>> import torch
    >>> round(rao_kupper(torch.tensor([0.0]), torch.tensor([0.0]), tie_threshold=0.5).item(), 4)  # -log σ(-0.5)
    0.9741
    """
    winner_M, loser_M = _full(winner_M), _full(loser_M)
    d_M = winner_M - loser_M - _margin(pairs, margin)
    win_M, loss_M = _softplus(tie_threshold - d_M), _softplus(tie_threshold + d_M)
    tie_M = win_M + loss_M - math.log(math.expm1(2.0 * tie_threshold))
    return _centered(_outcome(pairs, win_M, loss_M, tie_M), winner_M, loser_M, center_coefficient)


@_checked
def davidson(
    winner_M: Tensor,
    loser_M: Tensor,
    pairs: PairTable | None = None,
    *,
    tie_prevalence: Positive = 1.0,
    margin: float = 0.0,
    center_coefficient: AtLeastZero = 0.0,
) -> Tensor:
    """Bradley–Terry with ties whose odds are ν times the geometric mean of the two strengths.

    With d = winner - loser, (win, loss, tie) have the logits (d/2, -d/2, log ν) (Davidson 1970). At equal rewards
    a tie has probability ν / (2 + ν): 1/3 for ν = 1. Flags, targets and margins as in `rao_kupper`.

    Raises:
        ConfigError: `tie_prevalence` (ν) is not above 0.

    >>> import torch
    >>> round(davidson(torch.tensor([0.0]), torch.tensor([0.0])).item(), 4)  # log 3
    1.0986
    """
    import torch

    winner_M, loser_M = _full(winner_M), _full(loser_M)
    half_M = 0.5 * (winner_M - loser_M - _margin(pairs, margin))
    log_nu_M = torch.full_like(half_M, math.log(tie_prevalence))
    total_M = torch.logsumexp(torch.stack((half_M, -half_M, log_nu_M)), dim=0)
    terms_M = _outcome(pairs, total_M - half_M, total_M + half_M, total_M - log_nu_M)
    return _centered(terms_M, winner_M, loser_M, center_coefficient)


@_checked
def plackett_luce(
    winner_M: Tensor,
    loser_M: Tensor,
    pairs: PairTable | None = None,
    *,
    margin: float = 0.0,
) -> Tensor:
    """Negative log likelihood of whole rankings: each winner against *all* that it beats at once.

    For a ranking r_1 > r_2 > ... > r_K: `Σ_i log(1 + Σ_{j > i} exp(r_j - r_i))` (Plackett 1975, Luce 1959). Pairs
    that name the same winner (`pairs.winner`) form one such term, which is spread evenly over them; so when all
    K (K - 1) / 2 pairs of a ranked comparison are in the batch, its terms add to exactly the likelihood of the
    ranking. For K = 2 it is `bradley_terry`. Tied pairs stand outside the grouping, as Bradley–Terry with target
    1/2. Targets other than ties are not used: a ranking has no vote share.

    Three responses with equal rewards: log 3 + log 2 over three pairs, log 3 shared by the first winner's two.

    >>> import torch
    >>> from rmx.records import PairTable
    >>> one = torch.ones(3)
    >>> pairs = PairTable(winner=torch.tensor([0, 0, 1]), loser=torch.tensor([1, 2, 2]), margin=0 * one,
    ...                   target=one, weight=one, tie=torch.zeros(3, dtype=torch.bool))
    >>> [round(x, 4) for x in plackett_luce(torch.zeros(3), torch.zeros(3), pairs).tolist()]
    [0.5493, 0.5493, 0.6931]
    """
    import torch

    z_M = _full(winner_M) - _full(loser_M) - _margin(pairs, margin)
    if pairs is None:
        return _softplus(-z_M)
    # An [M, M] mask instead of torch.unique: no host synchronisation, and M is at most some hundreds.
    own_MM = torch.eye(len(z_M), dtype=torch.bool, device=z_M.device)
    ranked_M = ~pairs.tie
    same_MM = (pairs.winner[:, None] == pairs.winner[None, :]) & ranked_M[:, None] & ranked_M[None, :] | own_MM
    lead_M = torch.logsumexp(torch.where(same_MM, -z_M[None, :], -math.inf), dim=1)
    terms_M = _softplus(lead_M) / same_MM.sum(dim=1)
    return torch.where(pairs.tie, 0.5 * (_softplus(z_M) + _softplus(-z_M)), terms_M)


# --- what the losses share ---


def _softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), which is -log σ(-x)."""
    from torch.nn.functional import softplus

    return softplus(x)


def _full(rewards: Tensor) -> Tensor:
    """At least float32: in bfloat16 a reward near 20 has steps of 0.125."""
    return rewards if rewards.dtype.itemsize == 8 else rewards.float()


def _margin(pairs: PairTable | None, margin: float, tie_margin: float = 0.0) -> Tensor | float:
    """The lead asked of each winner; nobody leads in a tie."""
    if pairs is None:
        return margin
    return (pairs.margin + margin).masked_fill(pairs.tie, tie_margin)


def _target(pairs: PairTable | None) -> Tensor | float:
    if pairs is None:
        return 1.0
    return pairs.target.masked_fill(pairs.tie, 0.5)


def _outcome(pairs: PairTable | None, win_M: Tensor, loss_M: Tensor, tie_M: Tensor) -> Tensor:
    """Cross entropy of a three-way outcome from the negative log probabilities of the three."""
    if pairs is None:
        return win_M
    return tie_M.where(pairs.tie, pairs.target * win_M + (1.0 - pairs.target) * loss_M)


def _centered(terms_M: Tensor, winner_M: Tensor, loser_M: Tensor, coefficient: float) -> Tensor:
    return terms_M + coefficient * (winner_M + loser_M).square() if coefficient else terms_M
