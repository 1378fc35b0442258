"""The figures of a sweep: which settings won, what they cost, and what was stopped early."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rmx.errors import counted
from rmx.plots import Line, overlay_figure
from rmx.plots.style import BLUE, GREY, INK, PALETTE, PAPER, VERMILION, figure, legend
from rmx.results import Curve, SweepParameter, SweepRecord, SweepRow, read_metrics

__all__ = ["sweep_figures"]

NAMED = tuple(color for color in PALETTE if color != VERMILION)  # the best five; vermilion is for what was pruned
MOST_BARS = 40
WIDE = (10.0, 4.6)  # inches: figures that take the whole width of the page
STYLE = {"finished": (BLUE, "-", "o"), "pruned": (VERMILION, (0, (4, 2)), "x")}
OTHER = (GREY, (0, (1, 2)), "s")


def sweep_figures(sweep: SweepRecord) -> dict[str, tuple[Figure, str]]:
    """Each figure that the sweep allows, with a sentence for readers who do not see it."""
    drawn: dict[str, tuple[Figure, str] | None] = {
        "parallel_coordinates": _parallel(sweep),
        "importance": _importance(sweep),
        "learning_curves": _curves(sweep),
    }
    for place, axis in enumerate(sweep.varying):
        drawn[f"parameter_{place}"] = _parameter(sweep, axis)
    drawn["pareto"] = _pareto(sweep)
    drawn["compute"] = _compute(sweep)
    return {name: item for name, item in drawn.items() if item is not None}


def _reached(sweep: SweepRecord, trial: SweepRow) -> float | None:
    """The first objective of a trial: its result, or where it stood when it was stopped."""
    metric = sweep.objectives[0][0]
    value = trial.objective(metric)
    if value is None and trial.steps and sweep.facts.get("pruner_metric") == metric:
        value = trial.steps[max(trial.steps)]
    return value


def _groups(trials: Sequence[SweepRow]) -> list[tuple[str, tuple[str, Any, str], list[SweepRow]]]:
    """The trials by how they ended, with the look of each kind; kinds without a trial are left out."""
    kinds = [(status, look, [t for t in trials if t.status == status]) for status, look in STYLE.items()]
    kinds.append(("failed or running", OTHER, [t for t in trials if t.status not in STYLE]))
    return [kind for kind in kinds if kind[2]]


def _parallel(sweep: SweepRecord) -> tuple[Figure, str] | None:
    metric, more = sweep.objectives[0]
    shown = [(trial, value) for trial in sweep.trials if (value := _reached(sweep, trial)) is not None]
    axes_of = [axis for axis in sweep.varying if any(axis.name in trial.params for trial, _ in shown)]
    if not shown or not axes_of:
        return None
    drawn, (axes,) = figure("Settings and result of every trial", "", "", size=WIDE)
    scales = [_scale(axis, [trial.params.get(axis.name) for trial, _ in shown]) for axis in axes_of]
    result = _numeric([value for _, value in shown], log=False, up=more)
    for place, (_, ticks) in enumerate([*scales, result]):
        axes.axvline(place, color=GREY, linewidth=1.0)
        for height, text in ticks:
            axes.annotate(
                text,
                (place, height),
                xytext=(4, 2),
                textcoords="offset points",
                fontsize=8,
                color=INK,
                va="bottom",
                zorder=4,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.6},
            )
    best = max(1, len([t for t, _ in shown if t.rank]))
    for order, (trial, value) in enumerate(reversed(shown)):  # the winner last, on top
        color, dashes, _ = STYLE.get(trial.status, OTHER)
        heights = [place(trial.params.get(axis.name)) for axis, (place, _) in zip(axes_of, scales, strict=True)]
        # Trials that share a category would lie on one another: a small shift of their own tells them apart.
        shift = 0.03 * (order / max(1, len(shown) - 1) - 0.5)
        heights = [h + (shift if axis.kind == "choice" else 0) for h, axis in zip(heights, axes_of, strict=True)]
        strength = 0.9 - 0.65 * ((trial.rank or best) - 1) / best if trial.status == "finished" else 0.6
        axes.plot(
            range(len(axes_of) + 1),
            [*heights, result[0](value)],
            color=color,
            linestyle=dashes,
            linewidth=3.0 if trial.rank == 1 else 1.4,
            alpha=1.0 if trial.rank == 1 else strength,
        )
    for status, (color, dashes, _), members in _groups([trial for trial, _ in shown]):
        axes.plot([], [], color=color, linestyle=dashes, label=f"{status} ({len(members)})")
    if any(trial.rank == 1 for trial, _ in shown):
        axes.plot([], [], color=BLUE, linewidth=3.0, label="winner")
    last = f"{metric}\n(up is better)"
    axes.set_xticks(range(len(axes_of) + 1), [*(_short(axis.name) for axis in axes_of), last], fontsize=9)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlim(-0.1, len(axes_of) + 0.45)
    axes.set_ylim(-0.06, 1.2)
    legend(axes, loc="upper left", ncols=4)
    return drawn, f"Parallel coordinates of {counted(len(shown), 'trial')} over {len(axes_of)} parameters and {metric}."


def _importance(sweep: SweepRecord) -> tuple[Figure, str] | None:
    if not sweep.importance:
        return None
    shares = sorted(sweep.importance.items(), key=lambda item: item[1])
    size = (6.4, 1.6 + 0.35 * len(shares))
    drawn, (axes,) = figure("Importance of each parameter", "share of the spread it explains", "", size=size)
    bars = axes.barh([_short(name) for name, _ in shares], [share for _, share in shares], color=BLUE, alpha=0.75)
    axes.bar_label(bars, [f"{100 * share:.0f} %" for _, share in shares], padding=4, color=INK, fontsize=9)
    axes.set_xlim(0, 1.12)
    axes.grid(False, axis="y")
    words = ", ".join(f"{name} {100 * share:.0f} %" for name, share in reversed(shares))
    return drawn, f"Bars of parameter importance: {words}."


def _curves(sweep: SweepRecord) -> tuple[Figure, str] | None:
    metric = str(sweep.facts.get("pruner_metric") or sweep.objectives[0][0])
    lines = []
    for trial in reversed(sweep.trials):
        curve = read_metrics(sweep.folder / trial.folder).curve(metric) if trial.folder else None
        if curve is None or not curve.drawable:
            curve = Curve(metric, np.array([*trial.steps], float), np.array([*trial.steps.values()], float))
        named = trial.rank is not None and trial.rank <= len(NAMED)
        color, dashes, end = STYLE.get(trial.status, OTHER)
        lines.append(
            Line(
                curve,
                label=f"{trial.rank}. {trial.name}" if named else None,
                color=NAMED[trial.rank - 1] if named and trial.rank else color,
                width=2.8 if trial.rank == 1 else 1.8 if named else 1.0,
                dashes=dashes,
                alpha=1.0 if named else 0.5 if trial.status == "finished" else 0.8,
                end="" if trial.status == "finished" else end,
            )
        )
    drawn = overlay_figure(f"Learning curves: {metric}", metric, lines, size=WIDE)
    if drawn is None:
        return None
    pruned = sum(trial.status == "pruned" for trial in sweep.trials)
    if pruned:
        drawn.axes[0].plot([], [], color=VERMILION, linestyle=(0, (4, 2)), marker="x", label=f"pruned ({pruned})")
    handles, labels = drawn.axes[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: (not labels[place][0].isdigit(), labels[place]))
    legend(drawn.axes[0], loc="best", handles=[handles[place] for place in order])
    return (
        drawn,
        f"{metric} over the steps of {counted(len(lines), 'trial')}; {pruned} end early because they were pruned.",
    )


def _parameter(sweep: SweepRecord, axis: SweepParameter) -> tuple[Figure, str] | None:
    metric, _ = sweep.objectives[0]
    members_of = [t for t in sweep.trials if axis.name in t.params]
    reached = {t.number: v for t in members_of if (v := _reached(sweep, t)) is not None}
    shown = [t for t in members_of if t.number in reached]
    if not shown:
        return None
    drawn, (axes,) = figure(f"{metric} by {_short(axis.name)}", axis.name, metric)
    place, labels = (
        _categories(axis, [trial.params[axis.name] for trial in shown]) if axis.kind == "choice" else ({}, [])
    )
    for status, (color, _, marker), members in _groups(shown):
        x = [_along(t.params[axis.name], place) for t in members]
        y = [reached[t.number] for t in members]
        if metric == "eval/accuracy" and status == "finished":
            bars = [(h, t.accuracy, t.accuracy_low, t.accuracy_high) for h, t in zip(x, members, strict=True)]
            for at, middle, low, high in bars:
                if middle is not None and low is not None and high is not None:
                    axes.plot([at, at], [low, high], color=color, linewidth=1.0, alpha=0.35)
        axes.scatter(x, y, s=34, color=color, marker=marker, alpha=0.85, label=f"{status} ({len(members)})", zorder=3)
    if axis.kind == "choice":
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.5, len(labels) - 0.5)
    elif axis.log:
        axes.set_xscale("log")
    legend(axes, loc="best")
    return drawn, f"{metric} of {counted(len(shown), 'trial')} against {axis.name}."


def _pareto(sweep: SweepRecord) -> tuple[Figure, str] | None:
    if len(sweep.objectives) < 2:
        return None
    (first, _), (second, _) = sweep.objectives[:2]
    done = [t for t in sweep.trials if first in t.values and second in t.values]
    if not done:
        return None
    drawn, (axes,) = figure("Trade-off between the objectives", second, first)
    for name, members, color, marker in (
        ("Pareto front", [t for t in done if t.pareto], BLUE, "o"),
        ("beaten by another trial", [t for t in done if not t.pareto], GREY, "x"),
    ):
        if members:
            x, y = [t.values[second] for t in members], [t.values[first] for t in members]
            axes.scatter(x, y, color=color, marker=marker, s=36, label=f"{name} ({len(members)})")
    legend(axes, loc="best")
    front = ", ".join(t.name for t in done if t.pareto)
    return drawn, f"{first} against {second} of {counted(len(done), 'trial')}; on the Pareto front: {front}."


def _compute(sweep: SweepRecord) -> tuple[Figure, str] | None:
    spent = [trial for trial in sweep.trials if trial.seconds > 0]
    if not spent:
        return None
    bars = spent[:MOST_BARS]
    unit, name = (60.0, "minutes") if max(trial.seconds for trial in spent) > 180 else (1.0, "seconds")
    size = (6.4, 1.6 + 0.2 * len(bars))
    drawn, (axes,) = figure("Compute spent", f"process time ({name})", "", size=size)
    for status, (color, _, _), members in _groups(bars):
        axes.barh(
            [bars.index(t) for t in members],
            [t.seconds / unit for t in members],
            color=color,
            alpha=0.75,
            hatch="" if status == "finished" else "////",
            edgecolor="white",
            linewidth=0,
            label=f"{status}: {sum(t.seconds for t in members) / unit:.3g} {name}",
        )
    axes.set_yticks(range(len(bars)), [t.name for t in bars], fontsize=8)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    legend(axes, loc="best")
    total = sum(trial.seconds for trial in spent)
    return drawn, f"Bars of the process time of {counted(len(bars), 'trial')}, {total:.0f} seconds over all."


# --- scales ---

Scale = tuple[Callable[[Any], float], list[tuple[float, str]]]


def _scale(axis: SweepParameter, values: Sequence[Any]) -> Scale:
    if axis.kind != "choice":
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        return _numeric(numbers, log=axis.log, up=True, whole=axis.kind == "int")
    place, labels = _categories(axis, [value for value in values if value is not None])
    top = max(1, len(labels) - 1)
    ticks = [(place[label] / top if len(labels) > 1 else 0.5, label) for label in labels]
    known = {label: height for height, label in ticks}
    return lambda value: known.get(str(value), math.nan), ticks


def _numeric(numbers: Sequence[float], *, log: bool, up: bool, whole: bool = False) -> Scale:
    """From the least to the greatest number, 0 to 1 (or 1 to 0), with five ticks."""
    turn = math.log10 if log else float
    low, high = turn(min(numbers)), turn(max(numbers))
    span = (high - low) or 1.0

    def height(value: Any) -> float:
        if not isinstance(value, int | float):
            return math.nan
        share = (turn(value) - low) / span if high > low else 0.5
        return share if up else 1 - share

    marks = [low + span * i / 4 for i in range(5)] if high > low else [low]
    values = [10**mark if log else mark for mark in marks]
    values = sorted({float(round(value)) for value in values}) if whole else values
    return height, [(height(value), f"{value:.3g}") for value in values]


def _categories(axis: SweepParameter, values: Sequence[Any]) -> tuple[dict[str, int], list[str]]:
    """Positions of the categories that were tried: numbers by size, texts as the search listed them."""
    labels = {str(value) for value in values}
    try:
        ordered = sorted(labels, key=float)
    except ValueError:
        ordered = [value for value in axis.values if value in labels]
        ordered += sorted(labels - set(ordered))
    return {label: place for place, label in enumerate(ordered)}, ordered


def _along(value: Any, place: dict[str, int]) -> float:
    return float(place[str(value)]) if place else float(value)


def _short(name: str) -> str:
    """The last part of a key: what tells it from the others."""
    return name.rsplit(".", 1)[-1]
