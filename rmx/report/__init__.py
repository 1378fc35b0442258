"""Pages that explain a run: one self-contained HTML file, drawn from the files that the run left."""

from __future__ import annotations

from rmx.report.run_page import write_run_report

__all__ = ["write_run_report"]
