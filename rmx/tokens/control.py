"""Text to ids in batches, with control tokens that a row merely *spells* read as the letters they are.

A chat template writes control tokens such as `<|im_end|>` into the text, and the tokenizer turns them into single
ids. When a row's content contains the same letters, a plain tokenisation would turn those into control ids too: a
response could end its own turn. Such rows (and only those) are rendered a second time with the spelled tokens marked,
cut at the marks, and the marked pieces are tokenised as ordinary text. Every other row is one whole-string call.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from rmx.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rmx.records import Comparison, Message
    from rmx.templates import BoundTemplate

__all__ = ["Tokeniser", "serialised"]

log = logging.getLogger(__name__)

# Private-use characters to mark with; a pair is taken that occurs nowhere in the row.
_MARKS = [chr(point) for point in range(0xE000, 0xF8FF)]


class Tokeniser:
    """Turns rendered texts into id arrays, in order, on all cores.

    Only the template's control tokens count as such: words like `<think>` that models write themselves stay tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: BoundTemplate) -> None:
        self.tokenizer, self.template = tokenizer, template
        self._pattern = re.compile("|".join(map(re.escape, template.control_tokens)) or "(?!)")
        self._starts = "".join(sorted({token[0] for token in template.control_tokens}))
        self._borders = _borders(tokenizer) if tokenizer.is_fast else ()

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of whole texts without anything added; int32."""
        if not texts:
            return []
        if self.tokenizer.is_fast:
            backend = self.tokenizer.backend_tokenizer
            with _bare(backend):
                encoded = backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(row.ids, dtype=np.int32) for row in encoded]
        rows = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return [np.array(row, dtype=np.int32) for row in rows]

    def ids_of_rows(self, rows: Sequence[Sequence[str]]) -> list[list[np.ndarray]]:
        """Ids of the K texts of each row; what they begin with is tokenised once where that is exact.

        A fast tokenizer first cuts a text at its special tokens and treats what lies between them separately. So a
        text may be cut *before* a special token: the ids of both parts, joined, are the ids of the whole. This is
        tried on the first rows of every call, and given up for good if it ever fails.
        """
        cuts = [self._cut(texts) for texts in rows]
        pieces: list[str] = []
        for texts, at in zip(rows, cuts, strict=True):
            pieces += [texts[0][:at], *(text[at:] for text in texts)] if at else texts
        ids = iter(self.ids(pieces))
        answer: list[list[np.ndarray]] = []
        for texts, at in zip(rows, cuts, strict=True):
            start = next(ids) if at else None
            ends = [next(ids) for _ in texts]
            answer.append(ends if start is None else [np.concatenate([start, end]) for end in ends])
        tried = [i for i, at in enumerate(cuts) if at][:2]
        whole = iter(self.ids([text for i in tried for text in rows[i]]))
        if not all(np.array_equal(row, next(whole)) for i in tried for row in answer[i]):
            log.warning("this tokenizer does not cut texts at its special tokens; every text is tokenised whole")
            self._borders = ()
            return self.ids_of_rows(rows)
        return answer

    def _cut(self, texts: Sequence[str]) -> int:
        """Where the last special token begins that all texts have in common, 0 for nowhere."""
        first, end = texts[0], len(texts[0])
        while self._borders and len(texts) > 1:
            at, token = max((first.rfind(token, 0, end), token) for token in self._borders)
            if at <= 0:
                return 0
            shared = first[: at + len(token)]
            if all(text.startswith(shared) for text in texts[1:]):
                return at
            end = at
        return 0

    def spelled_by(self, comparison: Comparison, prompt: Sequence[Message]) -> bool:
        """Does anything of a comparison under this prompt contain the letters of a control token?"""
        for messages in (prompt, *comparison.responses):
            for message in messages:
                content = message["content"]
                if len(message) != 2 or type(content) is not str:
                    if self.spelled(message):
                        return True
                    continue
                for start in self._starts:  # most texts have none, and `in` is faster than a regular expression
                    if start in content and self._pattern.search(content):
                        return True
        return comparison.tools is not None and self.spelled(comparison.tools)

    def spelled(self, value: Any) -> bool:
        """Does a string anywhere in this message (or tool) contain the letters of a control token?"""
        kind = type(value)
        if kind is str:
            return self._pattern.search(value) is not None
        if kind is dict:
            value = value.values()
        elif kind is not tuple and kind is not list:
            return isinstance(value, str) and self.spelled(str(value))
        return any(map(self.spelled, value))

    def ids_of_spelled(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None, text: str
    ) -> np.ndarray:
        """Ids of one conversation whose content spells control tokens; `text` is its plain rendering.

        Raises:
            DataError: the marked conversation does not render to the same text.
        """
        letters = set(text)
        free = (mark for mark in _MARKS if mark not in letters)
        opened, closed = next(free), next(free)
        marked = self.template.render(
            [self._mark(message, opened, closed) for message in messages],
            [self._mark(tool, opened, closed) for tool in tools] if tools else None,
        )
        if marked.replace(opened, "").replace(closed, "") != text:
            raise DataError("the text spells a control token in a place where the template reads it as a command")
        split = re.compile(f"{opened}({self._pattern.pattern}){closed}|[{opened}{closed}]")
        pieces = split.split(marked)  # text, spelled token (or None for a lone mark), text, ...
        rows = [self._piece(piece, first=i == 0, spelled=i % 2 == 1) for i, piece in enumerate(pieces) if piece]
        return np.concatenate(rows).astype(np.int32)

    def _mark(self, value: Any, opened: str, closed: str) -> Any:
        if isinstance(value, str):
            return self._pattern.sub(lambda found: f"{opened}{found.group()}{closed}", value)
        if isinstance(value, dict):
            return {key: item if key == "role" else self._mark(item, opened, closed) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._mark(item, opened, closed) for item in value]
        return value

    def _piece(self, piece: str, *, first: bool, spelled: bool) -> np.ndarray:
        """A part of a text; behind a newline, because SentencePiece puts a space before what begins a text."""
        if not first:
            newline = self._plain("\n", spelled=False)
            row = self._plain("\n" + piece, spelled=spelled)
            if len(row) > len(newline) and np.array_equal(row[: len(newline)], newline):
                return self._without_control(row[len(newline) :], piece, spelled=spelled)
        return self._without_control(self._plain(piece, spelled=spelled), piece, spelled=spelled)

    def _plain(self, text: str, *, spelled: bool) -> np.ndarray:
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=spelled)
        return np.array(encoded["input_ids"], dtype=np.int32)

    def _without_control(self, row: np.ndarray, piece: str, *, spelled: bool) -> np.ndarray:
        """Some vocabularies hold the letters of a control token as an ordinary piece with the same id: split those."""
        if spelled and self.tokenizer.convert_tokens_to_ids(piece) in row:
            return np.concatenate([self._plain(letter, spelled=True) for letter in (piece[0], piece[1:])])
        return row


def _borders(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Special tokens before which a text may be cut.

    They take no white space from their left, are looked for in the text as it is, and no added token can overlap
    them, so wherever their letters stand they are that token.
    """
    added = list(tokenizer.added_tokens_decoder.values())
    texts = {token.content for token in added}
    return tuple(
        token.content
        for token in added
        if token.special
        and not (token.lstrip or token.single_word or token.normalized)
        and token.content.strip()
        and not any(_overlap(token.content, other) for other in texts)
    )


def _overlap(token: str, other: str) -> bool:
    """Can an occurrence of `other` share letters with one of `token` (and not be that very occurrence)?"""
    if token != other and (token in other or other in token):
        return True
    return any(
        other.endswith(token[:size]) or token.endswith(other[:size]) for size in range(1, min(len(token), len(other)))
    )


def serialised(tokenizer: PreTrainedTokenizerBase) -> str:
    """Everything of a tokenizer that ids depend on, as text, for cache keys."""
    special = f"{type(tokenizer).__name__} {sorted(tokenizer.special_tokens_map.items(), key=str)}"
    if not tokenizer.is_fast:
        return f"{special} {sorted(tokenizer.get_vocab().items())}"
    with _bare(tokenizer.backend_tokenizer) as backend:
        return f"{special} {backend.to_str()}"


@contextmanager
def _bare(backend: Any) -> Iterator[Any]:
    """Without the padding, truncation and splitting that an earlier call may have left switched on."""
    padding, truncation, split = backend.padding, backend.truncation, backend.encode_special_tokens
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = False
    try:
        yield backend
    finally:
        backend.encode_special_tokens = split
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)
