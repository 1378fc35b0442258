"""What every row format shares: the parts of a comparison, checks of its turns, and the numbers beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from rmx.data.accounting import RowFault
from rmx.data.rows.messages import check_prompt, check_response, dialogue_messages, is_dialogue, to_messages
from rmx.data.rows.tools import tools_in_one_spelling
from rmx.records import Message, Pair

__all__ = [
    "Cell",
    "Draft",
    "Row",
    "RowOptions",
    "alternating",
    "answer",
    "decided",
    "finish",
    "kind",
    "needed",
    "number",
    "prompt_messages",
    "prompt_of",
    "same",
    "split_shared",
]

Row = Mapping[str, Any]


class Cell(str):
    """A CSV cell: text that may stand for a number, because a CSV file has no types."""

    __slots__ = ()


class Draft(NamedTuple):
    """What one row says, before it has an id."""

    prompt: list[Message]
    responses: list[list[Message]]
    pairs: tuple[Pair, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    remarks: tuple[str, ...] = ()  # keys of `rmx.data.accounting.REMARKS`


@dataclass(frozen=True, slots=True)
class RowOptions:
    """The choices a conversion leaves to the user; explained at `PreferenceData`.

    Conversions put into `met` what rows gave these choices to work on, so that one that never had anything to work
    on can be refused: `scores` (numbers of a size that means something), `ties` (rows that can say "no winner") and
    `lists` (rows that can make more than one pair).
    """

    ties: Literal["drop", "keep"] = "drop"
    min_gap: float = 0.0
    margin_from_scores: float = 0.0
    pair_weighting: Literal["each", "per_prompt"] = "each"
    repeated_roles: Literal["keep", "merge", "reject"] = "keep"
    met: set[str] = field(default_factory=set, compare=False, repr=False)


def finish(
    row: Row,
    options: RowOptions,
    prompt: list[Message],
    responses: list[list[Message]],
    pairs: tuple[Pair, ...] | None = None,
    remarks: tuple[str, ...] = (),
) -> Draft:
    """Check the turns, add system message and tools, and read what the row says about the pair."""
    if prompt and prompt[0]["role"] == "system" and not prompt[0]["content"].strip():
        prompt = prompt[1:]  # an empty system turn says nothing
    if row.get("system") is not None:
        prompt = _with_system(row["system"], prompt)
    if options.repeated_roles != "keep":
        prompt = _join_repeated(prompt, options, "prompt")
        responses = [_join_repeated(r, options, f"response {k}") for k, r in enumerate(responses, 1)]
    check_prompt(prompt)
    names = ("chosen", "rejected") if pairs is None else tuple(f"response {k}" for k in range(1, len(responses) + 1))
    for side, response in zip(names, responses, strict=True):
        check_response(response, side)
    if pairs is None:
        if same(responses[0], responses[1]):
            raise RowFault("identical responses")
        pair, remarks = _pair(row, options)
        pairs = (pair,)
    return Draft(prompt, responses, pairs, tools_in_one_spelling(row.get("tools")), remarks)
