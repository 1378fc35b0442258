"""Preference data: any file → `Comparison`s, with every row accounted for.

files ──readers──▶ rows ──formats──▶ comparisons ──split──▶ train + evaluation sets ──audit──▶ Audit
"""

from __future__ import annotations

from rmx.data.accounting import REASONS, Accounting, Reject, SourceAccount, Splits
from rmx.data.audit.findings import Audit, audit
from rmx.data.llamafactory import LlamaFactoryData
from rmx.data.mixing import Mixture
from rmx.data.preference import PreferenceData
from rmx.data.rows.detect import FORMATS
from rmx.data.synthetic import SyntheticData

__all__ = [
    "FORMATS",
    "REASONS",
    "Accounting",
    "Audit",
    "LlamaFactoryData",
    "Mixture",
    "PreferenceData",
    "Reject",
    "SourceAccount",
    "Splits",
    "SyntheticData",
    "audit",
]
