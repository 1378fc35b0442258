"""Ranking, intervals and the comparison with the winner, on run folders written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from run_folders import write_jsonl

from rmx.results.metrics import MetricsTail, last_values
from rmx.sweep.leaderboard import Facts, build_rows, read_facts, read_pairs
from rmx.sweep.trials import SweepFolder, Trial

ACCURACY = {"eval/accuracy": "maximize"}


def finished(number: int, accuracy: float, **values: float) -> Trial:
    return Trial(number, {"x": str(number)}, "finished", {"eval/accuracy": accuracy} | values)


def predict(folder: SweepFolder, trial: Trial, margins: list[float], name: str = "generated_predictions.jsonl") -> None:
    path = folder.trial(trial.name)
    path.mkdir(parents=True, exist_ok=True)
    rows = [{"id": str(index), "chosen": margin, "rejected": 0.0} for index, margin in enumerate(margins)]
    write_jsonl(path / name, rows)


def test_rank_is_by_objective_then_loss_and_only_for_finished_trials(tmp_path: Path) -> None:
    trials = [
        finished(0, 0.7),
        Trial(1, {"x": "1"}, "failed"),
        finished(2, 0.8),
        finished(3, 0.8),
        Trial(4, {"x": "4"}, "pruned"),
    ]
    facts = {2: Facts(loss=0.6), 3: Facts(loss=0.5)}
    rows = build_rows(SweepFolder(tmp_path), trials, facts, ACCURACY, {})
    assert [(row.number, row.rank) for row in rows] == [(3, 1), (2, 2), (0, 3), (4, None), (1, None)]


def test_a_loss_is_better_small(tmp_path: Path) -> None:
    trials = [Trial(n, {}, "finished", {"eval/loss": value}) for n, value in enumerate([0.6, 0.4, 0.5])]
    rows = build_rows(SweepFolder(tmp_path), trials, {}, {"eval/loss": "minimize"}, {})
    assert [row.number for row in rows] == [1, 2, 0]


def test_pareto_front_comes_first(tmp_path: Path) -> None:
    """0: (0.8, 100) and 1: (0.7, 300) are both best at something; 2: (0.75, 50) is beaten by 0 in both."""
    trials = [finished(0, 0.8, speed=100.0), finished(1, 0.7, speed=300.0), finished(2, 0.75, speed=50.0)]
    rows = build_rows(SweepFolder(tmp_path), trials, {}, ACCURACY | {"speed": "maximize"}, {})
    assert [(row.number, row.pareto) for row in rows] == [(0, True), (1, True), (2, False)]


def test_paired_comparison_sees_what_intervals_cannot(tmp_path: Path) -> None:
    """100 pairs, the same 20 wrong for both and 8 more for the second: 80 % and 72 %.

    The Wilson intervals overlap widely, but 8 : 0 of the pairs that differ has p = 2 / 2^8 = 0.0078.
    """
    folder = SweepFolder(tmp_path)
    best, other = finished(0, 0.80), finished(1, 0.72)
    predict(folder, best, [1.0] * 80 + [-1.0] * 20)
    predict(folder, other, [1.0] * 72 + [-1.0] * 28)
    row = build_rows(folder, [best, other], {}, ACCURACY, {})[1]
    assert row.vs_winner is not None
    assert row.vs_winner.method == "paired"
    assert row.vs_winner.p_value == pytest.approx(2 / 2**8)
    assert row.vs_winner.difference == pytest.approx(-0.08)
    assert not row.vs_winner.within_noise


def test_different_pairs_fall_back_to_the_intervals(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    best, other = finished(0, 0.80), finished(1, 0.72)
    predict(folder, best, [1.0] * 80 + [-1.0] * 20)
    predict(folder, other, [1.0] * 72 + [-1.0] * 20)  # eight rows fewer
    facts = {
        0: Facts(accuracy=0.80, accuracy_low=0.711, accuracy_high=0.867),
        1: Facts(accuracy=0.72, accuracy_low=0.625, accuracy_high=0.799),
    }
    row = build_rows(folder, [best, other], facts, ACCURACY, {})[1]
    assert row.vs_winner is not None
    assert row.vs_winner.method == "interval"
    assert row.vs_winner.p_value is None
    assert row.vs_winner.within_noise  # -0.08 - √(0.095² + 0.067²) .. -0.08 + √(0.079² + 0.089²)
    assert (row.vs_winner.low, row.vs_winner.high) == (
        pytest.approx(-0.1963, abs=1e-4),
        pytest.approx(0.0390, abs=1e-4),
    )


def test_damaged_predictions_are_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "generated_predictions.jsonl"
    path.write_text('{"id": "1", "chosen": 0.5, "rejected": 0}\n{"id": "2", "cho')
    assert read_pairs(tmp_path, "eval") == {}
    path.write_text(
        '{"id": "1", "chosen": 0.5, "rejected": 0}\n{"id": "2", "chosen": 1, "rejected": 0, "labelled_tie": true}\n'
    )
    assert [pair.margin for pair in read_pairs(tmp_path, "eval").values()] == [0.5]


def test_several_evaluation_sets_are_compared_pair_by_pair(tmp_path: Path) -> None:
    """Pooled, the second is wrong on 8 more of 200 pairs of two sets that share their ids: p = 2 / 2^8; on the set
    `code` alone the two do not differ.
    """
    folder = SweepFolder(tmp_path)
    best, other = finished(0, 0.80), finished(1, 0.76)
    for trial, right in ((best, 80), (other, 72)):
        predict(folder, trial, [1.0] * right + [-1.0] * (100 - right), "generated_predictions_chat.jsonl")
        predict(folder, trial, [1.0] * 80 + [-1.0] * 20, "generated_predictions_code.jsonl")
    pooled, code = (
        build_rows(folder, [best, other], {}, ACCURACY, {}, evaluation=name)[1].vs_winner
        for name in ("eval", "eval_code")
    )
    assert pooled is not None and code is not None
    assert (pooled.method, code.method) == ("paired", "paired")
    assert (pooled.p_value, pooled.difference) == (2 / 2**8, pytest.approx(-8 / 200))
    assert (code.p_value, code.difference) == (1.0, 0.0)


def test_a_trial_without_the_winners_pairs_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = SweepFolder(tmp_path)
    trials = [finished(0, 0.8), finished(1, 0.7), finished(2, 0.6)]
    for trial, pairs in zip(trials, (10, 10, 9), strict=True):
        predict(folder, trial, [1.0] * pairs)
    rows = build_rows(folder, trials, {}, ACCURACY, {})
    assert [row.vs_winner and row.vs_winner.method for row in rows] == [None, "paired", None]
    assert "Not compared pair by pair" in caplog.text and "trial-002" in caplog.text and "trial-001" not in caplog.text


def test_the_winner_of_many_is_held_against_chance(tmp_path: Path) -> None:
    """Eight pairs that only the winner gets right convince beside one other trial, and not beside thirty."""
    folder = SweepFolder(tmp_path)
    rng = np.random.default_rng(0)
    trials = [finished(number, 0.8 - number / 1000) for number in range(31)]
    predict(folder, trials[0], [1.0] * 80 + [-1.0] * 20)
    for trial in trials[1:]:
        margins = np.array([1.0] * 72 + [-1.0] * 28)
        rng.shuffle(margins[:80])
        predict(folder, trial, margins.tolist())
    alone = build_rows(folder, trials[:2], {}, ACCURACY, {})
    many = build_rows(folder, trials, {}, ACCURACY, {})
    assert [row.vs_winner.within_noise for row in alone if row.vs_winner] == [False]
    assert {row.vs_winner.within_noise for row in many if row.vs_winner} == {True}


def test_without_predictions_the_intervals_widen_with_the_number_of_trials(tmp_path: Path) -> None:
    """z of 0.05 / (T (T - 1)): 1.96 for two trials, 2.39 for three."""
    trials = [finished(number, 0.8 - number / 10) for number in range(3)]
    facts = {n: Facts(accuracy=a, accuracy_low=a - 0.05, accuracy_high=a + 0.05) for n, a in enumerate((0.8, 0.7, 0.6))}
    half = {}
    for count in (2, 3):
        versus = build_rows(SweepFolder(tmp_path), trials[:count], facts, ACCURACY, {})[1].vs_winner
        assert versus is not None and versus.method == "interval"
        half[count] = (versus.high - versus.low) / 2
    assert half[2] == pytest.approx(0.05 * 2**0.5)
    assert half[3] / half[2] == pytest.approx(2.3940 / 1.9600, abs=1e-4)


def test_facts_are_the_last_values(tmp_path: Path) -> None:
    """60 of 100: the Wilson interval is 50.2 to 69.1 %."""
    rows = [
        {"step": 1, "phase": "eval", "eval/accuracy": 0.9, "eval/pairs": 100},
        {"step": 2, "phase": "train", "train/loss": None, "train/pairs_per_second": 12.5},
        {"step": 2, "phase": "eval", "eval/accuracy": 0.6, "eval/loss": 0.7, "eval/pairs": 100},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = read_facts(tmp_path)
    assert (facts.accuracy, facts.loss, facts.step, facts.pairs_per_second) == (0.6, 0.7, 2, 12.5)
    assert facts.accuracy_low == pytest.approx(0.5020, abs=1e-4)
    assert facts.accuracy_high == pytest.approx(0.6906, abs=1e-4)


def test_tail_waits_for_whole_lines_and_survives_torn_and_restarted_files(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.rows() == []
    path.write_bytes(b'{"step": 1}\n{"step": 2')
    assert tail.rows() == [{"step": 1}]
    with path.open("ab") as file:
        file.write(b'}\n{"torn{"step": 3}\n{"step": 4}\n')
    assert tail.rows() == [{"step": 2}, {"step": 4}]
    path.write_bytes(b'{"step": 9}\n')
    assert tail.rows() == [{"step": 9}]
    longer = tmp_path / "longer"
    longer.write_bytes(b'{"step": 5}\n{"step": 6}\n')
    longer.replace(path)  # cut back by a resume and already longer again
    assert tail.rows() == [{"step": 5}, {"step": 6}]
    assert last_values(tmp_path / "missing") == {}
