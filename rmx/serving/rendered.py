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
from typing import Literal

import numpy as np

from rmx.records import EncodedComparison
from rmx.scoring.panel import Judgement
from rmx.scoring.scorer import Scorer
from rmx.serving.waiting import RenderedQuery
from rmx.templates import BoundTemplate
from rmx.tokens.control import Tokeniser
from rmx.tokens.truncate import cut_left

__all__ = ["completed", "encode_rendered", "prompt_of_text", "why_not_rendered"]


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


def completed(text: str, template: BoundTemplate) -> str:
    """The text with what a rendering of the template begins and ends with; see above."""
    pad, start, end = template.tokenizer.pad_token, template.start_token, template.end_token
    first, last = _without_padding(text, pad if pad != start else None)
    if text.endswith(end, first, last):
        text = text[first:last]
    elif last < len(text.rstrip()):  # padding without the scored token before it
        text = text[first:last] + end
    else:
        text = text[first:] + end
    return text if start is None or text.startswith(start) else start + text


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


def prompt_of_text(text: str, template: BoundTemplate) -> Hashable:
    """What a text may share with others: all up to its last control token but the scored one; None where it has none.

    It is a guess that costs nothing: what is shared is found among the ids.
    """
    body = text.removesuffix(template.end_token)
    at = max((body.rfind(token) for token in template.control_tokens), default=-1)
    return body[:at] if at > 0 else None


def encode_rendered(
    scorer: Scorer, tokens: Tokeniser, queries: Sequence[RenderedQuery], truncation: Literal["keep_end", "error"]
) -> list[EncodedComparison | Judgement]:
    """Token ids of each query, or a judgement that says why there are none.

    Args:
        scorer: whose template and limit hold.
        tokens: of its tokenizer and template.
        queries: texts, or ids that are taken as they are.
        truncation: `keep_end` cuts the beginning of what is over-long, `error` refuses it.
    """
    blank = [isinstance(query.content, str) and not query.content.strip() for query in queries]
    texts = [
        completed(query.content, scorer.template) if query.complete else query.content
        for query in queries
        if isinstance(query.content, str)
    ]
    of_texts = iter(tokens.ids(texts))
    answers: list[EncodedComparison | Judgement] = []
    for query, empty in zip(queries, blank, strict=True):
        own = next(of_texts) if isinstance(query.content, str) else np.array(query.content, np.int64)
        limit = min(query.max_tokens or scorer.max_tokens, scorer.max_tokens)
        refusal = "empty text: there is nothing to judge" if empty else _why_not(own, scorer, limit, truncation)
        answers.append(Judgement(refusal=refusal) if refusal else _as_comparison(own.astype(np.int32), scorer, limit))
    return answers


def _why_not(ids: np.ndarray, scorer: Scorer, limit: int, truncation: Literal["keep_end", "error"]) -> str | None:
    template, tokenizer = scorer.template, scorer.tokenizer
    vocabulary = scorer.engine.model.config.get_text_config().vocab_size
    if len(ids) < 2:
        return "it has fewer than 2 tokens: there is nothing to judge"
    if ids.min() < 0 or ids.max() >= vocabulary:
        return f"a token id is not from 0 to {vocabulary - 1}"
    if ids[-1] != tokenizer.convert_tokens_to_ids(template.end_token):
        return f"it does not end with {template.end_token}, the token that this model is scored at"
    if template.start_token is not None and ids[0] != tokenizer.convert_tokens_to_ids(template.start_token):
        return f"it does not begin with {template.start_token}, as every text of this model's training did"
    if truncation == "error" and len(ids) > limit:
        return f"it has {len(ids)} tokens, and the limit is {limit}"
    return None


def _as_comparison(ids: np.ndarray, scorer: Scorer, limit: int) -> EncodedComparison:
    over = len(ids) > limit
    if over:
        keep = 0 if scorer.template.start_token is None else 1
        (ids,) = cut_left([ids], limit, keep=keep).rows
    return EncodedComparison("", "request", ids[:-1], (ids[-1:],), (), truncated=over)
