"""Rows with one response inside or beside a conversation, and the rejected one beside it → the parts of a comparison.

last_turn   {"messages": [user, assistant], "rejected_response": "5"}                 ms-swift: the last turn is chosen
            {"messages": [user, assistant], "rejected_messages": [user, assistant]}   two whole conversations
            {"query": "2+2?", "response": "4", "rejected_response": "5"}
"""

from __future__ import annotations

from rmx.data.accounting import RowFault
from rmx.data.rows.drafts import (
    Draft,
    Row,
    RowOptions,
    answer,
    make_draft,
    needed,
    prompt_messages,
    prompt_of,
    split_shared,
)
from rmx.data.rows.lists import response_of
from rmx.data.rows.messages import to_messages

__all__ = ["last_turn"]


def last_turn(row: Row, options: RowOptions) -> Draft:
    """`rejected` against `response`, or against the last turn of the conversation.

    >>> turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    >>> last_turn({"history": turns, "rejected": "5"}, RowOptions()).responses[0]
    [{'role': 'assistant', 'content': '4'}]

    Raises:
        RowFault: see `rmx.data.accounting.REASONS`.
    """
    rejected = needed(row, "rejected")
    if row.get("response") is not None:
        prompt = prompt_messages(prompt_of(row), "prompt")
        return make_draft(
            row, options, prompt, [response_of(row["response"], "response"), response_of(rejected, "rejected")]
        )
    turns = to_messages(needed(row, "history"), "history")
    if not turns or turns[-1]["role"] != "assistant":
        raise RowFault("wrong order", "the conversation does not end with the assistant's turn, the chosen one")
    if isinstance(rejected, str):
        other = [*turns[:-1], *answer(rejected, "rejected")]
    else:
        other = to_messages(rejected, "rejected")
        if other and other[0]["role"] == "assistant":  # the rejected turn alone
            other = [*turns[:-1], *other]
    if not other or not other[-1]["content"].strip():
        raise RowFault("empty response", "rejected")
    return make_draft(row, options, *split_shared(turns, other))
