"""Preference data: any file → `Comparison`s, with every row accounted for.

files ──readers──▶ rows ──formats──▶ comparisons ──split──▶ train + evaluation sets ──audit──▶ Audit
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rmx.data.accounting import REASONS, Accounting, Reject, SourceAccount, Splits
from rmx.data.llamafactory import LlamaFactoryData
from rmx.data.mixing import Mixture
from rmx.data.preference import PreferenceData
from rmx.data.synthetic import SyntheticData

if TYPE_CHECKING:
    from rmx.data.rows.detect import FORMATS

_LATER = {"FORMATS": "rows.detect"}  # imported when first named

__all__ = [
    "FORMATS",
    "REASONS",
    "Accounting",
    "LlamaFactoryData",
    "Mixture",
    "PreferenceData",
    "Reject",
    "SourceAccount",
    "Splits",
    "SyntheticData",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"rmx.data.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
