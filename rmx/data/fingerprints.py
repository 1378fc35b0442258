"""Hashes by which rows are compared: the same prompt, the same response, the same pair.

They are Python's own 64-bit string hashes: fast, and different from process to process, so they are never stored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from rmx.data.holdout import normalise
from rmx.records import Comparison, Message

__all__ = ["loose_prompt", "pair_keys", "say", "sides"]


def say(messages: Sequence[Message]) -> int:
    """A hash of who says what, exactly.

    >>> say([{"role": "user", "content": "Hi"}]) == say([{"content": "Hi", "role": "user"}])
    True
    """
    return hash(
        tuple(
            (m["role"], m["content"]) if len(m) == 2 else (m["role"], m["content"], json.dumps(m, sort_keys=True))
            for m in messages
        )
    )


def loose_prompt(comparison: Comparison) -> int:
    """A hash of the prompt without letter case, white space and Unicode form."""
    return hash(tuple((message["role"], normalise(message["content"])) for message in comparison.prompt))


def pair_keys(comparison: Comparison) -> list[tuple[int, int, int]]:
    """(prompt, winner, loser) of every pair."""
    prompt = say(comparison.prompt)
    responses = [say(response) for response in comparison.responses]
    return [(prompt, responses[pair.winner], responses[pair.loser]) for pair in comparison.pairs]


def sides(comparison: Comparison) -> set[tuple[int, int, int]]:
    """(prompt, a, b) of every pair, whichever of a and b is preferred."""
    return {(prompt, min(a, b), max(a, b)) for prompt, a, b in pair_keys(comparison)}
