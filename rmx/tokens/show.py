"""What the model sees of a row: its tokens, coloured, with the scored one marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from rmx.errors import counted
from rmx.records import Comparison, EncodedComparison
from rmx.tokens.chunk import ChunkEncoder, Truncation
from rmx.tokens.tally import CAUSES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rmx.models.head import ScoredPosition
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
    scored: ScoredPosition = "last",
) -> Text:
    """One comparison as rich text: the shared beginning once, then each response up to its end.

    Tokens are separated by `|` (not where they are single letters, as those of a byte-level tokenizer are); a newline
    is drawn as ↵, and the token whose hidden state becomes the reward as ⟦token⟧ in reverse, so that the picture is
    readable without colours, too. `whole=False` leaves out the middle of long parts. What the model does not see is
    said below: fields that the template does not print, and pairs whose sides are the same tokens.

    Raises:
        DataError: as `encode` does for this one row.
    """
    seen = ChunkEncoder(tokenizer, template, max_tokens=max_tokens, truncation=truncation).look(comparison)
    row = seen.row
    wins = [sum(pair.winner == k for pair in row.pairs) for k in range(len(row.suffix_ids))]
    shown = Text()
    where = "" if comparison.where == comparison.id else comparison.where
    shown.append(f"{comparison.id}  {where}".rstrip(), style="bold")
    shown.append(
        f"  template {template.name}, {len(row.prefix_ids)} shared tokens"
        f"{', prompt truncated' if row.truncated else ''}\n",
        style="dim",
    )
    texts = token_texts(np.concatenate([row.prefix_ids, *row.suffix_ids]), tokenizer)
    between = "|" if sum(len(text) > 1 for text in texts) > 0.3 * len(texts) else ""
    look = _Look(tokenizer, between=between, cut=None if whole else (_HEAD, _TAIL))
    shown.append("shared\n", style="underline")
    look.part(shown, row.prefix_ids, mark=0 if scored == "first" and len(row.prefix_ids) else None)
    for k, suffix in enumerate(row.suffix_ids):
        label = ("chosen", "rejected")[k] if len(wins) == 2 and wins == [1, 0] else f"response {k}, {wins[k]} wins"
        shown.append(f"{label} ({counted(row.lengths[k], 'token')})\n", style="underline")
        first = 0 if scored == "first" and not len(row.prefix_ids) else None
        look.part(shown, suffix, mark=len(suffix) - 1 if scored == "last" else first)
    if scored == "all":
        shown.append("the reward is read over all tokens\n", style="bold yellow")
    for field in sorted(seen.unprinted):
        shown.append(f"not printed, or not in full, by the template: {field}\n", style="bold red")
    for pair, cause in zip(row.pairs, seen.equal, strict=True):
        if cause is not None:
            sides = "" if len(row.suffix_ids) == 2 else f" of responses {pair.winner} and {pair.loser}"
            shown.append(f"the pair{sides} is left out, both sides are the same tokens: {CAUSES[cause]}\n", "bold red")
    return shown


def show_sample(row: EncodedComparison, tokenizer: PreTrainedTokenizerBase, *, scored: ScoredPosition = "last") -> Text:
    """A row of the data as the model reads it, with its preferred response, in one line; the scored token marked.

    The middle of a long row is left out.
    """
    winner = row.pairs[0].winner if row.pairs else 0
    ids = np.concatenate([row.prefix_ids, row.suffix_ids[winner]]).tolist()
    shown = Text()
    mark = {"last": len(ids) - 1, "first": 0, "all": None}[scored]
    _Look(tokenizer, between="", cut=(_HEAD, _HEAD), plain=True).part(shown, ids, mark=mark)
    shown.rstrip()
    if scored == "all":
        shown.append(" ◀ scored over all tokens", style="bold yellow")
    return shown


class _Look:
    """How tokens are drawn.

    Args:
        between: what separates neighbours.
        cut: tokens shown of the beginning and the end of a long part; None for all of it.
        plain: words in one colour; else neighbours alternate.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, between: str, cut: tuple[int, int] | None, plain: bool = False
    ) -> None:
        self.tokenizer, self.between, self.cut = tokenizer, between, cut
        self.words = ("", "") if plain else _WORDS
        self.control = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}

    def part(self, shown: Text, ids: Sequence[int], *, mark: int | None) -> None:
        """Append tokens and a newline; number `mark` is the scored one."""
        head, tail = self.cut or (len(ids), 0)
        skip = range(head, len(ids) - tail) if len(ids) > 1.3 * (head + tail) else range(0)
        kept = [i for i in range(len(ids)) if i not in skip]
        texts = dict(zip(kept, token_texts([ids[i] for i in kept], self.tokenizer), strict=True))
        for i, text in texts.items():
            if i and (i - 1) in texts:
                shown.append(self.between if texts[i - 1] else "", style="dim")
            elif i:
                shown.append(f" ... {counted(len(skip), 'token')} ... ", style="dim")
            if i == mark:
                shown.append(f"⟦{text}⟧", style=_SCORED)
                shown.append(" ◀ scored" if i == len(ids) - 1 else " ◀ scored ", style="bold yellow")
            else:
                shown.append(text, style=_CONTROL if int(ids[i]) in self.control else self.words[i % 2])
        shown.append("\n")


def token_texts(ids: Iterable[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each token stands for, with newline as ↵, tab as ⇥ and other unprintable letters escaped.

    Of a letter that several tokens spell, the last has the letter and the others have nothing. A token that spells a
    part of a letter without the rest is shown as the tokenizer names it.
    """
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
    before = str(tokenizer.decode(anchor))

    def decoded(part: list[int]) -> str:
        # behind another token, because SentencePiece drops the space of a token that stands alone
        return str(tokenizer.decode([*anchor, *part], skip_special_tokens=False)).removeprefix(before)

    numbers = [int(number) for number in ids]
    texts: list[str] = []
    while (i := len(texts)) < len(numbers):
        text, size = decoded(numbers[i : i + 1]), 1
        while _PART in text and size < min(_MOST_PARTS, len(numbers) - i):
            size += 1
            text = decoded(numbers[i : i + size])
        if not text or _PART in text:
            text, size = str(tokenizer.convert_ids_to_tokens(numbers[i])), 1
        texts += [*[""] * (size - 1), _printable(text)]
    return texts


_PART = "\ufffd"  # what bytes that are no whole letter are decoded to
_MOST_PARTS = 4  # bytes of the longest letter in UTF-8


def _printable(text: str) -> str:
    text = text.replace("\n", "↵").replace("\t", "⇥")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
