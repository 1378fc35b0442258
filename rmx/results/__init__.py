"""The one reader of what runs leave, and the format in which they write it.

metrics        metrics.jsonl: appended, cut back, followed while it grows, read as curves
predictions    generated_predictions*.jsonl: one scored pair a line, read as columns
run_folder     a whole run folder
sweep          sweep.json: the trials of a sweep
"""

from __future__ import annotations

from rmx.results.metrics import Curve, MetricsFile, MetricsTail, eval_sets, last_values
from rmx.results.predictions import DecidedPair, Predictions, decided_pairs, prediction_row, predictions_name
from rmx.results.run_folder import RunRecord, read_metrics, read_object, read_run
from rmx.results.sweep import Difference, SweepParameter, SweepRecord, SweepRow, read_sweep

__all__ = [
    "Curve",
    "DecidedPair",
    "Difference",
    "MetricsFile",
    "MetricsTail",
    "Predictions",
    "RunRecord",
    "SweepParameter",
    "SweepRecord",
    "SweepRow",
    "decided_pairs",
    "eval_sets",
    "last_values",
    "prediction_row",
    "predictions_name",
    "read_metrics",
    "read_object",
    "read_run",
    "read_sweep",
]
