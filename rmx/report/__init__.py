"""Pages that explain a run, a sweep or a comparison: self-contained HTML files, drawn from what the runs left.

They load nothing from anywhere, follow the light or dark scheme of their reader, and hold no text of the data unless
asked to.
"""

from __future__ import annotations

from rmx.report.compare_page import write_comparison
from rmx.report.run_page import write_run_report
from rmx.report.sweep_page import write_sweep_report

__all__ = ["write_comparison", "write_run_report", "write_sweep_report"]
