"""What the model sees of a row: its tokens, coloured, with the scored one marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from rmx.records import Comparison
from rmx.tokens.chunk import Truncation
from rmx.tokens.encode import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rmx.templates import BoundTemplate

__all__ = ["show_sample", "show_tokens", "token_texts"]

# Neighbouring tokens alternate; both are readable on dark and light backgrounds and to the colour-blind.
_WORDS = ("bold blue", "default")
_CONTROL = "magenta"
_SCORED = "bold reverse yellow"
_HEAD, _TAIL = 40, 80  # tokens that are shown of a longer part: its beginning and its end


def show_tokens(
    comparison: Comparison,
    tokenizer: PreTrainedTokenizerBase,
    template: BoundTemplate,
    *,
    max_tokens: int,
    truncation: Truncation = "keep_end",
    whole: bool = False,
) -> Text:
    """One comparison as rich text: the shared beginning once, then each response up to its scored token.

    Tokens are separated by `|` (not where they are single letters, as those of a byte-level tokenizer are); a newline
    is drawn as ↵, and the token whose hidden state becomes the reward as ⟦token⟧ in reverse, so that the picture is
    readable without colours, too. `whole=False` leaves out the middle of long parts.

    Raises:
        DataError: as `encode` does for this one row.
    """
    (row,), _ = encode([comparison], tokenizer, template, max_tokens=max_tokens, truncation=truncation)
    wins = [sum(pair.winner == k for pair in row.pairs) for k in range(len(row.suffix_ids))]
    shown = Text()
    where = "" if comparison.where == comparison.id else comparison.where
    shown.append(f"{comparison.id}  {where}".rstrip(), style="bold")
    shown.append(
        f"  template {template.name}, {len(row.prefix_ids)} shared tokens"
        f"{', prompt truncated' if row.truncated else ''}\n",
        style="dim",
    )
    control = _control(tokenizer)
    texts = token_texts(np.concatenate([row.prefix_ids, *row.suffix_ids]), tokenizer)
    between = "|" if sum(len(text) > 1 for text in texts) > 0.3 * len(texts) else ""
    _part(shown, "shared", row.prefix_ids, tokenizer, control, between=between, scored=False, whole=whole)
    for k, suffix in enumerate(row.suffix_ids):
        label = ("chosen", "rejected")[k] if len(wins) == 2 and wins == [1, 0] else f"response {k}, {wins[k]} wins"
        label = f"{label} ({row.lengths[k]} tokens)"
        _part(shown, label, suffix, tokenizer, control, between=between, scored=True, whole=whole)
    return shown


def show_sample(template: BoundTemplate) -> Text:
    """The template on a made-up question and answer, in one line, with the scored token marked.

    Nothing of the data is in it, so it may go to logs.
    """
    chat = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": "An answer."}]
    tokenizer = template.tokenizer
    ids = tokenizer(template.render(chat), add_special_tokens=False)["input_ids"]
    control, shown = _control(tokenizer), Text()
    for number, text in zip(ids[:-1], token_texts(ids[:-1], tokenizer), strict=True):
        shown.append(text, style=_CONTROL if number in control else "")
    _scored(shown, token_texts(ids[-1:], tokenizer)[0])
    return shown


def _control(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    return {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def _scored(shown: Text, text: str) -> None:
    shown.append(f"⟦{text}⟧", style=_SCORED)
    shown.append(" ◀ scored", style="bold yellow")


def _part(
    shown: Text,
    label: str,
    ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    control: set[int],
    *,
    between: str,
    scored: bool,
    whole: bool,
) -> None:
    shown.append(f"{label}\n", style="underline")
    texts = token_texts(ids, tokenizer)
    skip = range(_HEAD, len(texts) - _TAIL) if not whole and len(texts) > 1.3 * (_HEAD + _TAIL) else range(0)
    for i, (number, text) in enumerate(zip(ids, texts, strict=True)):
        if i in skip:
            if i == skip.start:
                shown.append(f" ... {len(skip)} tokens ... ", style="dim")
            continue
        if i and (i - 1) not in skip:
            shown.append(between, style="dim")
        if scored and i == len(texts) - 1:
            _scored(shown, text)
        else:
            shown.append(text, style=_CONTROL if int(number) in control else _WORDS[i % 2])
    shown.append("\n")


def token_texts(ids: Iterable[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each token stands for, with newline as ↵, tab as ⇥ and other unprintable letters escaped.

    A token that is only a part of a UTF-8 letter is shown as the tokenizer names it.
    """
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
    before = str(tokenizer.decode(anchor))
    texts = []
    for number in ids:
        # decoded behind another token, because SentencePiece drops the space of a token that stands alone
        text = str(tokenizer.decode([*anchor, int(number)], skip_special_tokens=False))
        text = text.removeprefix(before)
        if not text or "\ufffd" in text:
            text = str(tokenizer.convert_ids_to_tokens(int(number)))
        text = text.replace("\n", "↵").replace("\t", "⇥")
        texts.append("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text))
    return texts
