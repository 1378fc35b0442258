"""Conversations to text: which chat template, and the one Jinja that everybody downstream renders with.

    Template (a choice, cheap) ──bind(tokenizer)──▶ BoundTemplate (final Jinja, checked) ──render──▶ text

The text of a conversation ends at the token whose hidden state becomes the reward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmx.templates.choose import PINNED_DATE, Template, template_names

if TYPE_CHECKING:
    from rmx.templates.bind import BoundTemplate, Check

__all__ = ["PINNED_DATE", "BoundTemplate", "Check", "Template", "template_names"]


def __getattr__(name: str) -> Any:
    """Import what needs Jinja when it is first named: a configuration is checked without it."""
    if name in {"BoundTemplate", "Check"}:
        from rmx.templates import bind

        return getattr(bind, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
