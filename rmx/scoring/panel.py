"""Who judges: one reward model or several, each with its own template, tokenizer and limit; and what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from rmx.errors import DataError, NonFiniteError
from rmx.records import Comparison, EncodedComparison
from rmx.scoring.ensemble import Ensemble, Scale
from rmx.scoring.scorer import Scorer, load
from rmx.tokens.chunk import ChunkEncoder

__all__ = ["Judgement", "Panel"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the models say of one comparison, or why they cannot."""

    rewards: tuple[float, ...] = ()  # [K]
    tokens: tuple[int, ...] = ()  # [K], of whole sequences, as the first model was given them
    truncated: bool = False  # the beginning of the prompt was cut, for one model at least
    members: tuple[tuple[float, ...], ...] = ()  # [E][K], each model's own rewards; () for a single model
    stds: tuple[float, ...] = ()  # [K], over the models
    disagreement: float | None = None
    refusal: str | None = None

    def answer(self) -> dict[str, Any]:
        """Return what is written of it: rewards in the row's order, ranks from 1, the best one and its lead.

        >>> said = Judgement((0.5, 2.0, -1.0), (7, 7, 8)).answer()
        >>> said["rewards"], said["ranks"], said["best"], said["margin"]
        ([0.5, 2.0, -1.0], [2, 1, 3], 1, 1.5)
        >>> Judgement(refusal="empty response: chosen").answer()
        {'error': 'empty response: chosen'}
        """
        if self.refusal is not None:
            return {"error": self.refusal}
        order = sorted(range(len(self.rewards)), key=lambda k: -self.rewards[k])
        ranks = [0] * len(order)
        for place, k in enumerate(order, 1):
            ranks[k] = place
        said: dict[str, Any] = {
            "reward": self.rewards[order[0]],
            "rewards": list(self.rewards),
            "ranks": ranks,
            "best": order[0],
            "margin": self.rewards[order[0]] - self.rewards[order[1]] if len(order) > 1 else None,
            "tokens": list(self.tokens),
            "truncated": self.truncated,
        }
        if self.members:
            said |= {
                "members": [list(rewards) for rewards in self.members],
                "stds": list(self.stds),
                "disagreement": self.disagreement,
            }
        return said


class Panel:
    """One or several scorers that judge the same comparisons.

    Args:
        scorers: with their names.
        ensemble: how several become one.
        truncation: what happens to conversations longer than a model's limit: `keep_end` cuts the beginning of the
            prompt, as in training; `error` refuses them.
    """

    def __init__(
        self,
        scorers: Sequence[tuple[str, Scorer]],
        ensemble: Ensemble | None = None,
        truncation: Literal["keep_end", "error"] = "keep_end",
    ) -> None:
        self.scorers, self.ensemble, self.truncation = list(scorers), ensemble or Ensemble(), truncation

    @classmethod
    def of(
        cls,
        paths: Sequence[str],
        *,
        device: str | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        max_tokens: int | None = None,
        max_tokens_per_micro_batch: int = 4096,
        truncation: Literal["keep_end", "error"] = "keep_end",
        calibrated: bool = False,
    ) -> Panel:
        """Load models: run folders, model folders or hub ids; `device` None takes a GPU where there is one.

        `calibrated` is that of `rmx.load`.

        Raises:
            ModelError: one cannot be loaded, or is no reward model.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        scorers = []
        for path in paths:
            scorer = load(
                path,
                device=device,
                precision=precision,
                max_tokens_per_micro_batch=max_tokens_per_micro_batch,
                calibrated=calibrated,
            )
            scorer.max_tokens = scorer.max_tokens if max_tokens is None else max_tokens
            scorers.append((path, scorer))
        return cls(scorers, truncation=truncation)

    def described(self) -> list[str]:
        """Return a line per model: what was found out of it."""
        return [
            f"{name}: {type(scorer.engine.model).__name__}, template {scorer.template.name}, scored at "
            f"{scorer.template.end_token}, at most {scorer.max_tokens} tokens, {scorer.model.device}, "
            f"{scorer.engine.precision}, encoding {scorer.engine.encoding}"
            for name, scorer in self.scorers
        ]

    def calibrate(self, comparisons: Sequence[Comparison], ensemble: Ensemble) -> None:
        """Measure each model's mean and spread on rows, and use them from now on."""
        said = [judge_alone(scorer, comparisons, self.truncation) for _, scorer in self.scorers]
        scales = tuple(
            Scale.of([reward for one in answers for reward in one.rewards], name)
            for (name, _), answers in zip(self.scorers, said, strict=True)
        )
        self.ensemble = Ensemble(ensemble.combine, ensemble.k, "calibration", scales)

    def judge(
        self, comparisons: Sequence[Comparison], progress: Callable[[float], None] | None = None
    ) -> list[Judgement]:
        """Judge comparisons (without pairs, each with an id of its own), in their order; those refused say why.

        Args:
            comparisons: what to judge.
            progress: told the share that is done, after every micro-batch.

        Raises:
            NonFiniteError: a model gives NaN or infinity.
        """
        count = len(self.scorers)

        def shown(number: int, done: int, total: int) -> None:
            if progress is not None:
                progress((number + done / total) / count)

        said = [
            judge_alone(scorer, comparisons, self.truncation, partial(shown, number))
            for number, (_, scorer) in enumerate(self.scorers)
        ]
        return [self.together(answers) for answers in zip(*said, strict=True)]

    def together(self, answers: Sequence[Judgement]) -> Judgement:
        """Return what the models say together of one comparison, from what each says alone, in the models' order.

        Raises:
            ConfigError: one response, and it would be centred on its prompt.
        """
        if len(answers) == 1:
            return answers[0]
        refused = next((answer for answer in answers if answer.refusal is not None), None)
        if refused is not None:
            return refused
        reward, std, disagreement = self.ensemble.combined(np.array([answer.rewards for answer in answers]))
        return Judgement(
            tuple(reward.tolist()),
            answers[0].tokens,
            any(answer.truncated for answer in answers),
            tuple(answer.rewards for answer in answers),
            tuple(std.tolist()),
            disagreement,
        )


def judge_alone(
    scorer: Scorer,
    comparisons: Sequence[Comparison],
    truncation: Literal["keep_end", "error"] = "keep_end",
    progress: Callable[[int, int], None] | None = None,
) -> list[Judgement]:
    """What one model says of comparisons, in their order."""
    encoded, refusals = encode_each(scorer, comparisons, truncation)
    judged = dict(refusals)
    kept = sorted(encoded)
    for number, rewards in zip(kept, scorer.rewards([encoded[n] for n in kept], progress), strict=True):
        if not np.isfinite(rewards).all():
            where = comparisons[number].where or comparisons[number].id
            raise NonFiniteError(f"{where}: the model gives a reward that is not finite; its weights are damaged")
        one = encoded[number]
        judged[number] = Judgement(tuple(rewards.tolist()), one.lengths, one.truncated)
    return [judged[number] for number in range(len(comparisons))]


def encode_each(
    scorer: Scorer, comparisons: Sequence[Comparison], truncation: Literal["keep_end", "error"]
) -> tuple[dict[int, EncodedComparison], dict[int, Judgement]]:
    """Token ids by the comparison's place, and refusals by place; the rules are training's own."""
    numbers = {comparison.id: number for number, comparison in enumerate(comparisons)}
    encoder = ChunkEncoder(
        scorer.tokenizer, scorer.template, max_tokens=scorer.max_tokens, truncation=truncation, on_bad_row="skip"
    )
    try:
        encoded = {numbers[row.id]: row for row in encoder.encode(comparisons)}
    except DataError:  # one of them stops the whole chunk: one by one, to find out which
        encoded = {}
    refused: dict[int, Judgement] = {}
    for number, comparison in enumerate(comparisons):
        if number not in encoded:
            try:
                encoded[number] = encode_one(scorer, comparison, truncation)
            except DataError as error:
                refused[number] = Judgement(refusal=str(error))
    return encoded, refused


def encode_one(scorer: Scorer, comparison: Comparison, truncation: Literal["keep_end", "error"]) -> EncodedComparison:
    """Token ids of one comparison.

    Raises:
        DataError: the template refuses it, or it is over-long and `truncation` is `error`; the message says which.
    """
    encoder = ChunkEncoder(scorer.tokenizer, scorer.template, max_tokens=scorer.max_tokens, truncation=truncation)
    scorer.template.render_many([(*comparison.prompt, *one) for one in comparison.responses], comparison.tools)
    (row,) = encoder.encode([comparison])
    return row
