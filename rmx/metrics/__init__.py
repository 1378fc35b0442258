"""Numbers about rewards: numpy in, plain floats out, no torch.

Everything takes per-pair rows of the whole evaluation set at once; nothing here is ever averaged over batches.
A number that is not defined (an accuracy of no pairs) is absent or None, never 0; rewards that are not finite raise.
"""

from __future__ import annotations

from rmx.metrics.calibration import calibration
from rmx.metrics.comparing import compare_with_selected, holm, paired_comparison
from rmx.metrics.length import length_bias
from rmx.metrics.pairs import by_source, pair_metrics, wilson_interval
from rmx.metrics.smoothing import smooth
from rmx.metrics.truth import ceiling, correlation, truth_correlation

__all__ = [
    "by_source",
    "calibration",
    "ceiling",
    "compare_with_selected",
    "correlation",
    "holm",
    "length_bias",
    "pair_metrics",
    "paired_comparison",
    "smooth",
    "truth_correlation",
    "wilson_interval",
]
