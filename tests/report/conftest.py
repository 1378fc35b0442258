"""Makes the run-folder helper, which tests/test_plots.py uses too, importable from here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
