"""Which part of an over-long comparison stays: the end, because the reward is read at the last token.

1. Whole turns: the oldest turns go first, a turn beginning at a user message. The system message stays as long as
   anything fits beside it.
2. If the last user turn alone is still too long, tokens go from the left, BOS excepted, and the same ones from all
   responses, so that the comparison stays a comparison under one prompt.
3. A response that is too long by itself has lost the whole prompt and keeps BOS and its own end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmx.records import Message

__all__ = ["Cut", "common_prefix", "cut_left", "shorter_prompts"]


def shorter_prompts(prompt: Sequence[Message]) -> list[tuple[Message, ...]]:
    """Ever shorter versions of a prompt, each beginning at a user turn; the last one is only the last user turn.

    >>> roles = ["system", "user", "assistant", "user"]
    >>> chat = [{"role": role, "content": text} for role, text in zip(roles, "s123")]
    >>> [" ".join(m["content"] for m in version) for version in shorter_prompts(chat)]
    ['s 3', '3']
    """
    leading = 0
    while leading < len(prompt) and prompt[leading]["role"] in ("system", "developer"):
        leading += 1
    system, rest = tuple(prompt[:leading]), tuple(prompt[leading:])
    users = [i for i, message in enumerate(rest) if message["role"] == "user"]
    versions = [system + rest[i:] for i in users if i > 0]
    if users and system:
        versions.append(rest[users[-1] :])
    return versions


def common_prefix(rows: Sequence[np.ndarray]) -> int:
    """Number of leading tokens that all rows share, at most one less than the shortest row has.

    >>> common_prefix([np.array([1, 2, 3, 4]), np.array([1, 2, 9, 4])])
    2
    >>> common_prefix([np.array([1, 2]), np.array([1, 2])])
    1
    """
    limit = min(len(row) for row in rows) - 1
    first = rows[0][:limit]
    for row in rows[1:]:
        differs = first != row[: len(first)]
        at = int(differs.argmax()) if len(differs) else 0
        if len(differs) and differs[at]:
            first = first[:at]
    return len(first)


@dataclass(frozen=True)
class Cut:
    """Rows that fit, and what became of prompt and responses on the way."""

    rows: list[np.ndarray]
    prompt_lost: bool
    response_cut: bool


def cut_left(rows: Sequence[np.ndarray], max_tokens: int, *, keep: int, prompt: int | None = None) -> Cut:
    """Cut rows to `max_tokens` from the left behind their first `keep` tokens (BOS); the same cut for all.

    `prompt` is the number of tokens that belong to the prompt, where that is known: responses that begin alike share
    more than their prompt.

    >>> cut = cut_left([np.arange(6), np.array([0, 1, 2, 3, 9])], 4, keep=1)
    >>> [row.tolist() for row in cut.rows], cut.response_cut
    ([[0, 3, 4, 5], [0, 3, 9]], False)
    """
    over = max(len(row) for row in rows) - max_tokens
    shared = max(common_prefix(rows) - keep, 0)
    gone = min(over, shared)
    shortened = [np.concatenate([row[:keep], row[keep + gone :]]) for row in rows]
    room = max_tokens - keep
    cut = [row if len(row) <= max_tokens else np.concatenate([row[:keep], row[len(row) - room :]]) for row in shortened]
    of_prompt = shared if prompt is None else min(shared, max(prompt - keep, 0))
    return Cut(cut, prompt_lost=over >= of_prompt, response_cut=over > of_prompt)
