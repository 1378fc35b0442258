"""Comparisons to token ids.

Whole texts are tokenised, never pieces: the ids of a full sequence are those that every other program gets from the
same text. The shared beginning of the K responses is then found among the *ids* (their longest common prefix), so it
is exact whatever the tokenizer merges across the border of prompt and response.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rmx.data.accounting import RowFault
from rmx.data.rows.tools import calls_in_one_spelling, tools_in_one_spelling
from rmx.errors import DataError
from rmx.records import Comparison, EncodedComparison, Message
from rmx.templates.printed import part_of_conversation
from rmx.tokens.chunk import BadRow, ChunkEncoder, Truncation
from rmx.tokens.tally import TruncationReport

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rmx.templates import BoundTemplate

__all__ = ["CHUNK", "chunks", "encode", "encode_conversations"]

log = logging.getLogger(__name__)

CHUNK = 2048  # comparisons rendered and tokenised at a time: enough for all cores, small beside the model


def encode(
    comparisons: Iterable[Comparison],
    tokenizer: PreTrainedTokenizerBase,
    template: BoundTemplate,
    *,
    max_tokens: int,
    truncation: Truncation = "keep_end",
    on_bad_row: BadRow = "error",
    progress: Callable[[int], None] | None = None,
) -> tuple[list[EncodedComparison], TruncationReport]:
    """Token ids of comparisons, in their order.

    Args:
        comparisons: what to encode; may be an iterator, read in chunks.
        tokenizer: the model's; it is left as it was.
        template: bound to the same tokenizer.
        max_tokens: limit for prompt plus one response.
        truncation: `keep_end` shortens the prompt from its beginning (rmx.tokens.truncate says how), `drop` leaves
            comparisons with an over-long sequence out, `error` stops at them.
        on_bad_row: what to do with rows that the template refuses.
        progress: called with the number of rows after each chunk of 2048.

    Raises:
        DataError: a row that the template refuses, an over-long row with `truncation="error"`, or no row left.

    Pairs whose two sides are the same tokens are left out, and comparisons without another pair; the report counts
    both, and the fields of messages that the template does not print.

    >>> from rmx.models.tiny import tiny_tokenizer  # one token per byte
    >>> from rmx.records import Pair
    >>> from rmx.templates import Template
    >>> tokenizer = tiny_tokenizer()
    >>> question, *answers = [{"role": role, "content": text} for role, text in
    ...                       [("user", "2+2?"), ("assistant", "4"), ("assistant", "5")]]
    >>> row = Comparison("1", "sums", (question,), tuple((answer,) for answer in answers), (Pair(0, 1),))
    >>> (encoded,), report = encode([row], tokenizer, Template().bind(tokenizer), max_tokens=64)
    >>> len(encoded.prefix_ids), [tokenizer.decode(ids) for ids in encoded.suffix_ids]
    (23, ['4<|im_end|>', '5<|im_end|>'])
    >>> report.tokens, report.shared_tokens
    (50, 27)
    """
    worker = ChunkEncoder(tokenizer, template, max_tokens=max_tokens, truncation=truncation, on_bad_row=on_bad_row)
    encoded: list[EncodedComparison] = []
    for chunk in chunks(comparisons, CHUNK):
        encoded.extend(worker.encode(chunk))
        if progress is not None:
            progress(len(chunk))
    return encoded, worker.finish()


def encode_conversations(
    conversations: Sequence[Sequence[Message]],
    tokenizer: PreTrainedTokenizerBase,
    template: BoundTemplate,
    *,
    max_tokens: int,
    truncation: Literal["keep_end", "error"] = "keep_end",
    tools: Sequence[dict[str, Any]] | None = None,
) -> list[np.ndarray]:
    """Ids [T] (int32) of single conversations by the same rules as `encode`, one array per conversation.

    Raises:
        DataError: a conversation that is empty, that the template refuses, or that is over-long with `error`.
    """
    empty = [i for i, messages in enumerate(conversations) if not messages]
    if empty:
        raise DataError(f"conversation {empty[0]} is empty; give at least one message")
    try:
        own_tools = tools_in_one_spelling(list(tools)) if tools else None
    except RowFault as fault:
        raise DataError(str(fault)) from None
    rows = [
        Comparison(
            id=str(i),
            source="",
            prompt=tuple(messages[:at]),
            responses=(tuple(messages[at:]),),
            pairs=(),
            tools=own_tools,
            where=f"conversation {i}",
        )
        for i, messages in enumerate(map(_in_one_spelling, conversations))
        for at in [_response_start(messages)]
    ]
    if not rows:
        return []
    encoded, report = encode(rows, tokenizer, template, max_tokens=max_tokens, truncation=truncation)
    for field, count in report.unprinted.items():
        if part_of_conversation(field):
            log.warning("template %s does not print %s of %d conversations in full", template.name, field, count)
    if report.truncated:
        log.warning("%d of %d conversations were truncated to %d tokens", report.truncated, report.read, max_tokens)
    return [np.concatenate([row.prefix_ids, row.suffix_ids[0]]) for row in encoded]


def _in_one_spelling(messages: Sequence[Message]) -> list[Message]:
    """The messages with tool calls as rows have them, whatever spelling they were given in."""
    try:
        return [calls_in_one_spelling(message, f"message {number}") for number, message in enumerate(messages, 1)]
    except RowFault as fault:
        raise DataError(str(fault)) from None


def _response_start(messages: Sequence[Message]) -> int:
    """Index where the scored response begins: behind the last user message, or the last message."""
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    start = users[-1] + 1 if users else len(messages) - 1
    return min(start, len(messages) - 1)


def chunks(rows: Iterable[Comparison], size: int) -> Iterator[list[Comparison]]:
    """Lists of at most `size` rows, in order."""
    source = iter(rows)
    while chunk := list(islice(source, size)):
        yield chunk
