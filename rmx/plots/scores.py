"""What the scores of an evaluation set look like: distributions, margins, reliability, length."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from rmx.metrics import calibration, correlation
from rmx.plots.style import BLUE, GREY, INK, VERMILION, figure, legend
from rmx.results import Predictions, RunRecord

__all__ = ["score_figures"]

_POINTS = 400  # most dots of a kind in a scatter: more only blacken it and swell the SVG


def score_figures(record: RunRecord) -> tuple[dict[str, Figure], list[str]]:
    """The figures that each predictions file allows, by file name, and a note for each that it does not."""
    figures, notes = {}, []
    if not record.predictions:
        notes.append("no generated_predictions.jsonl: reward distributions, margins, reliability, length are not drawn")
    for name, predictions in record.predictions.items():
        tail, on = ("", "") if name == "eval" else (f"_{name}", f" on {name}")
        if not predictions.ids:
            notes.append(f"no scored pairs in the predictions of {name}")
            continue
        figures[f"reward_distributions{tail}"] = _distributions(predictions, on)
        if predictions.margin.size:
            figures[f"margins{tail}"] = _margins(predictions, on)
            figures[f"reliability{tail}"] = _reliability(predictions, on)
        else:
            notes.append(f"every pair of {name} is a tie: margins and reliability are not drawn")
        if predictions.has_tokens:
            figures[f"reward_vs_length{tail}"] = _length(predictions, on)
        else:
            notes.append(f"no token counts in the predictions of {name}: reward_vs_length is not drawn")
    return figures, notes


def _distributions(predictions: Predictions, on: str) -> Figure:
    drawn, (axes,) = figure(f"Rewards of chosen and rejected responses{on}", "reward", "responses")
    edges, beyond = _edges(np.concatenate((predictions.chosen, predictions.rejected)))
    for values, name, color, dashes in (
        (predictions.chosen, "chosen", BLUE, "-"),
        (predictions.rejected, "rejected", VERMILION, (0, (5, 2))),
    ):
        inside = np.clip(values, edges[0], edges[-1])
        axes.hist(inside, edges, color=color, alpha=0.28, linewidth=0)
        axes.hist(inside, edges, histtype="step", color=color, linewidth=1.8, linestyle=dashes)
        mean = float(values.mean())
        label = f"{name}, mean {mean:.3g}"
        axes.axvline(mean, color=color, linestyle=dashes, linewidth=1.4, label=label)
    _beyond(axes, beyond)
    _headroom(axes)
    legend(axes, loc="upper right")
    return drawn


def _margins(predictions: Predictions, on: str) -> Figure:
    drawn, (axes,) = figure(f"Margins of right and wrong pairs{on}", "margin: chosen minus rejected reward", "pairs")
    margin = predictions.margin
    edges, beyond = _edges(margin, through_zero=True)
    inside = np.clip(margin, edges[0], edges[-1])
    right = int((margin > 0).sum())
    wrong, equal = int((margin < 0).sum()), int((margin == 0).sum())
    share = 100 / margin.size
    axes.hist(inside[margin > 0], edges, color=BLUE, alpha=0.75, linewidth=0, label=f"right: {right * share:.1f} %")
    axes.hist(
        inside[margin < 0],
        edges,
        color=VERMILION,
        alpha=0.75,
        linewidth=0,
        hatch="////",
        edgecolor="white",
        label=f"wrong: {wrong * share:.1f} %",
    )
    axes.axvline(0, color=INK, linewidth=1.2)
    axes.axvline(float(margin.mean()), color=GREY, linewidth=1.4, linestyle=":", label=f"mean {margin.mean():.3g}")
    if equal:
        axes.plot([], [], " ", label=f"exactly equal: {equal * share:.1f} %")
    _beyond(axes, beyond)
    _headroom(axes)
    legend(axes, loc="upper right")
    return drawn


def _reliability(predictions: Predictions, on: str) -> Figure:
    drawn, (axes, strip) = figure(
        f"Reliability{on}", "confidence σ(|margin|)", "share of pairs it is right on", panels=2, size=(6.4, 5.0)
    )
    facts = calibration(predictions.margin)
    bins = facts["bins"]
    x = np.array([row["confidence"] for row in bins])
    y = np.array([row["accuracy"] for row in bins])
    low, high = (np.array([row[end] for row in bins]) for end in ("low", "high"))
    axes.plot([0.5, 1], [0.5, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1.4, label="perfectly calibrated")
    axes.errorbar(
        x,
        y,
        # The mean of a bin with half-right ties may lie outside its Wilson interval by rounding only.
        yerr=np.maximum(0.0, np.stack((y - low, high - y))),
        color=BLUE,
        linewidth=1.8,
        elinewidth=1.2,
        capsize=3,
        marker="o",
        markersize=5,
        label="observed, 95 % interval",
    )
    fitted = "none" if facts["temperature"] is None else f"{facts['temperature']:.3g}"
    axes.plot([], [], " ", label=f"ECE {facts['ece']:.3f} · Brier {facts['brier']:.3f} · temperature {fitted}")
    axes.set_ylim(min(0.4, float(low.min()) - 0.02), 1.02)
    axes.set_xlim(0.495, 1.005)
    legend(axes, loc="lower right")
    strip.bar(
        [row["lower"] for row in bins],
        [row["count"] for row in bins],
        width=[row["upper"] - row["lower"] for row in bins],
        align="edge",
        color=BLUE,
        alpha=0.45,
        linewidth=0.8,
        edgecolor=BLUE,
    )
    strip.set_ylabel("pairs")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    strip.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return drawn


def _length(predictions: Predictions, on: str) -> Figure:
    drawn, (axes,) = figure(f"Reward against length{on}", "tokens (prompt and response)", "reward")
    tokens = np.concatenate((predictions.chosen_tokens, predictions.rejected_tokens))
    rewards = np.concatenate((predictions.chosen, predictions.rejected))
    for x, y, name, color, marker, dashes in (
        (predictions.chosen_tokens, predictions.chosen, "chosen", BLUE, "o", "-"),
        (predictions.rejected_tokens, predictions.rejected, "rejected", VERMILION, "^", (0, (5, 2))),
    ):
        pick = np.unique(np.linspace(0, x.size - 1, min(_POINTS, x.size)).astype(int))
        axes.scatter(x[pick], y[pick], s=12, color=color, marker=marker, alpha=0.35, linewidths=0)
        centers, means = _binned(x, y)
        axes.plot(
            centers, means, color=color, marker=marker, linewidth=2.2, linestyle=dashes, label=f"{name}, binned mean"
        )
    found = correlation(rewards, tokens)["pearson"]
    axes.plot(
        [], [], " ", label="correlation: " + ("not defined" if found is None else f"{round(found, 2) + 0.0:+.2f}")
    )
    if tokens.min() > 0 and tokens.max() > 20 * tokens.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    bottom, top = np.quantile(rewards, (0.002, 0.998))
    room = 0.08 * (top - bottom) or 0.5
    axes.set_ylim(bottom - room, top + 3 * room)
    legend(axes, loc="upper right")
    return drawn


# --- shared arithmetic ---


def _binned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Means of y in up to ten groups of x of about equal size."""
    edges = np.unique(np.quantile(x, np.linspace(0, 1, 11)))
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, max(0, edges.size - 2))
    groups = [place == b for b in range(max(1, edges.size - 1))]
    full = [group for group in groups if group.any()]
    return [float(x[group].mean()) for group in full], [float(y[group].mean()) for group in full]


def _edges(values: NDArray[np.float64], through_zero: bool = False) -> tuple[list[float], int]:
    """Histogram edges from the bulk of the values (0.2 to 99.8 %), and how many values lie beyond them."""
    low, high = (float(q) for q in np.quantile(values, (0.002, 0.998)))
    if through_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    count = int(np.clip(2 * values.size ** (1 / 3), 10, 50))
    width = (high - low) / count
    first = np.floor(low / width) if through_zero else low / width
    edges = [float(width * (first + place)) for place in range(count + (2 if through_zero else 1))]
    return edges, int(((values < edges[0] - 1e-12) | (values > edges[-1] + 1e-12)).sum())


def _beyond(axes: Axes, count: int) -> None:
    if count:
        axes.plot([], [], " ", label=f"{count} beyond the ends, in the outer bars")


def _headroom(axes: Axes) -> None:
    """Room for the legend above the bars."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top * 1.25)
