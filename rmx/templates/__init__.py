"""Conversations to text: which chat template, and the one Jinja that everybody downstream renders with.

    Template (a choice, cheap) ──bind(tokenizer)──▶ BoundTemplate (final Jinja, checked) ──render──▶ text

The text of a conversation ends at the token whose hidden state becomes the reward.
"""

from __future__ import annotations

from rmx.templates.bind import BoundTemplate, Check
from rmx.templates.choose import PINNED_DATE, Template, template_names

__all__ = ["PINNED_DATE", "BoundTemplate", "Check", "Template", "template_names"]
