"""Expected numbers are derived in each test's docstring; σ is the logistic function."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rmx import losses
from rmx.errors import ConfigError
from rmx.records import PairTable

ALL = [getattr(losses, name) for name in losses.__all__]


def table(
    size: int,
    *,
    winner: list[int] | None = None,
    loser: list[int] | None = None,
    margin: list[float] | None = None,
    target: list[float] | None = None,
    tie: list[bool] | None = None,
) -> PairTable:
    return PairTable(
        winner=torch.tensor(winner or [2 * i for i in range(size)]),
        loser=torch.tensor(loser or [2 * i + 1 for i in range(size)]),
        margin=torch.tensor(margin or [0.0] * size),
        target=torch.tensor(target or [1.0] * size),
        weight=torch.ones(size),
        tie=torch.tensor(tie or [False] * size),
    )


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_bradley_terry_by_hand() -> None:
    """-log σ(d) for d = 0, log 3, -log 3: log 2; σ = 3/4 gives log 4/3; σ = 1/4 gives log 4."""
    d = math.log(3)
    terms = losses.bradley_terry(column(0.0, d, 0.0), column(0.0, 0.0, d))
    torch.testing.assert_close(terms, column(math.log(2), math.log(4 / 3), math.log(4)))


def test_margins_of_knob_and_pair_add() -> None:
    """d = 2 + log 3 with margin 0.5 from the knob and 1.5 from the pair: z = log 3, log 4/3."""
    pairs = table(1, margin=[1.5])
    terms = losses.bradley_terry(column(2 + math.log(3)), column(0.0), pairs, margin=0.5)
    torch.testing.assert_close(terms, column(math.log(4 / 3)))


def test_soft_target_is_cross_entropy() -> None:
    """t = 0.7 at d = log 3: 0.7 log 4/3 + 0.3 log 4 = 0.2014 + 0.4159."""
    terms = losses.bradley_terry(column(math.log(3)), column(0.0), table(1, target=[0.7]))
    torch.testing.assert_close(terms, column(0.7 * math.log(4 / 3) + 0.3 * math.log(4)))


def test_soft_target_is_minimal_at_its_own_log_odds() -> None:
    """The gradient σ(d) - t vanishes at d = log(t / (1 - t)) = log 3 for t = 3/4."""
    d = torch.tensor([math.log(3)], requires_grad=True)
    losses.bradley_terry(d, column(0.0), table(1, target=[0.75])).sum().backward()
    assert d.grad is not None
    torch.testing.assert_close(d.grad, column(0.0), atol=1e-6, rtol=0)


def test_label_smoothing_is_a_soft_target() -> None:
    """ε = 0.1 on t = 1 is t = 0.9; on t = 0.75 it is 0.75 · 0.9 + 0.25 · 0.1 = 0.7."""
    winner, loser = column(math.log(3), math.log(3)), column(0.0, 0.0)
    smoothed = losses.bradley_terry(winner, loser, table(2, target=[1.0, 0.75]), label_smoothing=0.1)
    soft = losses.bradley_terry(winner, loser, table(2, target=[0.9, 0.7]))
    torch.testing.assert_close(smoothed, soft)


def test_centering_adds_the_squared_sum() -> None:
    """(3 + 1)² · 0.01 = 0.16 above log(1 + e^-2)."""
    terms = losses.bradley_terry(column(3.0), column(1.0), center_coefficient=0.01)
    torch.testing.assert_close(terms, column(math.log1p(math.exp(-2)) + 0.16))


def test_tie_under_bradley_terry_is_an_even_split_without_margin() -> None:
    """d = log 3: (log 4/3 + log 4) / 2; the pair's margin of 5 does not count."""
    terms = losses.bradley_terry(column(math.log(3)), column(0.0), table(1, tie=[True], margin=[5.0]), margin=1.0)
    torch.testing.assert_close(terms, column((math.log(4 / 3) + math.log(4)) / 2))


def test_focal_by_hand() -> None:
    """p = 3/4, γ = 2: (1/4)² log 4/3; γ = 0 is Bradley–Terry."""
    winner, loser = column(math.log(3)), column(0.0)
    torch.testing.assert_close(losses.focal(winner, loser), column(math.log(4 / 3) / 16))
    torch.testing.assert_close(losses.focal(winner, loser, gamma=0.0), losses.bradley_terry(winner, loser))


def test_hinge_by_hand() -> None:
    """Margins 1 + pair's 0 or 1: leads 3, 0.25, -1 give 0, 0.75, 1 + 1 + 1."""
    terms = losses.hinge(column(3.0, 0.25, 0.0), column(0.0, 0.0, 1.0), table(3, margin=[0.0, 0.0, 1.0]))
    torch.testing.assert_close(terms, column(0.0, 0.75, 3.0))


def test_hinge_of_a_tie_is_symmetric() -> None:
    """d = 2 and -2: half of max(0, 1 - 2) plus half of max(0, 1 + 2) = 1.5 either way."""
    terms = losses.hinge(column(2.0, 0.0), column(0.0, 2.0), table(2, tie=[True, True]))
    torch.testing.assert_close(terms, column(1.5, 1.5))


@pytest.mark.parametrize("d", [-3.0, 0.0, 0.4, 5.0])
@pytest.mark.parametrize("loss", [losses.rao_kupper, losses.davidson])
def test_three_outcomes_add_to_one(loss: Callable[..., Tensor], d: float) -> None:
    """P(win) + P(loss) + P(tie) = 1 at every d; the loss of the swapped pair is the third."""
    pairs = table(3, tie=[False, False, True])
    terms = loss(column(d, 0.0, d), column(0.0, d, 0.0), pairs)
    assert math.isclose(torch.exp(-terms).sum().item(), 1.0, rel_tol=1e-5)


def test_rao_kupper_by_hand() -> None:
    """θ = e^η = 2, strengths 3 and 1: win 3 / (3 + 2) = 0.6, tie (4 - 1) · 3 / ((3 + 2)(2 · 3 + 1)) = 9/35."""
    winner, loser = column(math.log(3), math.log(3)), column(0.0, 0.0)
    terms = losses.rao_kupper(winner, loser, table(2, tie=[False, True]), tie_threshold=math.log(2))
    torch.testing.assert_close(terms, column(-math.log(0.6), -math.log(9 / 35)))


def test_davidson_by_hand() -> None:
    """ν = 2, strengths 4 and 1: √(4 · 1) · 2 = 4, total 4 + 1 + 4 = 9: win 4/9, tie 4/9."""
    winner, loser = column(math.log(4), math.log(4)), column(0.0, 0.0)
    terms = losses.davidson(winner, loser, table(2, tie=[False, True]), tie_prevalence=2.0)
    torch.testing.assert_close(terms, column(math.log(9 / 4), math.log(9 / 4)))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_plackett_luce_sums_to_the_ranking_likelihood(size: int) -> None:
    """All pairs of a ranking: Σ_i [log Σ_{j ≥ i} e^{r_j} - r_i], computed stage by stage."""
    rewards = torch.randn(size, generator=torch.Generator().manual_seed(size))
    winner, loser = (list(side) for side in zip(*itertools.combinations(range(size), 2), strict=True))
    pairs = table(len(winner), winner=winner, loser=loser)
    stages = [torch.logsumexp(rewards[i:], dim=0) - rewards[i] for i in range(size - 1)]
    total = losses.plackett_luce(rewards[winner], rewards[loser], pairs).sum()
    torch.testing.assert_close(total, torch.stack(stages).sum())


def test_plackett_luce_keeps_comparisons_apart() -> None:
    """Two comparisons in one batch share no term: each gives what it gives alone, and K = 2 is Bradley–Terry."""
    rewards = column(0.3, -1.0, 2.0, 0.5, 1.5)
    ranked = table(3, winner=[0, 0, 1], loser=[1, 2, 2])
    both = table(4, winner=[0, 3, 0, 1], loser=[1, 4, 2, 2])
    alone = losses.plackett_luce(rewards[ranked.winner], rewards[ranked.loser], ranked)
    mixed = losses.plackett_luce(rewards[both.winner], rewards[both.loser], both)
    torch.testing.assert_close(mixed[[0, 2, 3]], alone)
    torch.testing.assert_close(mixed[1:2], losses.bradley_terry(rewards[3:4], rewards[4:5]))


def test_plackett_luce_leaves_ties_out_of_the_ranking() -> None:
    """Winner 0 beats 1 (d = 0) and ties with 2 (d = log 3): log 2, and the even split of a tie."""
    pairs = table(2, winner=[0, 0], loser=[1, 2], tie=[False, True])
    terms = losses.plackett_luce(column(0.0, 0.0), column(0.0, -math.log(3)), pairs)
    torch.testing.assert_close(terms, column(math.log(2), (math.log(4 / 3) + math.log(4)) / 2))


@pytest.mark.parametrize("loss", ALL)
def test_no_overflow_at_extreme_rewards(loss: Callable[..., Tensor]) -> None:
    """Rewards 2 000 apart in either order: finite terms and gradients where exp would overflow."""
    winner = torch.tensor([1e3, -1e3, 1e3], requires_grad=True)
    loser = torch.tensor([-1e3, 1e3, -1e3], requires_grad=True)
    terms = loss(winner, loser, table(3, tie=[False, False, True]))
    terms.sum().backward()
    assert winner.grad is not None and loser.grad is not None
    assert torch.isfinite(torch.cat((terms, winner.grad, loser.grad))).all()


@pytest.mark.parametrize("loss", ALL)
def test_gradients(loss: Callable[..., Tensor]) -> None:
    """Finite differences in float64 on hard, soft, margin and tied pairs, with two pairs sharing a winner."""
    generator = torch.Generator().manual_seed(1)
    winner = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    loser = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    pairs = table(
        5,
        winner=[0, 0, 2, 3, 0],
        loser=[1, 4, 5, 6, 7],
        margin=[0.0, 0.5, 0.0, 0.2, 0.1],
        target=[1.0, 0.8, 0.6, 1.0, 1.0],
        tie=[False, False, False, False, True],
    )
    knobs = {"center_coefficient": 0.05} if "center_coefficient" in inspect.signature(loss).parameters else {}
    assert torch.autograd.gradcheck(lambda w, r: loss(w, r, pairs, **knobs), (winner, loser))


@pytest.mark.parametrize("loss", ALL)
def test_half_precision_rewards_are_lifted(loss: Callable[..., Tensor]) -> None:
    """bfloat16 in, float32 out, as if the rewards had been cast before."""
    winner, loser = column(0.5, 2.0), column(0.25, 3.0)
    terms = loss(winner.bfloat16(), loser.bfloat16())
    assert terms.dtype == torch.float32 and terms.shape == (2,)
    torch.testing.assert_close(terms, loss(winner, loser))


@pytest.mark.parametrize("loss", ALL)
def test_no_table_means_neutral_table(loss: Callable[..., Tensor]) -> None:
    winner, loser = column(0.5, 2.0), column(0.25, 3.0)
    torch.testing.assert_close(loss(winner, loser), loss(winner, loser, table(2)))


@pytest.mark.parametrize(
    ("loss", "knobs", "key"),
    [
        (losses.bradley_terry, {"label_smoothing": 0.5}, "loss.label_smoothing"),
        (losses.bradley_terry, {"center_coefficient": -1.0}, "loss.center_coefficient"),
        (losses.focal, {"gamma": -1.0}, "loss.gamma"),
        (losses.hinge, {"margin": 0.0}, "loss.margin"),
        (losses.rao_kupper, {"tie_threshold": 0.0}, "loss.tie_threshold"),
        (losses.davidson, {"tie_prevalence": math.nan}, "loss.tie_prevalence"),
    ],
)
def test_knobs_outside_their_range(loss: Callable[..., Tensor], knobs: dict[str, float], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        loss(column(1.0), column(0.0), **knobs)


def test_matches_trl() -> None:
    """`-logsigmoid(chosen - rejected - margin)`, as trl.RewardTrainer writes it."""
    generator = torch.Generator().manual_seed(0)
    winner, loser, margin = torch.randn(3, 64, generator=generator)
    expected = -torch.nn.functional.logsigmoid(winner - loser - margin)
    torch.testing.assert_close(losses.bradley_terry(winner, loser, table(64, margin=margin.tolist())), expected)
