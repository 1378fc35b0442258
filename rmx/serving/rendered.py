"""Texts that a client has rendered with the model's own template → token ids, by the rules of training.

vLLM, OpenRLHF and LLaMA-Factory are sent whole texts: the conversation as the policy's or the reward model's template
wrote it. What a rendering of rmx begins and ends with is one BOS (where the model wants one) and the scored token:

    begins without BOS               BOS is put there (clients strip it, because other servers add it)
    ends with padding                taken away, on both sides
    ends with white space behind the scored token    taken away: templates write a newline after each turn
    ends without the scored token    it is put there (a response that was cut at its longest has none)

A text longer than `max_tokens` loses its beginning, BOS excepted: there are no turns to leave out, and that is how
training cuts the last turn of a conversation, too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rmx.errors import counted
from rmx.records import EncodedComparison
from rmx.scoring.panel import Judgement
from rmx.scoring.scorer import Scorer
from rmx.serving.waiting import RenderedQuery
from rmx.templates import BoundTemplate, probes
from rmx.tokens.control import Tokeniser
from rmx.tokens.truncate import cut_left

__all__ = ["RenderedEncoder", "RenderedEnds", "prompt_of_text", "why_not_rendered"]


def why_not_rendered(scorers: Sequence[Scorer]) -> str | None:
    """Why these models cannot all be asked about one rendered text; None where they can."""
    first, *others = scorers
    for other in others:
        if other.template.jinja != first.template.jinja or other.tokenizer.get_vocab() != first.tokenizer.get_vocab():
            return (
                "the models have different templates or tokenizers, so a text that is rendered for one of them is "
                "wrong for another; send messages to /score instead"
            )
    return None


@dataclass(frozen=True, slots=True)
class RenderedEnds:
    """What every rendering of a template begins and ends with, and what stands around it in a batch of a client.

    >>> ends = RenderedEnds(start="<s>", end="</s>", pad="<pad>")
    >>> ends.completed("Hi"), ends.completed("<pad><s>Hi</s>\\n"), ends.completed("Hi<pad><pad>")
    ('<s>Hi</s>', '<s>Hi</s>', '<s>Hi</s>')
    """

    start: str | None
    end: str
    pad: str | None

    @classmethod
    def of(cls, template: BoundTemplate) -> RenderedEnds:
        """Find them out: BOS is written by the template of some models, and added by the tokenizer of others."""
        bos = template.start_token or template.tokenizer.bos_token
        start = bos if bos and template.render(probes.SHORT).startswith(bos) else None
        pad = template.tokenizer.pad_token
        return cls(start, template.end_token, pad if pad not in (start, template.end_token) else None)

    def completed(self, text: str) -> str:
        """The text with its beginning and its end; see above."""
        first, last = _without_padding(text, self.pad)
        if text.endswith(self.end, first, last):
            text = text[first:last]
        elif last < len(text.rstrip()):  # padding without the scored token before it
            text = text[first:last] + self.end
        else:
            text = text[first:] + self.end
        return text if self.start is None or text.startswith(self.start) else self.start + text


def _without_padding(text: str, pad: str | None) -> tuple[int, int]:
    """Where the text begins behind padding, and ends before padding and white space."""
    first, last = 0, len(text)
    while pad and text.startswith(pad, first):
        first += len(pad)
    while last > first:
        if text[last - 1].isspace():
            last -= 1
        elif pad and text.endswith(pad, first, last):
            last -= len(pad)
        else:
            break
    return first, last


class RenderedEncoder:
    """Encodes rendered texts for one model.

    Args:
        scorer: whose template and limit hold.
        truncation: `keep_end` cuts the beginning of what is over-long, `error` refuses it.
    """

    def __init__(self, scorer: Scorer, truncation: Literal["keep_end", "error"]) -> None:
        self.scorer, self.truncation = scorer, truncation
        self.ends = RenderedEnds.of(scorer.template)
        self._tokens = Tokeniser(scorer.tokenizer, scorer.template)
        self._vocabulary = scorer.engine.model.config.get_text_config().vocab_size
        self._first, self._last = (
            None if token is None else scorer.tokenizer.convert_tokens_to_ids(token)
            for token in (self.ends.start, self.ends.end)
        )

    def encode(self, queries: Sequence[RenderedQuery]) -> list[EncodedComparison | Judgement]:
        """Return the token ids of each query, or a judgement that says why there are none."""
        texts = [
            self.ends.completed(query.content) if query.complete else query.content
            for query in queries
            if isinstance(query.content, str)
        ]
        of_texts = iter(self._tokens.ids(texts))
        answers: list[EncodedComparison | Judgement] = []
        for query in queries:
            ids = next(of_texts) if isinstance(query.content, str) else np.array(query.content, np.int64)
            limit = min(query.max_tokens or self.scorer.max_tokens, self.scorer.max_tokens)
            refusal = self._why_not(query, ids, limit)
            answers.append(Judgement(refusal=refusal) if refusal else self._cut(ids.astype(np.int32), limit))
        return answers

    def _why_not(self, query: RenderedQuery, ids: np.ndarray, limit: int) -> str | None:
        if isinstance(query.content, str) and not query.content.strip():
            return "empty text: there is nothing to judge"
        if len(ids) < 2:
            return "it has fewer than 2 tokens: there is nothing to judge"
        if ids.min() < 0 or ids.max() >= self._vocabulary:
            return f"a token id is not from 0 to {self._vocabulary - 1}"
        if ids[-1] != self._last:
            return f"it does not end with {self.ends.end}, the token that this model is scored at"
        if self._first is not None and ids[0] != self._first:
            return f"it does not begin with {self.ends.start}, as every text of this model's training did"
        if self.truncation == "error" and len(ids) > limit:
            return f"it has {counted(len(ids), 'token')}, and the limit is {limit}"
        return None

    def _cut(self, ids: np.ndarray, limit: int) -> EncodedComparison:
        over = len(ids) > limit
        if over:
            keep = 0 if self.scorer.template.start_token is None else 1
            (ids,) = cut_left([ids], limit, keep=keep).rows
        return EncodedComparison("", "request", ids[:-1], (ids[-1:],), (), truncated=over)


def prompt_of_text(text: str, template: BoundTemplate) -> Hashable:
    """What a text may share with others: all up to its last control token but the scored one; None where it has none.

    It is a guess that costs nothing: what is shared is found among the ids.
    """
    body = text.removesuffix(template.end_token)
    at = max((body.rfind(token) for token in template.control_tokens), default=-1)
    return body[:at] if at > 0 else None
