"""Conversations to token ids: whole texts, cut so that the scored end stays, shared beginnings found.

Comparison ──render──▶ K texts ──tokenise──▶ K id rows ──cut to max_tokens──▶ EncodedComparison
"""

from __future__ import annotations

from rmx.tokens.cache import cache_folder, cached_encode, content_key
from rmx.tokens.encode import encode, encode_conversations
from rmx.tokens.fingerprint import rows_facts
from rmx.tokens.show import show_sample, show_tokens
from rmx.tokens.store import EncodedRows
from rmx.tokens.tally import TruncationReport

__all__ = [
    "EncodedRows",
    "TruncationReport",
    "cache_folder",
    "cached_encode",
    "content_key",
    "encode",
    "encode_conversations",
    "rows_facts",
    "show_sample",
    "show_tokens",
]
