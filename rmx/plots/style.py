"""How rmx figures look, and how they become files: no pyplot, no global state, the same bytes every time."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rmx.files import write_bytes, write_text

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "INK",
    "ORANGE",
    "PALETTE",
    "VERMILION",
    "Picture",
    "figure",
    "legend",
    "whole_steps",
]

# Okabe & Ito's palette ("Color Universal Design", 2008): told apart with every common colour vision. Besides colour,
# lines and markers differ in shape wherever two series share a panel. The yellow is left out: too faint on white.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
INK, GREY, PAPER = "#1f2328", "#6b737c", "#ffffff"

# In a page, colours become CSS variables, so that a figure follows the light or dark scheme of its reader.
_VARIABLES = {
    INK: "var(--ink)",
    GREY: "var(--muted)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    VERMILION: "var(--vermilion)",
    PURPLE: "var(--purple)",
    SKY: "var(--sky)",
    PAPER: "var(--paper)",
}


def figure(
    title: str, x_label: str, y_label: str, *, panels: Literal[1, 2] = 1, size: tuple[float, float] = (6.4, 4.0)
) -> tuple[Figure, list[Axes]]:
    """An empty figure with a title and labelled axes; with two panels the second is a strip below the first.

    >>> drawn, (axes,) = figure("Loss", "step", "nats")
    >>> axes.get_ylabel()
    'nats'
    """
    drawn = Figure(figsize=size, layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(drawn)
    axes = [drawn.add_subplot()] if panels == 1 else list(drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1)))
    axes[0].set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    axes[0].set_ylabel(y_label)
    axes[-1].set_xlabel(x_label)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(GREY)
        panel.tick_params(colors=GREY, labelcolor=INK, labelsize=9)
        panel.xaxis.label.set_color(INK)
        panel.yaxis.label.set_color(INK)
        panel.grid(True, color=GREY, alpha=0.18, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.patch.set_alpha(0.0)
    return drawn, axes


def whole_steps(axes: Axes) -> None:
    """Tick only whole numbers: there is no step 2.5."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))


def legend(axes: Axes, **where: object) -> None:
    """A legend in the figure's own colours."""
    look = {"fontsize": 9, "labelcolor": INK, "facecolor": PAPER, "edgecolor": "none", "framealpha": 0.75}
    axes.legend(**(look | where)).set_zorder(5)


@dataclass(frozen=True)
class Picture:
    """A figure under its name, rendered once: what is saved as SVG and what stands in a page are the same text."""

    name: str
    figure: Figure

    @cached_property
    def svg(self) -> str:
        """The figure as an SVG file; the same figure gives the same text."""
        target = io.StringIO()
        # Two settings that exist only as rcParams: text as text, and ids that do not change from run to run.
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(target, format="svg", metadata={"Date": None, "Creator": "rmx"})
        return target.getvalue()

    def save(self, folder: Path) -> list[Path]:
        """Write `NAME.png` (150 dpi) and `NAME.svg`; the same figure gives the same bytes.

        Raises:
            OutputError: the folder cannot be written to.
        """
        svg = self.svg  # before the PNG, always: a figure's layout depends on what it was rendered as before
        pixels = io.BytesIO()
        self.figure.savefig(pixels, format="png", dpi=150, metadata={"Software": "rmx"})
        png = write_bytes(folder / f"{self.name}.png", pixels.getvalue())
        return [png, write_text(folder / f"{self.name}.svg", svg)]

    def inline(self, alt: str) -> str:
        """Return an `<svg>` element for a page: colours as CSS variables, ids of its own, `alt` for screen readers.

        Only the name and `alt` come from outside; `alt` is escaped. Text stays text: it can be searched and scaled.
        """
        svg = self.svg[self.svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
        # matplotlib's one rule, "* {stroke-linejoin: round; ...}", would reach beyond the figure: the page has its own.
        svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
        svg = re.sub(r"font-family:[^;\"]*;?", "", svg)
        svg = re.sub(r"(font: (?:[\w.]+ )*?[\d.]+px) [^;\"]*", r"\1 var(--sans)", svg)
        for color, variable in _VARIABLES.items():
            svg = svg.replace(color, variable)
        # Several figures share a page: every id and reference gets the figure's name.
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", self.name)
        svg = re.sub(r'\bid="', f'id="{safe}-', svg)
        svg = svg.replace("url(#", f"url(#{safe}-").replace('href="#', f'href="#{safe}-')
        width, height = self.figure.get_size_inches() * 72
        opening = (
            f'<svg class="plot" role="img" aria-label="{_escaped(alt)}" viewBox="0 0 {width:g} {height:g}" '
            'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        )
        return opening + svg[svg.index(">") + 1 :].strip()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
