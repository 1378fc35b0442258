"""Loss and accuracy over the steps of a run: raw values faint, smoothed ones strong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmx.metrics import smooth
from rmx.plots.style import BLUE, GREY, VERMILION, figure, legend, whole_steps
from rmx.results import Curve, RunRecord, eval_sets

__all__ = ["Line", "curve_figures", "overlay_figure"]

_METRICS = {"loss": "loss per pair", "accuracy": "accuracy"}  # metric: axis label


def curve_figures(record: RunRecord) -> tuple[dict[str, Figure], list[str]]:
    """The curves that a run's metrics allow, by file name, and a note for each that they do not.

    Names are LLaMA-Factory's: `training_loss`, `training_eval_loss`, `training_eval_NAME_accuracy`, ...
    """
    wanted = {f"training_{metric}": (f"train/{metric}", f"Training {metric}", metric) for metric in _METRICS}
    for name in eval_sets(record.rows) or ["eval"]:
        prefix = "eval" if name == "eval" else f"eval_{name}"
        on = "" if name == "eval" else f" on {name}"
        wanted |= {
            f"training_{prefix}_{metric}": (f"{prefix}/{metric}", f"Evaluation {metric}{on}", metric)
            for metric in _METRICS
        }
    figures, notes = {}, []
    for file_name, (key, title, metric) in wanted.items():
        curve = record.curve(key)
        if curve.drawable:
            figures[file_name] = _draw(record, curve, title, metric)
        else:
            notes.append(f"no {key} in metrics.jsonl: {file_name} is not drawn")
    return figures, notes


@dataclass(frozen=True)
class Line:
    """One curve among others."""

    curve: Curve
    label: str | None  # None: not in the legend
    color: str
    width: float = 1.8
    dashes: Any = "-"
    alpha: float = 1.0
    end: str = ""  # marker at its last value


def overlay_figure(
    title: str, y_label: str, lines: Sequence[Line], *, size: tuple[float, float] = (6.4, 4.0)
) -> Figure | None:
    """The curves of several runs in one panel, smoothed where they have many points; None when nothing is drawable."""
    fine = [line for line in lines if line.curve.drawable]
    if not fine:
        return None
    smoothed = max(np.isfinite(line.curve.values).sum() for line in fine) >= 40
    drawn, (axes,) = figure(f"{title} (smoothed)" if smoothed else title, "optimizer step", y_label, size=size)
    for line in fine:
        known = np.isfinite(line.curve.values)
        steps, values = line.curve.steps[known], line.curve.values[known]
        shown = smooth(values.tolist()) if smoothed else values.tolist()
        style: dict[str, Any] = {"color": line.color, "alpha": line.alpha}
        marker = "o" if values.size == 1 else None
        axes.plot(steps, shown, linewidth=line.width, linestyle=line.dashes, label=line.label, marker=marker, **style)
        if line.end:
            axes.plot(steps[-1:], shown[-1:], marker=line.end, markersize=6, linestyle="none", **style)
    whole_steps(axes)
    if any(line.label for line in fine):
        legend(axes, loc="best")
    return drawn


def _draw(record: RunRecord, curve: Curve, title: str, metric: str) -> Figure:
    drawn, (axes,) = figure(title, "optimizer step", _METRICS[metric])
    color = BLUE if curve.key.startswith("train/") else VERMILION
    if metric == "accuracy":
        _band(axes, record, curve, color)
        axes.axhline(0.5, color=GREY, linestyle=(0, (4, 3)), linewidth=1.2, label="chance")
    many = curve.steps.size >= 12
    if many:
        axes.plot(curve.steps, curve.values, color=color, alpha=0.3, linewidth=1.0, label="as logged")
        axes.plot(curve.steps, smooth(curve.values.tolist()), color=color, linewidth=2.2, label="smoothed")
    else:
        # With so few points smoothing would only hide them.
        axes.plot(curve.steps, curve.values, color=color, linewidth=2.0, marker="o", markersize=5, label="as logged")
    missing = int((~np.isfinite(curve.values)).sum())
    if missing:
        axes.plot([], [], " ", label=f"{missing} values missing")
    _limits(axes, curve, metric)
    whole_steps(axes)
    legend(axes, loc="best")
    return drawn


def _band(axes: Axes, record: RunRecord, curve: Curve, color: str) -> None:
    low, high = record.curve(f"{curve.key}_low"), record.curve(f"{curve.key}_high")
    # Training accuracy is over the pairs of a few steps: its band would fill the panel and say nothing.
    same = low.steps.size == high.steps.size == curve.steps.size
    if same and curve.steps.size > 1 and not curve.key.startswith("train/"):
        axes.fill_between(
            curve.steps, low.values, high.values, color=color, alpha=0.15, linewidth=0, label="95 % interval"
        )


def _limits(axes: Axes, curve: Curve, metric: str) -> None:
    """Room around a single point; the top of a loss panel from its 99th percentile, so that one spike hides nothing."""
    values = curve.values[np.isfinite(curve.values)]
    if curve.steps.size == 1:
        axes.set_xlim(curve.steps[0] - 1, curve.steps[0] + 1)
    if metric == "accuracy":
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(0.0, min(bottom, 0.45)), min(1.0, top) + 0.005)
    elif values.size >= 50:
        usual = float(np.quantile(values, 0.99))
        spread = usual - float(values.min())
        if spread > 0 and values.max() > usual + spread:
            axes.set_ylim(values.min() - 0.05 * spread, usual + 0.25 * spread)
            beyond = int((values > usual + 0.25 * spread).sum())
            axes.plot([], [], " ", label=f"{beyond} values above the panel")
