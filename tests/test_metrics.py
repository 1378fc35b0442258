"""Expected numbers are derived in each test's docstring."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from rmx import metrics
from rmx.errors import DataError, NonFiniteError
from rmx.metrics.pairs import effective_pairs


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_pair_metrics_by_hand() -> None:
    """Margins 2, -1, 0, 1: strictly above 2 of 4, one tie; rewards 3 1 | 0 1 | 2 2 | 1 0, mean 1.25."""
    numbers = metrics.pair_metrics([3, 0, 2, 1], [1, 1, 2, 0])
    assert numbers["pairs"] == 4
    assert numbers["accuracy"] == 0.5
    assert numbers["accuracy_ties_half"] == 0.625
    assert numbers["tie_rate"] == 0.25
    assert numbers["margin"] == 0.5
    assert numbers["chosen_reward"] == 1.5
    assert numbers["rejected_reward"] == 1.0
    # squares of 3 1 0 1 2 2 1 0 sum to 20: 20 / 8 - 1.25² = 0.9375
    assert numbers["reward_std"] == pytest.approx(math.sqrt(0.9375))
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.e) + math.log(2) + math.log1p(math.exp(-1))) / 4
    assert numbers["loss"] == pytest.approx(expected)


def test_pooled_not_a_mean_of_batch_means() -> None:
    """9 rows of which 3 are right: 1/3, whatever the batches; batches of 4, 4, 1 with 1, 1, 1 right would say 1/2."""
    chosen = np.array([1, 0, 0, 0, 1, 0, 0, 0, 1])
    assert metrics.pair_metrics(chosen, 1 - chosen)["accuracy"] == pytest.approx(1 / 3)


def test_labelled_ties_count_in_the_loss_only() -> None:
    """Two decided pairs, one right; the tie's rewards (9, 0) touch neither accuracy nor margin."""
    numbers = metrics.pair_metrics([1, 0, 9], [0, 1, 0], tie=[False, False, True], loss=[1.0, 2.0, 6.0])
    assert (numbers["pairs"], numbers["labelled_ties"]) == (3, 1)
    assert (numbers["accuracy"], numbers["margin"], numbers["loss"]) == (0.5, 0.0, 3.0)


def test_only_labelled_ties_have_no_accuracy() -> None:
    numbers = metrics.pair_metrics([1.0], [0.0], tie=[True])
    assert "accuracy" not in numbers and numbers["labelled_ties"] == 1


def test_weights_are_repetitions() -> None:
    """Weight 3 on a right pair and 1 on a wrong one: accuracy 3/4, margin (3 · 2 - 1) / 4, std as of repeated rows."""
    weighted = metrics.pair_metrics([2, 0], [0, 1], weight=[3, 1])
    repeated = metrics.pair_metrics([2, 2, 2, 0], [0, 0, 0, 1])
    for key in ("accuracy", "margin", "loss", "reward_std", "chosen_reward"):
        assert weighted[key] == pytest.approx(repeated[key]), key
    # Effective number (3 + 1)² / (9 + 1) = 1.6 pairs instead of 4: a wider interval.
    assert weighted["accuracy_low"] == pytest.approx(metrics.wilson_interval(1.2, 1.6)[0])
    assert weighted["accuracy_low"] < repeated["accuracy_low"]


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (50, 100, 0.4038315, 0.5961685),
    ],
)
def test_wilson_interval_by_hand(successes: int, total: int, low: float, high: float) -> None:
    """With z² = 3.8415.  0/10: upper end z² / (n + z²) = 0.2775; 10/10 mirrors it.

    8/10: center (8 + 1.9207) / 13.8415 = 0.7167, half 1.96 √(10 · 0.16 + 0.9604) / 13.8415 = 0.2266.
    50/100: half of z / √(n + z²) = 1.96 / 10.1903 on either side of 1/2.
    """
    assert metrics.wilson_interval(successes, total) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_wilson_interval_covers() -> None:
    """Exact coverage at n = 40, p = 0.7: the binomial mass of the counts whose interval holds p, near 95 %."""
    n, p = 40, 0.7
    inside = (k for k in range(n + 1) if metrics.wilson_interval(k, n)[0] <= p <= metrics.wilson_interval(k, n)[1])
    assert 0.93 < sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in inside) < 0.97


def test_by_source_pools_each_source() -> None:
    table = metrics.by_source(["x", "y", "x"], [1, 1, 1], [0, 2, 3], loss=[0.5, 1.0, 1.5])
    assert list(table) == ["x", "y"]
    assert (table["x"]["accuracy"], table["x"]["loss"], table["x"]["pairs"]) == (0.5, 1.0, 2)
    assert table["y"]["accuracy"] == 0.0


def test_nan_and_empty_are_refused() -> None:
    with pytest.raises(NonFiniteError, match=r"rejected: 1 of 2 .* row 1"):
        metrics.pair_metrics([1.0, 1.0], [0.0, math.nan])
    with pytest.raises(DataError, match="no pairs"):
        metrics.pair_metrics([], [])
    with pytest.raises(DataError, match="different lengths"):
        metrics.pair_metrics([1.0], [1.0, 2.0])
    with pytest.raises(DataError, match="weight"):
        metrics.pair_metrics([1.0], [0.0], weight=[0.0])
    with pytest.raises(DataError, match="no proportion"):
        metrics.wilson_interval(0, 0)


def test_calibration_by_hand() -> None:
    """Confidence 0.6 (2 of 4 right) and 0.9 (3 of 4 right), in bins [0.6, 0.65) and [0.9, 0.95).

    ECE = 1/2 · |0.5 - 0.6| + 1/2 · |0.75 - 0.9| = 0.125.
    Brier = (2 · 0.4² + 2 · 0.6² + 3 · 0.1² + 0.9²) / 8 = (0.32 + 0.72 + 0.03 + 0.81) / 8 = 0.235.
    """
    a, b = logit(0.6001), logit(0.9001)
    result = metrics.calibration([a, a, -a, -a, b, b, b, -b])
    assert result["ece"] == pytest.approx(0.125, abs=2e-4)
    assert result["brier"] == pytest.approx(0.235, abs=2e-4)
    assert [(row["lower"], row["count"], row["accuracy"]) for row in result["bins"]] == [
        (pytest.approx(0.6), 4, 0.5),
        (pytest.approx(0.9), 4, 0.75),
    ]


def test_temperature_by_hand() -> None:
    """Margins 2, 2, 2, -2: σ(2 / T) = 3/4 is best, T = 2 / log 3 = 1.82."""
    result = metrics.calibration([2, 2, 2, -2])
    assert result["temperature"] == pytest.approx(2 / math.log(3))
    # Entropy of 3/4.
    assert result["log_loss_fitted"] == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))


@pytest.mark.parametrize("margins", [[1.0, 2.0], [-1.0, 0.5], [0.0, 0.0]])
def test_no_finite_temperature(margins: list[float]) -> None:
    assert metrics.calibration(margins)["temperature"] is None


def test_calibrated_labels_have_small_error() -> None:
    """20 000 pairs whose sign is drawn with probability σ(|margin|): ECE near 0, T near 1."""
    rng = np.random.default_rng(0)
    size = np.abs(rng.normal(0, 2, 20_000))
    sign = np.where(rng.random(20_000) < 1 / (1 + np.exp(-size)), 1, -1)
    result = metrics.calibration(sign * size)
    assert result["ece"] < 0.02 and abs(result["temperature"] - 1) < 0.05


def test_extreme_margins_do_not_overflow() -> None:
    result = metrics.calibration([1e6, 1e6, 1e6, -1e6])
    assert result["brier"] == pytest.approx(0.25) and result["temperature"] == pytest.approx(1e6 / math.log(3))


def test_length_bias_by_hand() -> None:
    """Longer pairs: right, right, right, wrong (3/4); shorter: wrong, right (1/2); equal: right.

    Controlled: (0.75 + 0.5) / 2 = 0.625; taking the longer: (4 + 1/2) / 7.
    """
    chosen, rejected = [1, 1, 1, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0, 0]
    result = metrics.length_bias(chosen, rejected, [9, 9, 9, 9, 3, 3, 5], [5, 5, 5, 5, 5, 5, 5])
    assert (result["accuracy_longer"], result["accuracy_shorter"], result["accuracy_equal"]) == (0.75, 0.5, 1.0)
    assert (result["pairs_longer"], result["pairs_shorter"], result["pairs_equal"]) == (4, 2, 1)
    assert result["length_controlled_accuracy"] == 0.625
    assert result["length_only_accuracy"] == pytest.approx(4.5 / 7)
    assert result["shortest_only_accuracy"] == pytest.approx(2.5 / 7)
    (l1, h1), (l2, h2) = metrics.wilson_interval(3, 4), metrics.wilson_interval(1, 2)
    assert result["length_controlled_accuracy_low"] == pytest.approx(0.625 - math.hypot(0.75 - l1, 0.5 - l2) / 2)
    assert result["length_controlled_accuracy_high"] == pytest.approx(0.625 + math.hypot(h1 - 0.75, h2 - 0.5) / 2)


def test_length_bias_undefined_is_none() -> None:
    result = metrics.length_bias([1, 1], [0, 0], [5, 5], [5, 5])
    assert result["reward_pearson"] is None
    assert result["accuracy_longer"] is None and result["length_controlled_accuracy"] is None


def test_ceiling_is_what_drawn_labels_approach() -> None:
    """Labels drawn from the truth: the truth's own accuracy and loss come within sampling error of the closed form."""
    rng = np.random.default_rng(1)
    truth = rng.normal(0, 1.5, (40_000, 2))
    swap = rng.random(40_000) > 1 / (1 + np.exp(truth[:, 1] - truth[:, 0]))
    won, lost = np.where(swap, truth[:, 1], truth[:, 0]), np.where(swap, truth[:, 0], truth[:, 1])
    result = metrics.ceiling(won, lost)
    assert abs(result["accuracy"] - result["drawn_accuracy"]) < 0.007
    assert abs(result["loss"] - result["drawn_loss"]) < 0.007


def test_ceiling_of_equal_truth_is_a_coin() -> None:
    result = metrics.ceiling([1.0], [1.0])
    assert result["accuracy"] == 0.5 and result["loss"] == pytest.approx(math.log(2))


def test_spearman_shares_ranks_of_ties() -> None:
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5."""
    result = metrics.correlation([0, 1, 1, 2], [0, 1, 2, 3])
    assert result["spearman"] == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_truth_correlation_of_margins_ignores_prompt_constants() -> None:
    """Learned = truth + a constant per prompt: margins correlate perfectly, single rewards do not."""
    truth_chosen, truth_rejected, constant = np.array([[2.0, 3, 1], [0.0, 2, 3], [50.0, -50, 0]])
    result = metrics.truth_correlation(truth_chosen + constant, truth_rejected + constant, truth_chosen, truth_rejected)
    assert result["margin_pearson"] == pytest.approx(1.0)
    assert result["pearson"] is not None and result["pearson"] < 0.9


def test_paired_comparison_by_hand() -> None:
    """b = 1, c = 5 of 10 pairs: p = 2 (1 + 6) / 64; difference 4/10.

    Interval: (5.5 - 1.5) / 12 ± 1.96 √(7 - 4² / 12) / 12 = 0.3333 ± 0.3888.
    """
    first = [1, 1, 1, 1, 1, -1, -1, -1, -1, -1]
    second = [1, 1, 1, 1, -1, 1, 1, 1, 1, 1]
    result = metrics.paired_comparison(first, second)
    assert (result["first_only"], result["second_only"], result["difference"]) == (1, 5, 0.4)
    assert result["p_value"] == 14 / 64
    assert result["difference_low"] == pytest.approx(1 / 3 - 0.38880, abs=1e-4)
    assert result["difference_high"] == pytest.approx(1 / 3 + 0.38880, abs=1e-4)


def test_identical_runs_differ_by_nothing() -> None:
    result = metrics.paired_comparison([1, -1, 2], [1, -1, 2])
    assert (result["difference"], result["p_value"]) == (0, 1)
    assert result["difference_low"] < 0 < result["difference_high"]


def test_sign_test_beyond_a_thousand_is_continuous_with_the_exact_one() -> None:
    """1000 and 1002 discordant pairs at the same lean: both near the normal approximation erfc(9.5 / √500)."""
    for b, c in ((490, 510), (491, 511)):
        margin = np.r_[np.ones(b), -np.ones(c)]
        p_value = metrics.paired_comparison(margin, -margin)["p_value"]
        assert p_value == pytest.approx(math.erfc(19 / math.sqrt(2 * (b + c))), abs=2e-4)


def test_smooth_skips_what_is_missing() -> None:
    """w = 1/2: nothing yet, 1, still 1, then (0.5 · 1 + 4) / 1.5 = 3."""
    result = metrics.smooth([None, 1.0, math.nan, 4.0], weight=0.5)
    assert math.isnan(result[0]) and result[1:] == [1.0, 1.0, 3.0]


def test_smooth_keeps_a_constant_and_short_curves() -> None:
    assert metrics.smooth([2.0] * 50) == pytest.approx([2.0] * 50)
    assert metrics.smooth([1.0, 5.0, 3.0]) == [1.0, 5.0, 3.0]
    assert metrics.smooth([]) == []


def test_metrics_need_no_torch() -> None:
    code = "import sys, rmx.metrics; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Choosing the best of several runs --------------------------------------------------------------------------------


def equal_runs(rng: np.random.Generator, runs: int, comparisons: int, pairs_each: int = 1) -> np.ndarray:
    """Margins [runs, pairs] of exchangeable runs: what a pair is like is shared, the rest each run's own luck."""
    pairs = comparisons * pairs_each
    shared = np.repeat(rng.normal(0.7, 1, comparisons), pairs_each)
    own = np.repeat(rng.normal(0, 0.6, (runs, comparisons)), pairs_each, axis=1)
    return shared + own + (rng.normal(0, 0.3, (runs, pairs)) if pairs_each > 1 else 0)


def flagged(margins: np.ndarray, **keys: object) -> bool:
    """Whether any run is said to differ from the best one."""
    best = int((margins > 0).mean(axis=1).argmax())
    return min(row["adjusted_p"] for row in metrics.compare_with_selected(margins, best, **keys)) < 0.05


def test_of_sweeps_of_equal_runs_at_most_one_in_twenty_names_a_worse_one() -> None:
    """150 sweeps of 20 equal runs. Without the correction most sweeps name one, and Holm's allows for the number of
    tests but not for the choice of the winner: at a true rate of 5 %, 14 or more of 150 have a chance below 2 %.
    """
    rng = np.random.default_rng(0)
    found = {"uncorrected": 0, "holm": 0, "corrected": 0}
    for _ in range(150):
        margins = equal_runs(rng, 20, 400)
        best = int((margins > 0).mean(axis=1).argmax())
        alone = [metrics.paired_comparison(margins[best], row)["p_value"] for row in np.delete(margins, best, axis=0)]
        found["uncorrected"] += min(alone) < 0.05
        found["holm"] += min(metrics.holm(alone)) < 0.05
        found["corrected"] += flagged(margins)
    assert found["uncorrected"] > 0.75 * 150
    assert found["holm"] > 0.08 * 150
    assert found["corrected"] < 14


def test_pairs_of_one_comparison_are_not_taken_for_independent_ones() -> None:
    """Equal runs, six pairs to a comparison that mostly fall together: taken as independent, most sweeps name one."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(100), 6)
    sweeps = [equal_runs(rng, 10, 100, 6) for _ in range(60)]
    assert sum(flagged(margins) for margins in sweeps) > 30
    assert sum(flagged(margins, comparison=labels) for margins in sweeps) < 8  # 5 %: 8 or more have a chance of 1 %


def test_a_truly_worse_run_is_found_and_the_equal_ones_are_not() -> None:
    """Nineteen equal runs near 73 % and one that guesses on a fifth of 2,000 pairs."""
    rng = np.random.default_rng(2)
    margins = equal_runs(rng, 20, 2000)
    margins[7, ::5] = rng.normal(0, 1, 400)
    best = int((margins > 0).mean(axis=1).argmax())
    rows = metrics.compare_with_selected(margins, best)
    assert [place for place, row in enumerate(rows) if row["adjusted_p"] < 0.05] == [7]
    assert rows[7]["difference_high"] < 0 < rows[best]["difference_high"]
    assert rows[7]["adjusted_p"] > rows[7]["p_value"]
    assert metrics.compare_with_selected(margins, best) == rows  # seeded


def test_runs_that_agree_everywhere_do_not_differ() -> None:
    rows = metrics.compare_with_selected([[1, -1, 1], [1, -1, 1], [2, -2, 3]], 0)
    assert [row["adjusted_p"] for row in rows] == [1.0, 1.0, 1.0]
    assert all(row["difference"] == 0 and row["difference_low"] < 0 < row["difference_high"] for row in rows)


def test_sign_flips_of_whole_comparisons_by_hand() -> None:
    """Differences 3, 1, 1 of three comparisons: of 8 sign patterns only +++ and --- reach 5: p = 2 / 8.

    As five independent pairs they would have p = 2 / 2^5.
    """
    first, second, labels = [-1] * 5, [1] * 5, list("aaabc")
    assert metrics.paired_comparison(first, second, comparison=labels)["p_value"] == 2 / 8
    assert metrics.paired_comparison(first, second)["p_value"] == 2 / 32


def test_a_weighted_comparison_has_the_difference_of_the_weighted_accuracies() -> None:
    """Weights 3, 1, 1, 1: the first is right on the heavy pair, 3/6, the second on two light ones, 2/6."""
    result = metrics.paired_comparison([1, -1, -1, -1], [-1, 1, 1, -1], weight=[3, 1, 1, 1])
    assert result["first_accuracy"] == pytest.approx(3 / 6) and result["second_accuracy"] == pytest.approx(2 / 6)
    assert result["difference"] == pytest.approx(-1 / 6)


def test_effective_pairs_by_hand() -> None:
    """Three comparisons of two pairs, right 11 10 00: p = 1/2, sums of x - p are 1, 0, -1.

    Variance (1 + 0 + 1) · 3/2 = 3 over 6 · 1/4 = 1.5: effect 2, six pairs count as three.
    """
    right, labels = [1, 1, 1, 0, 0, 0], list("aabbcc")
    assert effective_pairs(right, np.ones(6), labels) == pytest.approx(3.0)
    assert effective_pairs(right, np.ones(6), None) == effective_pairs(right, np.ones(6), range(6)) == 6.0
    assert effective_pairs(np.ones(6), np.ones(6), labels) == 3.0  # all right: a comparison is one pair
    assert effective_pairs([1, 0], np.ones(2), ["a", "a"]) == 1.0  # of one comparison no spread can be seen
    chosen = np.array(right, dtype=float)
    numbers = metrics.pair_metrics(chosen, np.full(6, 0.5), comparison=labels)
    assert (numbers["accuracy_low"], numbers["accuracy_high"]) == metrics.wilson_interval(1.5, 3)


def test_the_interval_holds_for_pairs_that_fall_together() -> None:
    """300 sets of 80 comparisons of six pairs around a true 0.758 (P(N(0.7, 1) > 0)): 95 % of the intervals hold it."""
    rng = np.random.default_rng(3)
    labels, held, naive = np.repeat(np.arange(80), 6), 0, 0
    truth = 0.5 * (1 + math.erf(0.7 / math.sqrt(2)))
    for _ in range(300):
        margin = np.repeat(rng.normal(0.7, 1, 80), 6)
        for counted, keys in (("held", {"comparison": labels}), ("naive", {})):
            numbers = metrics.pair_metrics(margin, np.zeros(480), **keys)
            inside = numbers["accuracy_low"] <= truth <= numbers["accuracy_high"]
            held, naive = held + (inside and counted == "held"), naive + (inside and counted == "naive")
    assert 0.92 < held / 300 < 0.985
    assert naive / 300 < 0.7
