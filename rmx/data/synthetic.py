"""`SyntheticData`: short conversations whose true reward is known, an instrument for the whole pipeline.

A response is one to three sentences out of a fixed vocabulary, in random order; its true reward is the sum of the
sentences' values, whatever the prompt. Labels are drawn from the Bradley–Terry model at a noise temperature τ:

    truth = reward / τ        P(a beats b) = sigmoid(truth_a - truth_b)

so the best accuracy any model can reach on pairs with gap Δ = |truth_a - truth_b| is the mean of sigmoid(Δ), and the
least loss is the mean of the binary entropy of sigmoid(Δ), in nats (`rmx.metrics.ceiling`).

The values come in pairs of sentences of one length, +v and -v, so that neither the number of sentences nor the number
of characters says anything about the reward.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from rmx.data.accounting import Accounting, SourceAccount, Splits
from rmx.data.holdout import split_by_prompt
from rmx.records import Comparison, Pair
from rmx.values import Count, Positive, Seed, Share, refuse_wrong_fields

__all__ = ["SENTENCES", "SyntheticData", "true_reward"]

# Value, the sentence worth +value, the sentence worth -value; the two have the same number of characters.
_VOCABULARY: tuple[tuple[float, str, str], ...] = (
    (0.5, "Good question!", "What, not now."),
    (1.0, "Ask me more.", "Go ask them."),
    (1.0, "Here is how.", "I forgot it."),
    (1.5, "Safety first.", "Break a rule."),
    (1.5, "Take your time.", "Hurry up, then."),
    (2.0, "Happy to help!", "You bother me."),
)
SENTENCES: dict[str, float] = {
    sentence: sign * value for value, good, bad in _VOCABULARY for sign, sentence in ((1.0, good), (-1.0, bad))
}

_VERBS = ("fix", "paint", "clean", "sell", "build", "carry", "store", "draw", "lend", "pack", "find", "move", "buy")
_ADJECTIVES = ("old", "new", "big", "tiny", "red", "wet", "loud", "cheap", "heavy", "round", "soft", "wooden", "blue")
_OBJECTS = ("bike", "lamp", "door", "kite", "boat", "chair", "clock", "piano", "tent", "shelf", "guitar", "wall", "cup")


def true_reward(text: str) -> float:
    """The reward of a response: the sum of its sentences' values.

    >>> true_reward("Happy to help! Hurry up, then.")
    0.5
    """
    return sum(value for sentence, value in SENTENCES.items() if sentence in text)


@dataclass(frozen=True)
class SyntheticData:
    """Generated comparisons with known true reward.

    Args:
        size: comparisons, before the split.
        temperature: label noise τ in reward units; 0.5 gives clear labels, 4 nearly random ones.
        responses: K responses of each comparison; for K > 2 their order is drawn from the Plackett–Luce model.
        validation_fraction: share of rows put aside as evaluation set `eval`, by prompt.
        name: the source's name.
        max_tokens: the longest sequence, as for other data; these texts have fewer than 200 bytes.
        truncation: what happens to longer ones.
        seed: of prompts, responses, labels and split.

    >>> splits = SyntheticData(size=100).read()
    >>> len(splits.train) + len(splits.evals["eval"])
    100
    """

    size: Annotated[int, Ge(2)] = 4000
    temperature: Positive = 0.5
    responses: Annotated[int, Interval(ge=2, le=100)] = 2
    validation_fraction: Share = 0.25
    name: str = "synthetic"
    max_tokens: Count = 2048
    truncation: Literal["keep_end", "drop", "error"] = "keep_end"
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check the values."""
        refuse_wrong_fields(self, "data")

    @property
    def source(self) -> str:
        """The name of the source."""
        return self.name

    def read(self, output_dir: Path | None = None) -> Splits:
        """Generate and split; nothing is written."""
        draw = random.Random(f"rmx synthetic {self.seed}")
        rows = [self._comparison(draw, number) for number in range(1, self.size + 1)]
        train, aside = split_by_prompt(rows, self.validation_fraction, self.seed, "count")
        evals = {"eval": aside} if aside else {}
        account = SourceAccount([], "synthetic", "generated rows with known true reward", self.size, 0, self.size)
        account.train, account.evals = len(train), {name: len(kept) for name, kept in evals.items()}
        return Splits(train, evals, Accounting({self.name: account}))

    def _comparison(self, draw: random.Random, number: int) -> Comparison:
        """One comparison; its responses are stored from best to worst as the noisy label says."""
        prompt = f"How do I {draw.choice(_VERBS)} a {draw.choice(_ADJECTIVES)} {draw.choice(_OBJECTS)}?"
        texts: list[str] = []
        while len(texts) < self.responses:
            text = " ".join(draw.sample(tuple(SENTENCES), draw.randint(1, 3)))
            if text not in texts:
                texts.append(text)
        # Gumbel noise added to the logits and sorted is a draw from Plackett–Luce, and for K = 2 from Bradley–Terry.
        ranked = sorted(
            ((true_reward(text) / self.temperature, text) for text in texts),
            key=lambda item: item[0] - math.log(-math.log(1.0 - draw.random())),
            reverse=True,
        )
        pairs = tuple(Pair(i, j) for i in range(self.responses) for j in range(i + 1, self.responses))
        return Comparison(
            id=f"{self.name}:{number}",
            source=self.name,
            prompt=({"role": "user", "content": prompt},),
            responses=tuple(({"role": "assistant", "content": text},) for _, text in ranked),
            pairs=pairs,
            where=f"{self.name}:{number}",
            truth=tuple(truth for truth, _ in ranked),
        )
