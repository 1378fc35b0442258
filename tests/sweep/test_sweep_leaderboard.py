"""Ranking, intervals and the comparison with the winner, on run folders written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmx.results.metrics import MetricsTail, last_values
from rmx.sweep.leaderboard import Facts, build_rows, read_facts, read_margins
from rmx.sweep.trials import SweepFolder, Trial

ACCURACY = {"eval/accuracy": "maximize"}


def finished(number: int, accuracy: float, **values: float) -> Trial:
    return Trial(number, {"x": str(number)}, "finished", {"eval/accuracy": accuracy} | values)


def predict(folder: SweepFolder, trial: Trial, margins: list[float]) -> None:
    path = folder.trial(trial.name)
    path.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": str(index), "margin": margin}) for index, margin in enumerate(margins)]
    (path / "generated_predictions.jsonl").write_text("\n".join(lines) + "\n")


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
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "1", "margin": 0.5}\n{"id": "2", "mar')
    assert read_margins(path) == {}
    path.write_text('{"id": "1", "margin": 0.5}\n{"id": "2", "margin": 1, "labelled_tie": true}\n')
    assert list(read_margins(path).values()) == [0.5]


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
