"""Training and validation rows that share no prompt.

Rows are grouped by the first user turn of their prompt (letter case, white space and Unicode form do not count),
and whole groups go to one side. A random split of HH-RLHF leaves 31 of 231 validation rows with a first turn that
training has seen; this one leaves none.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections.abc import Sequence
from typing import Literal

from rmx.data.spool import take
from rmx.errors import DataError
from rmx.records import Comparison

__all__ = ["SplitBy", "group_number", "held_out", "normalise", "prompt_group", "split_by_prompt"]


SplitBy = Literal["prompt_hash", "count"]


def normalise(text: str) -> str:
    """Text without what does not change its meaning here: case, runs of white space, Unicode form.

    >>> normalise("  What IS\\n2+2? ")
    'what is 2+2?'
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def prompt_group(comparison: Comparison) -> str:
    """The key that rows with the same prompt share: the normalised first user turn.

    Without a user turn it is the first message; without a prompt, the first response in alphabetical order.
    """
    for message in comparison.prompt:
        if message["role"] == "user":
            return normalise(message["content"])
    if comparison.prompt:
        return normalise(comparison.prompt[0]["content"])
    return min(normalise(response[0]["content"]) for response in comparison.responses)


def group_number(comparison: Comparison, seed: int) -> int:
    """A 64-bit hash of (seed, prompt group), the same in every process."""
    salt = seed.to_bytes(8, "little", signed=True)
    group = prompt_group(comparison).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(group, digest_size=8, key=salt).digest(), "big")


def held_out(groups: Sequence[int], fraction: float, by: SplitBy = "prompt_hash", key: str = "data") -> list[bool]:
    """Which rows stand aside for evaluation, given the group number of each: about `fraction` of them, whole groups.

    `prompt_hash`: the groups whose number is below fraction x 2^64. A row's side then depends on its prompt and the
    seed alone, so a file that grows moves nobody, and an evaluation set of last month holds no row of this month's
    training. The share is only met on average: of n groups of equal size, sqrt(n x fraction x (1 - fraction)) more or
    fewer are taken, 1 sigma (of 1,000 groups at 0.1: 100, give or take 9). Where none is below, or all are, the group
    nearest to the border changes sides, so that neither side is empty.

    `count`: groups in the order of their numbers until the share is reached, without one that would overshoot it. The
    share is exact, but new rows may move old ones to the other side.

    >>> held_out([2**61, 2**63, 2**61, 2**60, 2**62], 0.2)  # the border lies at 0.2 x 2^64, between 2^61 and 2^62
    [True, False, True, True, False]
    >>> held_out([7, 3, 7, 9, 5], 0.2, "count")
    [False, True, False, False, False]

    Raises:
        DataError: the rows cannot be split, because nearly all of them have one prompt.
    """
    import numpy as np

    if fraction <= 0.0 or fraction >= 1.0 or not groups:
        return [fraction >= 1.0] * len(groups)
    numbers = np.array(groups, dtype=np.uint64)
    order, sizes = np.unique(numbers, return_counts=True)
    if by == "count":
        taken = _by_count(sizes.tolist(), max(1, round(fraction * len(groups))))
    else:
        below = sum(number < fraction * 2**64 for number in order.tolist())
        taken = list(range(min(max(below, 1), len(order) - 1)))
    if not taken or len(taken) == len(order):
        raise DataError(
            f"{key}.validation_fraction={fraction:g}: {len(groups)} rows have {len(order)} different prompts, "
            "too few to put some aside without a prompt on both sides; "
            f"give {key}.eval_sets={{eval: FILE}} and {key}.validation_fraction=0"
        )
    return np.isin(numbers, order[taken]).tolist()


def _by_count(sizes: list[int], wanted: int) -> list[int]:
    """The first groups that together have `wanted` rows; the smallest, where every group is larger than that."""
    taken: list[int] = []
    count = 0
    for i, size in enumerate(sizes):
        if count + size <= wanted:
            taken.append(i)
            count += size
            if count == wanted:
                break
    return taken or ([sizes.index(min(sizes))] if len(sizes) > 1 else [])


def split_by_prompt(
    comparisons: Sequence[Comparison], fraction: float, seed: int, by: SplitBy = "prompt_hash"
) -> tuple[Sequence[Comparison], Sequence[Comparison]]:
    """Training and evaluation rows by `held_out`; both sides keep their order.

    Raises:
        DataError: the rows cannot be split, because nearly all of them have one prompt.
    """
    groups = array("Q", (group_number(comparison, seed) for comparison in comparisons) if 0 < fraction < 1 else ())
    aside = held_out(groups, fraction, by) if groups else [fraction >= 1.0] * len(comparisons)
    sides = [[i for i, held in enumerate(aside) if held is side] for side in (False, True)]
    return take(comparisons, sides[0]), take(comparisons, sides[1])
