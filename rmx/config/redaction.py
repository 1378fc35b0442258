"""Secrets taken out of a configuration; the rules are those of `rmx.redact`, for every file and tracker alike."""

from rmx.redact import HIDDEN, is_secret_name, redact, redact_text

__all__ = ["HIDDEN", "is_secret_name", "redact", "redact_text"]
