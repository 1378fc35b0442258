"""Training and validation rows that share no prompt.

Rows are grouped by the first user turn of their prompt (letter case, white space and Unicode form do not count),
and whole groups go to one side. A random split of HH-RLHF leaves 31 of 231 validation rows with a first turn that
training has seen; this one leaves none.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

from rmx.errors import DataError
from rmx.records import Comparison

__all__ = ["normalise", "prompt_group", "split_by_prompt"]


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


def split_by_prompt(
    comparisons: Sequence[Comparison], fraction: float, seed: int, key: str = "data"
) -> tuple[list[Comparison], list[Comparison]]:
    """Split off about `fraction` of the rows, whole prompt groups at a time; both sides keep their order.

    Groups are taken in the order of a hash of (seed, group), so the choice depends on no other row and on no
    global state. A group that would overshoot the share is passed over.
    A fraction of 1 makes everything evaluation data.

    Raises:
        DataError: the rows cannot be split, because nearly all of them have one prompt.
    """
    if fraction <= 0.0 or not comparisons:
        return list(comparisons), []
    if fraction >= 1.0:
        return [], list(comparisons)
    groups = [prompt_group(comparison) for comparison in comparisons]
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    wanted = max(1, round(fraction * len(comparisons)))
    salt = seed.to_bytes(8, "little", signed=True)
    order = sorted(sizes, key=lambda group: hashlib.blake2b(group.encode("utf-8"), digest_size=8, key=salt).digest())
    taken: set[str] = set()
    count = 0
    for group in order:
        if count + sizes[group] <= wanted:
            taken.add(group)
            count += sizes[group]
            if count == wanted:
                break
    if not taken and len(sizes) > 1:  # every group is larger than the share: the smallest one, first in the order
        smallest = min(order, key=lambda group: sizes[group])
        taken.add(smallest)
    if not taken or len(taken) == len(sizes):
        raise DataError(
            f"{key}.validation_fraction={fraction:g}: {len(comparisons)} rows have {len(sizes)} different prompts, "
            "too few to put some aside without a prompt on both sides; "
            f"give {key}.eval_sets={{eval: FILE}} and {key}.validation_fraction=0"
        )
    train = [comparison for comparison, group in zip(comparisons, groups, strict=True) if group not in taken]
    evals = [comparison for comparison, group in zip(comparisons, groups, strict=True) if group in taken]
    return train, evals
