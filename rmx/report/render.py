"""From facts to one self-contained HTML file: jinja2 with autoescape, style and script inline, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rmx.files import write_text

__all__ = ["interval", "percent", "seconds_in_words", "shown_number", "signed", "write_page"]

TEMPLATES = Path(__file__).parent / "templates"
NOT_DEFINED = "–"


def write_page(path: Path, template: str, facts: Mapping[str, Any]) -> Path:
    """Render a template and replace `path` with it; a reader never sees half a page.

    The page's own script is the only one that its content security policy lets run, whatever user data holds.

    Raises:
        OutputError: the file cannot be written.
    """
    script = (TEMPLATES / "tables.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = (
        _environment()
        .get_template(template)
        .render(
            **facts,
            script=Markup(script),
            style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
            script_hash=f"sha256-{digest}",
        )
    )
    # Lone surrogates, which broken JSON escapes can smuggle in, have no UTF-8 form.
    return write_text(path, page.encode("utf-8", errors="replace").decode("utf-8"))


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent; what is not defined as a dash.

    >>> percent(0.7281), percent(None)
    ('72.8 %', '–')
    """
    return NOT_DEFINED if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def interval(low: float | None, high: float | None) -> str:
    """Two shares as the ends of an interval.

    >>> interval(0.69, 0.764), interval(None, None)
    ('69.0 % to 76.4 %', '–')
    """
    return NOT_DEFINED if low is None or high is None else f"{percent(low)} to {percent(high)}"


def shown_number(value: object, digits: int = 4) -> str:
    """A number with so many significant digits, integers whole, anything else as text.

    >>> [shown_number(value) for value in (0.123456, 1200.0, 1e-5, float("nan"), "adamw", True)]
    ['0.1235', '1,200', '1e-05', '–', 'adamw', 'true']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOT_DEFINED
    if isinstance(value, int | float):
        whole = float(value).is_integer() and abs(value) < 1e15
        return f"{int(value):,}" if whole else f"{value:.{digits}g}"
    return str(value)


def signed(value: float | None) -> str:
    """A correlation: two decimals and always a sign.

    >>> signed(0.961), signed(-0.002), signed(None)
    ('+0.96', '+0.00', '–')
    """
    return NOT_DEFINED if value is None else f"{round(value, 2) + 0.0:+.2f}"  # the sum turns -0.0 into 0.0


def seconds_in_words(seconds: float | None) -> str:
    """Seconds for people.

    >>> seconds_in_words(7.25), seconds_in_words(90), seconds_in_words(7500), seconds_in_words(None)
    ('7.2 s', '1 min 30 s', '2 h 05 min', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return NOT_DEFINED
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def p_value(value: float) -> str:
    """A p-value without false precision.

    >>> p_value(0.00002), p_value(0.0345)
    ('< 0.001', '0.035')
    """
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # for every template, whatever its suffix
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = (percent, shown_number, seconds_in_words, p_value, signed)
    environment.filters |= {function.__name__: function for function in shown}
    environment.globals |= {"interval": interval}
    return environment
