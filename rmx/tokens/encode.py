"""Comparisons to token ids.

Whole texts are tokenised, never pieces: the ids of a full sequence are those that every other program gets from the
same text. The shared beginning of the K responses is then found among the *ids* (their longest common prefix), so it
is exact whatever the tokenizer merges across the border of prompt and response.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rmx.errors import ConfigError, DataError
from rmx.records import Comparison, EncodedComparison, Message
from rmx.tokens.control import Tokeniser
from rmx.tokens.report import Tally, TruncationReport
from rmx.tokens.truncate import common_prefix, cut_left, shorter_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rmx.templates import BoundTemplate

__all__ = ["ChunkEncoder", "Truncation", "encode", "encode_conversations"]

log = logging.getLogger(__name__)

Truncation = Literal["keep_end", "drop", "error"]
CHUNK = 2048  # comparisons rendered and tokenised at a time: enough for all cores, small beside the model


def encode(
    comparisons: Iterable[Comparison],
    tokenizer: PreTrainedTokenizerBase,
    template: BoundTemplate,
    *,
    max_tokens: int,
    truncation: Truncation = "keep_end",
    on_bad_row: Literal["error", "skip"] = "error",
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

    Raises:
        DataError: a row that the template refuses, an over-long row with `truncation="error"`, or no row left.
    """
    worker = ChunkEncoder(tokenizer, template, max_tokens=max_tokens, truncation=truncation, on_bad_row=on_bad_row)
    encoded: list[EncodedComparison] = []
    for chunk in chunks(comparisons, CHUNK):
        encoded.extend(worker.encode(chunk))
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
    rows = [
        Comparison(
            id=str(i),
            source="",
            prompt=tuple(messages[:at]),
            responses=(tuple(messages[at:]),),
            pairs=(),
            tools=tuple(tools) if tools else None,
            where=f"conversation {i}",
        )
        for i, messages in enumerate(conversations)
        for at in [_response_start(messages)]
    ]
    if not rows:
        return []
    encoded, report = encode(rows, tokenizer, template, max_tokens=max_tokens, truncation=truncation)
    if report.truncated:
        log.warning("%d of %d conversations were truncated to %d tokens", report.truncated, report.read, max_tokens)
    return [np.concatenate([row.prefix_ids, row.suffix_ids[0]]) for row in encoded]


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


@dataclass
class _Row:
    """One comparison on its way: its K id rows, and what was done to them."""

    comparison: Comparison
    ids: list[np.ndarray]
    lost: int = 0  # tokens
    truncated: bool = False


class ChunkEncoder:
    """Encodes chunk after chunk with one tally, so that a set larger than memory can stream through."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: BoundTemplate,
        *,
        max_tokens: int,
        truncation: Truncation = "keep_end",
        on_bad_row: Literal["error", "skip"] = "error",
    ) -> None:
        if max_tokens < 2:
            raise ConfigError(f"data.max_tokens: {max_tokens} is too few; a sequence needs its BOS and a scored token")
        self.template = template
        self.max_tokens = max_tokens
        self.truncation = truncation
        self.on_bad_row = on_bad_row
        self.tally = Tally(max_tokens, truncation)
        self._tokens = Tokeniser(tokenizer)
        self._keep = 0 if template.start_token is None else 1

    def finish(self) -> TruncationReport:
        """The report of everything encoded.

        Raises:
            DataError: nothing is left.
        """
        report = self.tally.report()
        if report.read and not report.kept:
            why = f"longest sequence {report.longest} tokens, data.max_tokens {self.max_tokens}"
            if report.refused:
                why += f", {report.refused} refused by the template, first: {report.refusals[0]}"
            raise DataError(f"0 of {report.read} rows left: {why}; raise data.max_tokens or use truncation=keep_end")
        return report

    def encode(self, chunk: Sequence[Comparison]) -> list[EncodedComparison]:
        """Encode one chunk, in order; rows that are dropped or refused are missing from the answer."""
        self.tally.add("read", len(chunk))
        rows = self._tokenise([(comparison, comparison.prompt) for comparison in chunk], first_time=True)
        kept = [row for row in rows if row is not None]
        self.tally.lengths([len(ids) for row in kept for ids in row.ids])
        long = [row for row in kept if max(map(len, row.ids)) > self.max_tokens]
        if long and self.truncation == "error":
            self._too_long(long)
        if long and self.truncation == "drop":
            self.tally.add("dropped", len(long))
            gone = set(map(id, long))
            kept = [row for row in kept if id(row) not in gone]
        elif long:
            self._shorten(long)
        return [self._finished(row) for row in kept]

    # --- text and ids ---

    def _tokenise(
        self, wanted: Sequence[tuple[Comparison, Sequence[Message]]], *, first_time: bool = False
    ) -> list[_Row | None]:
        """Rows for (comparison, prompt to use), None where the template refuses."""
        texts = self._render(wanted, first_time)
        whole = [text for row in texts if row is not None for text in row]
        ids = iter(self._tokens.ids(whole))
        rows: list[_Row | None] = []
        for (comparison, prompt), row in zip(wanted, texts, strict=True):
            if row is None:
                rows.append(None)
                continue
            encoded = list(islice(ids, len(row)))
            if self._tokens.spelled((prompt, comparison.responses, comparison.tools)):
                encoded = self._spelled(comparison, prompt, row)
            rows.append(_Row(comparison, encoded))
        return rows

    def _render(
        self, wanted: Sequence[tuple[Comparison, Sequence[Message]]], first_time: bool
    ) -> list[list[str] | None]:
        plain = [
            (*prompt, *response)
            for comparison, prompt in wanted
            if comparison.tools is None
            for response in comparison.responses
        ]
        try:
            texts = iter(self.template.render_many(plain) if plain else [])
            return [
                list(islice(texts, len(comparison.responses)))
                if comparison.tools is None
                else self._render_one(comparison, prompt)
                for comparison, prompt in wanted
            ]
        except DataError:
            return self._render_each(wanted, first_time)

    def _render_one(self, comparison: Comparison, prompt: Sequence[Message]) -> list[str]:
        return self.template.render_many([(*prompt, *response) for response in comparison.responses], comparison.tools)

    def _render_each(
        self, wanted: Sequence[tuple[Comparison, Sequence[Message]]], first_time: bool
    ) -> list[list[str] | None]:
        """After a failure: one by one, to name the rows that the template refuses."""
        texts: list[list[str] | None] = []
        refused: list[str] = []
        for comparison, prompt in wanted:
            try:
                texts.append(self._render_one(comparison, prompt))
            except DataError as error:
                texts.append(None)
                refused.append(f"{comparison.where or comparison.id}: {error}")
        if not first_time:  # a shortened prompt that cannot be rendered is only one that cannot be taken
            return texts
        if self.on_bad_row == "error":
            shown = "\n  ".join(refused[:5])
            raise DataError(f"{len(refused)} rows cannot be rendered; the first of them:\n  {shown}")
        self.tally.add("refused", len(refused))
        self.tally.refusals += refused[: 5 - len(self.tally.refusals)]
        return texts

    def _spelled(self, comparison: Comparison, prompt: Sequence[Message], texts: list[str]) -> list[np.ndarray]:
        try:
            return [
                self._tokens.ids_of_spelled(self.template, (*prompt, *response), comparison.tools, text)
                for response, text in zip(comparison.responses, texts, strict=True)
            ]
        except DataError as error:
            raise DataError(f"{comparison.where or comparison.id}: {error}") from None

    # --- over-long rows ---

    def _too_long(self, rows: list[_Row]) -> None:
        shown = ", ".join(
            f"{row.comparison.where or row.comparison.id} ({max(map(len, row.ids))} tokens)" for row in rows[:5]
        )
        raise DataError(
            f"{len(rows)} rows are longer than data.max_tokens={self.max_tokens}: {shown}; "
            "raise data.max_tokens, or take data.truncation=keep_end or drop"
        )

    def _shorten(self, rows: list[_Row]) -> None:
        """Whole turns first: a binary search over ever shorter prompts, all rows of the chunk in step."""
        before = [sum(map(len, row.ids)) for row in rows]
        versions = [shorter_prompts(row.comparison.prompt) for row in rows]
        low, high = [0] * len(rows), [len(v) - 1 for v in versions]  # the answer lies in low..high, if anywhere
        tried: list[dict[int, list[np.ndarray]]] = [{} for _ in rows]
        while open_rows := [i for i in range(len(rows)) if low[i] <= high[i]]:
            middle = [(low[i] + high[i]) // 2 for i in open_rows]
            answers = self._tokenise(
                [(rows[i].comparison, versions[i][m]) for i, m in zip(open_rows, middle, strict=True)]
            )
            for i, m, answer in zip(open_rows, middle, answers, strict=True):
                if answer is None:  # this template cannot begin there
                    low[i] = m + 1
                    continue
                tried[i][m] = answer.ids
                if max(map(len, answer.ids)) <= self.max_tokens:
                    high[i] = m - 1
                else:
                    low[i] = m + 1
        for i, row in enumerate(rows):
            self._settle(row, versions[i], tried[i])
            row.truncated = True
            row.lost = before[i] - sum(map(len, row.ids))

    def _settle(self, row: _Row, versions: list[tuple[Message, ...]], tried: dict[int, list[np.ndarray]]) -> None:
        """Take the longest version that fits, or cut the shortest one by tokens."""
        fits = [m for m, ids in tried.items() if max(map(len, ids)) <= self.max_tokens]
        if fits or tried:
            best = min(fits) if fits else max(tried)
            row.ids = tried[best]
            self.tally.add("turns_dropped", len(row.comparison.prompt) - len(versions[best]))
        if not fits:
            cut = cut_left(row.ids, self.max_tokens, keep=self._keep)
            row.ids = cut.rows
            self.tally.add("prompt_lost", cut.prompt_lost)
            self.tally.add("response_cut", cut.response_cut)

    # --- the record ---

    def _finished(self, row: _Row) -> EncodedComparison:
        comparison, ids = row.comparison, row.ids
        shared = common_prefix(ids)
        encoded = EncodedComparison(
            id=comparison.id,
            source=comparison.source,
            prefix_ids=ids[0][:shared],
            suffix_ids=tuple(one[shared:] for one in ids),
            pairs=comparison.pairs,
            truncated=row.truncated,
            truth=comparison.truth,
        )
        add = self.tally.add
        add("kept")
        add("truncated", row.truncated)
        add("tokens_lost", row.lost)
        add("tokens", sum(map(len, ids)))
        add("shared_tokens", encoded.shared_tokens)
        add("tools_ignored", bool(comparison.tools) and not self.template.prints_tools)
        suffixes = encoded.suffix_ids
        add("identical_pairs", sum(np.array_equal(suffixes[p.winner], suffixes[p.loser]) for p in comparison.pairs))
        add("literal_rows", self._tokens.spelled((comparison.prompt, comparison.responses, comparison.tools)))
        return encoded
