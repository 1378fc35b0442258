"""THE one way a text becomes a reward: training's evaluation, predict, `rmx.load` and the tools all score here.

    conversations ──template──▶ texts ──tokenizer──▶ ids ──engine──▶ one float32 reward each, in input order

Nothing here imports a trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from rmx.engine import Engine
from rmx.errors import DataError
from rmx.records import EncodedComparison, Message
from rmx.templates import Template
from rmx.tokens import encode_conversations

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rmx.models.artefact.calibrated import Calibration
    from rmx.templates import BoundTemplate

__all__ = ["Scorer", "Turns", "load"]

log = logging.getLogger(__name__)

Conversation = Sequence[Message]


@dataclass(frozen=True)
class Turns:
    """How several processes share what is to be scored.

    Args:
        rank: this process's share.
        ranks: shares.
        in_step: how many forward passes to run where there is work for so many: where weights are divided, every
            process takes part in each.
        gather: one value per share, in their order.
    """

    rank: int = 0
    ranks: int = 1
    in_step: Callable[[int], int] = int
    gather: Callable[[Any], list[Any]] = lambda value: [value]


class Scorer:
    """A reward model with its tokenizer, its template and its limits.

    Args:
        model: `<Arch>ForSequenceClassification` with one label, or a PEFT model around it.
        template: how a conversation becomes text; its rendering ends at the scored token.
        max_tokens: longest sequence; longer conversations lose the beginning of their prompt.
        max_tokens_per_micro_batch: token positions computed at once (memory only).
        calibration: a scale on which all rewards are returned; None returns them as the model gives them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: BoundTemplate,
        *,
        max_tokens: int = 2048,
        engine: Engine | None = None,
        encoding: Literal["auto", "shared", "separate"] = "auto",
        precision: Literal["fp32", "bf16"] = "fp32",
        max_tokens_per_micro_batch: int = 4096,
        calibration: Calibration | None = None,
    ) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.max_tokens, self.max_tokens_per_micro_batch = max_tokens, max_tokens_per_micro_batch
        self.calibration = calibration
        self.turns = Turns()
        self.engine = engine or Engine(model, encoding=encoding, precision=precision)

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        """Return one reward per conversation, in input order.

        Args:
            conversations: each a list of {"role", "content"} messages ending with the response to judge.

        Raises:
            DataError: a conversation is empty or its messages have no role or content.
        """
        check_conversations(conversations)
        ids = encode_conversations(conversations, self.tokenizer, self.template, max_tokens=self.max_tokens)
        single = [
            EncodedComparison(id=str(i), source="score", prefix_ids=row[:-1], suffix_ids=(row[-1:],), pairs=())
            for i, row in enumerate(ids)
        ]
        return [float(rewards[0]) for rewards in self.rewards(single)]

    def rank(self, prompt: Conversation, responses: Sequence[str]) -> list[tuple[float, str]]:
        """Return (reward, response), best first: best-of-n for one prompt.

        Raises:
            DataError: `responses` is a single string, or one of them is no string.
        """
        if isinstance(responses, str):
            raise DataError("rank: responses is a single string; give a list of strings, one per response")
        for number, response in enumerate(responses):
            if not isinstance(response, str):
                raise DataError(f"rank: responses[{number}] is a {type(response).__name__}; give a string")
        scores = self.score([[*prompt, {"role": "assistant", "content": response}] for response in responses])
        return sorted(zip(scores, responses, strict=True), key=lambda pair: -pair[0])

    def rewards(
        self,
        comparisons: Sequence[EncodedComparison],
        progress: Callable[[int, int], None] | None = None,
        filler: EncodedComparison | None = None,
    ) -> list[np.ndarray]:
        """Return the K float32 rewards of each comparison, in input order, without gradients.

        Rows run longest first, so that the memory peak comes at once and padding (where a model needs it) is least.

        Args:
            comparisons: encoded comparisons.
            progress: told (comparisons scored, all of them) after every micro-batch.
            filler: what this process scores for the sake of others that have more to do, where it has no row.
        """
        done, filler = 0, filler or min(comparisons, key=lambda c: c.shared_tokens, default=None)
        order = sorted(range(len(comparisons)), key=lambda i: -comparisons[i].shared_tokens)
        ordered = [comparisons[i] for i in order]
        results: list[np.ndarray] = [np.empty(0, np.float32)] * len(comparisons)
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():  # not inference_mode: models cache tensors (rope tables) that training needs again
                parts = self.engine.plan(ordered, self.max_tokens_per_micro_batch)
                # Agreed on first: who has more to do waits in a forward pass for those who would only ask afterwards.
                fillers = self.turns.in_step(len(parts)) - len(parts)
                for part in parts:
                    rows = [ordered[i] for i in part]
                    flat = self.engine.rewards(self.engine.collate(rows)).float().cpu().numpy()
                    flat = flat if self.calibration is None else self.calibration.apply(flat)
                    sizes = np.cumsum([len(row.suffix_ids) for row in rows])[:-1]
                    for i, scores in zip(part, np.split(flat, sizes), strict=True):
                        results[order[i]] = scores
                    done += len(part)
                    if progress is not None:
                        progress(done, len(ordered))
                for _ in range(fillers):
                    self.engine.rewards(self.engine.collate([filler] if filler else []))
        finally:
            self.model.train(was_training)
        return results


def check_conversations(conversations: Sequence[Conversation]) -> None:
    """Raise DataError unless this is a list of conversations that each end with something to judge."""
    shape = 'give a list of conversations, each a list of {"role": ..., "content": ...} ending with the response'
    if isinstance(conversations, str | Mapping):
        raise DataError(f"score: got a single {type(conversations).__name__}; {shape}")
    for number, conversation in enumerate(conversations):
        if isinstance(conversation, str | Mapping) or not all(isinstance(m, Mapping) for m in conversation):
            raise DataError(f"score: conversation {number} is no list of messages; {shape}")
        if conversation and conversation[-1].get("role") in ("user", "system"):
            raise DataError(
                f"score: conversation {number} ends with the {conversation[-1]['role']}; a reward judges the "
                "assistant's response, which has to be the last message"
            )


def load(
    path: str | Path,
    *,
    device: str | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    max_tokens_per_micro_batch: int = 4096,
    calibrated: bool = False,
) -> Scorer:
    """Load a finished run's `model/` folder (or the run folder itself) as a scorer.

    The template, the length limit and the scored position come from the folder's reward_contract.json, so a
    text gets the score here that it got in the run. Only where a prompt was cut there, all responses of its comparison
    had what the longest of them left of it; a text that is scored alone is cut by its own length.

    Args:
        path: the folder, or a hub id.
        device: where to, such as "cuda:0"; None is the CPU.
        precision: of the computation.
        max_tokens_per_micro_batch: token positions computed at once (memory only).
        calibrated: return rewards on the scale that `rmx export --format calibrated` measured and wrote.

    Raises:
        ModelError: the folder holds no reward model, its contract does not match its files, or `calibrated` is asked
            for and it holds no scale.
    """
    from rmx.models import read_artefact
    from rmx.models.artefact.calibrated import read_calibration

    artefact = read_artefact(path, device=device)
    template = artefact.contract.get("template", {})
    spec = Template(template["name"], jinja=template["jinja"]) if template else Template("auto")
    return Scorer(
        artefact.model,
        artefact.tokenizer,
        spec.bind(artefact.tokenizer),
        max_tokens=artefact.max_tokens,
        precision=precision,
        max_tokens_per_micro_batch=max_tokens_per_micro_batch,
        calibration=read_calibration(artefact.folder) if calibrated else None,
    )
