"""Time against batch size and against sequence length, ours and theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LABELS = {"batch": "pairs per batch", "length": "tokens per sequence (72 % of them prompt)"}
COLOURS = {"rmx": "#0072b2", "TRL": "#d55e00"}


def draw(curves: dict[str, Any], path: Path) -> None:
    """Write one figure with a panel per curve, as PNG and SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(9, 3.6), constrained_layout=True)
    for axis, (name, lines) in zip(axes, curves.items(), strict=True):
        for label, points in lines.items():
            x = [int(key) for key in points]
            y = list(points.values())
            axis.plot(x, y, marker="o", color=COLOURS[label])
            axis.annotate(label, (x[-1], y[-1]), xytext=(-4, 6), textcoords="offset points", ha="right")
        axis.set_xscale("log", base=2)
        axis.set_xticks(x, [str(value) for value in x])
        axis.set_ylim(0, 1.15 * max(max(points.values()) for points in lines.values()))  # room for the labels
        axis.set_xlabel(LABELS[name])
        axis.set_ylabel("CPU milliseconds per pair")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    figure.savefig(path.with_suffix(".svg"))
