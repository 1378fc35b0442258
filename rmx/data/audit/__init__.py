"""What is in the data and what is wrong with it, before anything is trained on it."""

from __future__ import annotations

from rmx.data.audit.findings import Audit, audit

__all__ = ["Audit", "audit"]
