"""How often a sweep of equal trials names a difference "beyond noise": `python -m benchmarks.sweep_noise`.

Trials are equal when only luck tells them apart: each pair has a difficulty that all trials share, and each trial its
own deviation from it. So every difference that is named is a false one. The table counts the sweeps that name any:

    alone       the paired test of each trial with the winner, as if that one had been asked for beforehand
    Holm        the same, adjusted for the number of tests but not for having picked the winner
    leaderboard what rmx writes where the trials left predictions (`rmx.metrics.compare_with_selected`)
    intervals   what rmx writes where they did not, so that only accuracies and their intervals are known

At most 5 % is promised of the last two. `--worse 0.1` makes the last trial guess on a tenth of the pairs; the table
then counts the sweeps in which this trial is named.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np

from rmx.metrics import compare_with_selected, holm, pair_metrics, paired_comparison
from rmx.sweep.leaderboard import Facts, by_intervals

RESULTS = Path(__file__).parent / "results" / "sweep_noise.json"
CASES = [  # trials, comparisons, pairs of each
    (2, 400, 1), (5, 400, 1), (20, 400, 1), (50, 400, 1), (20, 100, 1), (20, 2000, 1), (20, 100, 6), (20, 500, 6),
]  # fmt: skip
METHODS = ("alone", "Holm", "leaderboard", "intervals")
LEVEL = 0.05


def sweep(rng: np.random.Generator, trials: int, comparisons: int, each: int, worse: float) -> np.ndarray:
    """Margins [trials, pairs] of trials near 73 % accuracy; pairs of one comparison mostly fall together."""
    shared = np.repeat(rng.normal(0.7, 1, comparisons), each)
    own = np.repeat(rng.normal(0, 0.6, (trials, comparisons)), each, axis=1)
    margins = shared + own + (rng.normal(0, 0.3, (trials, comparisons * each)) if each > 1 else 0)
    guessed = rng.random(comparisons * each) < worse
    margins[-1, guessed] = rng.normal(0, 1, int(guessed.sum()))
    return margins


def named(margins: np.ndarray, each: int) -> dict[str, np.ndarray]:
    """Which trials each method tells from the winner."""
    labels = np.arange(margins.shape[1]) // each
    best = int((margins > 0).mean(axis=1).argmax())
    others = [place for place in range(len(margins)) if place != best]
    alone = [paired_comparison(margins[best], margins[place], comparison=labels)["p_value"] for place in others]
    rows = compare_with_selected(margins, best, comparison=labels)
    corrected = [rows[place]["adjusted_p"] for place in others]
    facts = [_facts(row, labels) for row in margins]
    z = NormalDist().inv_cdf(1 - LEVEL / (len(margins) * (len(margins) - 1)))
    differences = [by_intervals(facts[best], facts[place], z) for place in others]
    outside = [difference is not None and not difference.within_noise for difference in differences]
    found = {"alone": np.array(alone) < LEVEL, "Holm": np.array(holm(alone)) < LEVEL}
    found |= {"leaderboard": np.array(corrected) < LEVEL, "intervals": np.array(outside)}
    return {method: np.isin(np.arange(len(margins)), np.array(others)[flags]) for method, flags in found.items()}


def _facts(margins: np.ndarray, labels: np.ndarray) -> Facts:
    numbers = pair_metrics(margins, np.zeros_like(margins), comparison=labels.tolist())
    return Facts(
        accuracy=numbers["accuracy"], accuracy_low=numbers["accuracy_low"], accuracy_high=numbers["accuracy_high"]
    )


def rates(sweeps: int, worse: float) -> Iterator[dict[str, float]]:
    """For each case the share of sweeps that name any trial, or with `worse` the last one."""
    for trials, comparisons, each in CASES:
        rng = np.random.default_rng(trials * comparisons + each)
        counts = dict.fromkeys(METHODS, 0)
        for _ in range(sweeps):
            found = named(sweep(rng, trials, comparisons, each, worse), each)
            for method in METHODS:
                counts[method] += bool(found[method][-1] if worse else found[method].any())
        shares = {method: count / sweeps for method, count in counts.items()}
        yield {"trials": trials, "comparisons": comparisons, "pairs of each": each} | shares


def main() -> None:
    """Print the table as it grows, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=400, help="sweeps of each case (default: 400)")
    parser.add_argument("--worse", type=float, default=0.0, help="share of pairs on which the last trial guesses")
    given = parser.parse_args()
    margin = 100 * 1.96 * math.sqrt(LEVEL * (1 - LEVEL) / given.sweeps)
    what = "name the trial that guesses" if given.worse else "name any of equal trials"
    print(f"% of {given.sweeps} sweeps that {what}; a true 5 % shows as 5 ± {margin:.1f}\n")
    print(f"{'trials':>6} {'comparisons':>11} {'pairs of each':>13} " + " ".join(f"{name:>11}" for name in METHODS))
    table = []
    for row in rates(given.sweeps, given.worse):
        table.append(row)
        sizes = f"{row['trials']:>6} {row['comparisons']:>11} {row['pairs of each']:>13} "
        print(sizes + " ".join(f"{100 * row[name]:>11.1f}" for name in METHODS), flush=True)
    if not given.worse:
        RESULTS.write_text(json.dumps({"sweeps": given.sweeps, "table": table}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
