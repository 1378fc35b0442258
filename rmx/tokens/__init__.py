"""Conversations to token ids: whole texts, cut so that the scored end stays, shared beginnings found.

Comparison ──render──▶ K texts ──tokenise──▶ K id rows ──cut to max_tokens──▶ EncodedComparison
"""

from __future__ import annotations

from rmx.tokens.encode import encode, encode_conversations
from rmx.tokens.report import TruncationReport

__all__ = ["TruncationReport", "encode", "encode_conversations"]
