"""The pictures of the documentation: each function draws NAME.svg, from a formula or from measured.json.

make pictures        writes all of them, beside this file
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rmx.files import write_text
from rmx.metrics import wilson_interval
from rmx.plots.style import BLUE, GREEN, GREY, INK, ORANGE, VERMILION, Picture, figure, legend

HERE = Path(__file__).parent
MEASURED: dict[str, Any] = json.loads((HERE / "measured.json").read_text(encoding="utf-8"))


def quickstart_loss() -> Figure:
    """The quickstart's run: loss of each step, of each evaluation, and the least possible."""
    drawn, (axes,) = figure("Loss while training", "optimizer step", "nats", size=(6.4, 3.6))
    first = MEASURED["first"]
    axes.axhline(np.log(2), color=GREY, linestyle="--", label="a coin, 0.693")
    axes.axhline(first["best_possible_loss"], color=GREEN, linestyle=":", label="best possible on the evaluation set")
    axes.plot(first["train/loss"]["step"], first["train/loss"]["loss"], color=BLUE, alpha=0.6, label="train, each step")
    axes.plot(first["eval/loss"]["step"], first["eval/loss"]["loss"], "o-", color=VERMILION, label="held-out prompts")
    axes.set_ylim(0, 1.3)
    legend(axes)
    return drawn


def bradley_terry() -> Figure:
    """σ(d): the probability that the first response is preferred."""
    drawn, (axes,) = figure(
        "From rewards to a probability",
        "reward of A minus reward of B",
        "probability that A is preferred",
        size=(6.4, 3.6),
    )
    d = np.linspace(-5, 5, 201)
    axes.plot(d, sigmoid(d), color=BLUE, linewidth=2)
    for x in (0.0, float(np.log(3)), 2.0):
        axes.plot([x], [sigmoid(x)], "o", color=VERMILION)
        note(axes, f"{x:.3g}  →  {sigmoid(x):.2f}", (x, sigmoid(x)), (9, -11))
    axes.set_ylim(0, 1)
    return drawn


def loss_of_a_pair() -> Figure:
    """-log σ(d), and how strongly it pulls."""
    drawn, (axes,) = figure("What one pair costs", "reward of chosen minus reward of rejected", "nats", size=(6.4, 3.6))
    d = np.linspace(-4, 6, 201)
    axes.plot(d, np.log1p(np.exp(-d)), color=BLUE, linewidth=2, label="loss  -log σ(d)")
    axes.plot(d, sigmoid(-d), color=VERMILION, linewidth=2, linestyle="--", label="pull  1 - σ(d)")
    axes.plot([0], [np.log(2)], "o", color=BLUE)
    note(axes, "0.693: a model that knows nothing", (0, np.log(2)), (12, 12))
    axes.set_ylim(0, 4)
    legend(axes)
    return drawn


def shared_row() -> Figure:
    """The padded batch of two sequences against one row in which the prompt stands once."""
    drawn = Figure(figsize=(7.6, 3.5), layout="constrained", facecolor="#ffffff")
    axes = drawn.add_subplot()
    axes.set_axis_off()
    prompt, chosen, rejected = 12, 6, 3
    for y, response, name, color in ((3.4, chosen, "chosen", BLUE), (2.3, rejected, "rejected", VERMILION)):
        boxes(axes, 0, y, prompt, GREY, "prompt")
        boxes(axes, prompt, y, response, color, name)
        boxes(axes, prompt + response, y, chosen - response, "#ffffff", "padding")
    axes.text(0, 4.5, "Two padded sequences: 36 positions", color=INK, fontweight="bold")
    boxes(axes, 0, 0.2, prompt, GREY, "prompt, once")
    boxes(axes, prompt, 0.2, chosen, BLUE, "chosen")
    boxes(axes, prompt + chosen, 0.2, rejected, VERMILION, "rejected")
    axes.text(0, 1.3, "One shared row: 21 positions, the same rewards", color=INK, fontweight="bold")
    pointer = {"ha": "center", "color": INK, "fontsize": 9, "arrowprops": {"arrowstyle": "-", "color": GREY}}
    axes.annotate("sees the prompt,\nnot chosen", (19.5, 0.2), xytext=(19.5, -1.15), **pointer)
    axes.annotate("restarts at position 12", (18.1, 0.2), xytext=(11.5, -1.0), **pointer)
    axes.set_xlim(-0.3, 22)
    axes.set_ylim(-1.5, 5)
    return drawn


def boxes(axes: Axes, left: float, bottom: float, count: int, color: str, name: str) -> None:
    """A run of token boxes with a word in it."""
    for place in range(count):
        axes.add_patch(Rectangle((left + place, bottom), 0.94, 0.8, facecolor=color, edgecolor=GREY, alpha=0.55))
    if count:
        axes.text(left + count / 2, bottom + 0.38, name, ha="center", va="center", color=INK, fontsize=9)


def seeds_differ() -> Figure:
    """Five seeds of one configuration: where their rewards lie, and how accurate they are."""
    drawn, (axes,) = figure(
        "One configuration, five seeds", "mean reward on the evaluation set", "seed", size=(6.4, 3.4)
    )
    for row in MEASURED["seeds"]:
        seed = row["seed"]
        axes.plot([row["rejected_reward"], row["chosen_reward"]], [seed, seed], color=GREY, zorder=1)
        axes.plot([row["rejected_reward"]], [seed], "s", color=VERMILION, label="rejected" if seed == 1 else None)
        axes.plot([row["chosen_reward"]], [seed], "o", color=BLUE, label="chosen" if seed == 1 else None)
        note(axes, f"accuracy {row['accuracy']:.3f}", (row["chosen_reward"], seed), (9, -4))
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.3 * (right - left))
    axes.set_yticks([row["seed"] for row in MEASURED["seeds"]])
    legend(axes, loc="upper left", ncols=2, bbox_to_anchor=(0.55, 1.14))
    return drawn


def ensemble() -> Figure:
    """Three seeds as an ensemble: how often it is wrong in each third of the rows, by three signs of doubt."""
    drawn, (axes,) = figure("Three seeds as one: where are they wrong?", "", "rows ranked wrongly", size=(7.2, 3.8))
    signs = {
        "disagreement": "disagreement\n(reward units)",
        "disagreement_per_lead": "disagreement\ndivided by margin",
        "lead": "margin alone\n(small = doubtful)",
    }
    thirds = (("surest third", BLUE), ("middle", GREY), ("most doubtful third", VERMILION))
    for place, name in enumerate(signs):
        for k, (label, color) in enumerate(thirds):
            share, x = MEASURED["ensemble"]["thirds"][name][k], place + 0.27 * (k - 1)
            axes.bar([x], [share], width=0.25, color=color, alpha=0.75, label=label if place == 0 else None)
            axes.annotate(f"{100 * share:.1f} %", (x, share), xytext=(0, 3), textcoords="offset points", ha="center")
    axes.axhline(MEASURED["ensemble"]["wrong"], color=GREY, linestyle=":", label="all rows")
    axes.set_xticks(range(3), list(signs.values()))
    axes.set_yticks([0, 0.1, 0.2, 0.3], ["0", "10 %", "20 %", "30 %"])
    axes.set_ylim(0, 0.34)
    legend(axes, loc="upper left")
    return drawn


def interval_width() -> Figure:
    """How far an accuracy of 0.7 may be from the truth, against the number of pairs."""
    drawn, (axes,) = figure(
        "An accuracy of 0.70, measured on n pairs", "pairs in the evaluation set", "95 % interval", size=(6.4, 3.6)
    )
    counts = np.geomspace(20, 20000, 120)
    ends = np.array([wilson_interval(0.7 * n, n) for n in counts])
    axes.fill_between(counts, ends[:, 0], ends[:, 1], color=BLUE, alpha=0.2)
    axes.axhline(0.7, color=BLUE)
    for n in (100, 1000, 10000):
        low, high = wilson_interval(0.7 * n, n)
        axes.plot([n, n], [low, high], color=INK, marker="_")
        note(axes, f"{n:,}: {low:.3f} to {high:.3f}", (n, high), (4, 6))
    axes.set_xscale("log")
    axes.set_xlim(20, 60000)
    return drawn


def calibration() -> Figure:
    """How often a model is right, against how sure it is: noisy labels, two lengths of training."""
    drawn, (axes,) = figure("Sure, and right?", "confidence  σ(|margin|)", "share right", size=(6.0, 4.2))
    axes.plot([0.5, 1], [0.5, 1], color=GREY, linestyle=":", label="as sure as right")
    for name, color, marker in (("short", BLUE, "o"), ("long", VERMILION, "s")):
        run = MEASURED["calibration"][name]
        table = [row for row in run["bins"] if row["count"] >= 10]
        x, y = ([row[key] for row in table] for key in ("confidence", "accuracy"))
        label = f"{run['epochs']:g} epochs: ECE {run['ece']:.3f}, T {run['temperature']:.2f}"
        gaps = [[row["accuracy"] - row["low"] for row in table], [row["high"] - row["accuracy"] for row in table]]
        axes.errorbar(x, y, yerr=gaps, color=color, marker=marker, linewidth=1.5, elinewidth=0.8, label=label)
    axes.set_ylim(0.3, 1.02)
    legend(axes, loc="lower right")
    return drawn


def length_bias() -> Figure:
    """Accuracy where the chosen response is the longer one, and where it is the shorter one."""
    drawn, (axes,) = figure("A model that learned to like length", "", "accuracy on fair pairs", size=(6.0, 3.6))
    bias = MEASURED["length"]
    kinds = (
        ("longer", "chosen is longer", BLUE),
        ("shorter", "chosen is shorter", VERMILION),
        ("length_controlled", "both, weighed alike", GREEN),
    )
    for place, (key, _, color) in enumerate(kinds):
        stem = f"{key}_accuracy" if key == "length_controlled" else f"accuracy_{key}"
        value, low, high = bias[stem], bias[f"{stem}_low"], bias[f"{stem}_high"]
        axes.bar([place], [value], color=color, alpha=0.75, width=0.6)
        axes.errorbar([place], [value], yerr=[[value - low], [high - value]], color=INK, capsize=4)
        note(axes, f"{value:.2f}", (place + 0.06, high), (0, 3))
    axes.axhline(0.5, color=GREY, linestyle=":")
    axes.set_xticks(range(3), [name for _, name, _ in kinds])
    axes.set_ylim(0, 1.05)
    return drawn


def best_of_n() -> Figure:
    """The response picked from n by two models: what they think of it, and what it is worth."""
    drawn = Figure(figsize=(8.4, 3.8), layout="constrained", facecolor="#ffffff")
    panels = drawn.subplots(1, 2, sharey=True)
    titles = {"fair": "fair labels", "length": "labels that like length"}
    for axes, (model, title) in zip(panels, titles.items(), strict=True):
        table, n = MEASURED["best_of_n"][model], MEASURED["best_of_n"]["n"]
        learned = [value - table["learned"][0] for value in table["learned"]]
        axes.plot(n, table["possible"], color=GREY, linestyle=":", marker="^", label="best there was, true reward")
        axes.plot(n, learned, color=ORANGE, linestyle="--", marker="s", label="picked, learned reward (from 0)")
        axes.plot(n, table["true"], color=BLUE, marker="o", label="picked, true reward")
        axes.set_xscale("log", base=2)
        axes.set_xticks(n, [str(value) for value in n])
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
        axes.set_xlabel("n candidates")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GREY, alpha=0.18)
    panels[0].set_ylabel("reward")
    legend(panels[1], loc="upper left")
    return drawn


def speed() -> Figure:
    """CPU time per pair against pairs per batch and tokens per sequence, rmx and TRL."""
    file = HERE.parents[1] / "benchmarks" / "results" / "2026-11-25-amd-epyc-2-cores.json"
    curves = json.loads(file.read_text(encoding="utf-8"))["curves"]
    drawn = Figure(figsize=(8.4, 3.6), layout="constrained", facecolor="#ffffff")
    panels = drawn.subplots(1, 2)
    words = {"batch": "pairs per batch", "length": "tokens per sequence (72 % of them prompt)"}
    for axes, (name, label) in zip(panels, words.items(), strict=True):
        for peer, color, marker in (("rmx", BLUE, "o"), ("TRL", VERMILION, "s")):
            points = curves[name][peer]
            sizes = [int(size) for size in points]
            axes.plot(sizes, list(points.values()), color=color, marker=marker, label=peer)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GREY, alpha=0.18)
    panels[0].set_ylabel("CPU milliseconds per pair")
    legend(panels[0])
    return drawn


def note(axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float]) -> None:
    """A few words beside a point, so many points of the page away from it."""
    axes.annotate(text, at, xytext=shift, textcoords="offset points", color=INK, fontsize=9)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return 1 / (1 + np.exp(-x))


PICTURES: tuple[Callable[[], Figure], ...] = (
    quickstart_loss,
    bradley_terry,
    loss_of_a_pair,
    shared_row,
    seeds_differ,
    ensemble,
    interval_width,
    calibration,
    length_bias,
    best_of_n,
    speed,
)


def main() -> None:
    """Draw all of them."""
    for draw in PICTURES:
        write_text(HERE / f"{draw.__name__}.svg", Picture(draw.__name__, draw()).svg)


if __name__ == "__main__":
    main()
