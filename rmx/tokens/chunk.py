"""A chunk of comparisons on its way from messages to ids: rendered, tokenised, cut, counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np

from rmx.errors import ConfigError, DataError, counted
from rmx.records import Comparison, EncodedComparison, Message, Pair
from rmx.templates.printed import PrintedCheck
from rmx.tokens.control import Tokeniser
from rmx.tokens.tally import CAUSES, Tally, TruncationReport
from rmx.tokens.truncate import common_prefix, cut_left, shorter_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rmx.templates import BoundTemplate

__all__ = ["BadRow", "ChunkEncoder", "Seen", "Truncation"]

Truncation = Literal["keep_end", "drop", "error"]
BadRow = Literal["error", "skip"]


@dataclass
class _Row:
    """One comparison on its way: its K id rows, and what was done to them."""

    comparison: Comparison
    ids: list[np.ndarray]
    texts: list[str]  # of the whole conversations
    spelled: bool  # its content spells a control token
    whole: list[np.ndarray] | None = None  # the ids before they were cut
    lost: int = 0  # tokens

    def equal(self, pair: Pair) -> str | None:
        """The cause (a key of `CAUSES`) why both sides of a pair are the same tokens; None where they are not."""
        a, b = pair.winner, pair.loser
        if not _same(self.ids[a], self.ids[b]):
            return None
        if self.comparison.responses[a] == self.comparison.responses[b]:
            return "data"
        if self.texts[a] == self.texts[b]:
            return "template"
        return "tokenizer" if self.whole is None or _same(self.whole[a], self.whole[b]) else "limit"

    def encoded(self, pairs: tuple[Pair, ...]) -> EncodedComparison:
        """The record with these of its pairs."""
        shared = common_prefix(self.ids)
        return EncodedComparison(
            id=self.comparison.id,
            source=self.comparison.source,
            prefix_ids=self.ids[0][:shared],
            suffix_ids=tuple(one[shared:] for one in self.ids),
            pairs=pairs,
            truncated=self.whole is not None,
            truth=self.comparison.truth,
        )


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return len(a) == len(b) and np.array_equal(a, b)


@dataclass(frozen=True)
class Seen:
    """What the model would see of one comparison, and what it would not."""

    row: EncodedComparison  # with all its pairs
    equal: tuple[str | None, ...]  # for each pair, why its sides are the same tokens
    unprinted: frozenset[str]  # fields that the template does not print in full


class ChunkEncoder:
    """Encodes chunk after chunk with one tally, so that a set larger than memory can stream through."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: BoundTemplate,
        *,
        max_tokens: int,
        truncation: Truncation = "keep_end",
        on_bad_row: BadRow = "error",
    ) -> None:
        if max_tokens < 2:
            raise ConfigError(f"data.max_tokens: {max_tokens} is too few; a sequence needs its BOS and a scored token")
        self.template = template
        self.max_tokens = max_tokens
        self.truncation = truncation
        self.on_bad_row = on_bad_row
        self.tally = Tally(max_tokens, truncation)
        self._tokens = Tokeniser(tokenizer, template)
        self._printed = PrintedCheck(template)
        self._keep = 0 if template.start_token is None else 1

    def finish(self) -> TruncationReport:
        """The report of everything encoded.

        Raises:
            DataError: nothing is left.
        """
        report = self.tally.report()
        if report.read and not report.kept:
            raise DataError(f"0 of {report.read} rows left: " + "; ".join(self._why_nothing(report)))
        return report

    def _why_nothing(self, report: TruncationReport) -> Iterator[str]:
        if report.dropped:
            yield (
                f"{report.dropped} dropped, longest sequence {report.longest} tokens, data.max_tokens "
                f"{self.max_tokens}: raise data.max_tokens or use truncation=keep_end"
            )
        if report.refused:
            yield f"{report.refused} refused by the template, first: {report.refusals[0]}"
        if report.all_equal:
            remedies = {
                "template": f"choose a template that prints it (this one is {self.template.name!r})",
                "limit": f"raise data.max_tokens={self.max_tokens} (the longest sequence has {report.longest})",
            }
            causes = "; ".join(
                f"in {counted(count, 'pair')} {CAUSES[cause]}{': ' + remedies[cause] if cause in remedies else ''}"
                for cause, count in report.equal_pairs.items()
            )
            yield f"both sides of every pair are the same tokens in {report.all_equal}: {causes}"

    def encode(self, chunk: Sequence[Comparison]) -> list[EncodedComparison]:
        """Encode one chunk, in order; rows that are dropped, refused or left without a pair are missing."""
        encoded = [row for one in self._rows(chunk) if (row := self._finished(one)) is not None]
        self.tally.add("kept", len(encoded))
        self.tally.add("shared_tokens", sum(row.shared_tokens for row in encoded))
        return encoded

    def look(self, comparison: Comparison) -> Seen:
        """One comparison with what is left out of it; for people to look at.

        Raises:
            DataError: the template refuses it, or it is over-long and `truncation` is not `keep_end`.
        """
        rows = self._rows([comparison])
        if not rows:
            self.finish()
        (row,) = rows
        return Seen(row.encoded(comparison.pairs), tuple(map(row.equal, comparison.pairs)), self._left_out(row))

    def _rows(self, chunk: Sequence[Comparison]) -> list[_Row]:
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
            return [row for row in kept if id(row) not in gone]
        if long:
            self._shorten(long)
        return kept

    # --- text and ids ---

    def _tokenise(
        self, wanted: Sequence[tuple[Comparison, Sequence[Message]]], *, first_time: bool = False
    ) -> list[_Row | None]:
        """Rows for (comparison, prompt to use), None where the template refuses."""
        texts = self._render(wanted, first_time)
        ids = iter(self._tokens.ids_of_rows([row for row in texts if row is not None]))
        rows: list[_Row | None] = []
        for (comparison, prompt), row in zip(wanted, texts, strict=True):
            if row is None:
                rows.append(None)
                continue
            encoded = next(ids)
            spelled = self._tokens.spelled_by(comparison, prompt)
            if spelled:
                encoded = self._spelled(comparison, prompt, row)
            rows.append(_Row(comparison, encoded, row, spelled))
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
            raise DataError(f"{counted(len(refused), 'row')} cannot be rendered; the first of them:\n  {shown}")
        self.tally.add("refused", len(refused))
        self.tally.refusals += refused[: 5 - len(self.tally.refusals)]
        return texts

    def _spelled(self, comparison: Comparison, prompt: Sequence[Message], texts: list[str]) -> list[np.ndarray]:
        try:
            return [
                self._tokens.ids_of_spelled((*prompt, *response), comparison.tools, text)
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
            f"{counted(len(rows), 'row is', 'rows are')} longer than data.max_tokens={self.max_tokens}: {shown}; "
            "raise data.max_tokens, or take data.truncation=keep_end or drop"
        )

    def _shorten(self, rows: list[_Row]) -> None:
        """Whole turns first: a binary search over ever shorter prompts, all rows of the chunk in step."""
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
            row.whole = row.ids
            self._settle(row, versions[i], tried[i])
            row.lost = sum(map(len, row.whole)) - sum(map(len, row.ids))

    def _settle(self, row: _Row, versions: list[tuple[Message, ...]], tried: dict[int, list[np.ndarray]]) -> None:
        """Take the longest version that fits, or cut the shortest one by tokens."""
        fits = [m for m, ids in tried.items() if max(map(len, ids)) <= self.max_tokens]
        if fits or tried:
            best = min(fits) if fits else max(tried)
            row.ids = tried[best]
            self.tally.add("turns_dropped", len(row.comparison.prompt) - len(versions[best]))
        if not fits:
            prompt = versions[best] if tried else row.comparison.prompt
            cut = cut_left(row.ids, self.max_tokens, keep=self._keep, prompt=self._prompt_tokens(row, prompt))
            row.ids = cut.rows
            self.tally.add("prompt_lost", cut.prompt_lost)
            self.tally.add("response_cut", cut.response_cut)

    def _prompt_tokens(self, row: _Row, prompt: Sequence[Message]) -> int | None:
        """Tokens of the prompt at the beginning of a row; None where the template has no text for a prompt alone."""
        try:
            text = self.template.prompt(prompt, row.comparison.tools)
        except DataError:
            return None
        alone = self._tokens.ids([text])[0]
        return common_prefix([*row.ids, np.append(alone, -1)])

    # --- the record ---

    def _left_out(self, row: _Row) -> frozenset[str]:
        comparison = row.comparison
        return self._printed.left_out(comparison.prompt, comparison.responses, comparison.tools, row.texts)

    def _finished(self, row: _Row) -> EncodedComparison | None:
        """The record, and everything counted; None when a comparison that had pairs has none left."""
        comparison, add = row.comparison, self.tally.add
        where = comparison.where or comparison.id
        if unprinted := self._left_out(row):
            self.tally.not_printed(unprinted, where)
        if row.spelled:
            add("literal_rows")
        pairs = comparison.pairs
        equal = [row.equal(pair) for pair in pairs]
        if any(equal):
            for cause in filter(None, equal):
                self.tally.equal(cause, where)
            pairs = tuple(pair for pair, cause in zip(pairs, equal, strict=True) if cause is None)
            if not pairs:
                add("all_equal")
                return None
        if row.whole is not None:
            add("truncated")
            add("tokens_lost", row.lost)
        add("tokens", sum(map(len, row.ids)))
        return row.encoded(pairs)
