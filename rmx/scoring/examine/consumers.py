"""The ten rows, scored the way each consumer scores: what of it agrees, and with what.

Each consumer loads the folder afresh and builds its own input from the conversations, by its own steps, faults
included. A consumer that cannot be asked here (not installed) or refuses the folder has no rewards but a reason.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from rmx.errors import RmxError, first_line
from rmx.models.quiet import quiet
from rmx.models.resolve import trust_remote_code
from rmx.scoring.examine.opened import Opened
from rmx.scoring.examine.rows import ten_conversations
from rmx.scoring.examine.weight_traps import alone
from rmx.scoring.scorer import load

__all__ = ["CONSUMERS", "Consumer", "Scored", "ask_consumers"]

FLOAT32_TOLERANCE = 1e-3  # times max(1, |reward|)


@dataclass(frozen=True)
class Consumer:
    """Who scores, and the rewards of the ten rows as it computes them."""

    name: str
    score: Callable[[Opened], list[float]]
    needs: str | None = None  # a package


@dataclass(frozen=True)
class Scored:
    """What one consumer gave."""

    name: str
    rewards: list[float] | None
    max_difference: float | None  # from the first consumer that answered, in reward units
    agrees: bool | None
    why_not: str | None = None


def ask_consumers(opened: Opened, *, allowed: float | None = None) -> list[Scored]:
    """Let every consumer that is installed score the ten rows; the first that answers is what others are compared with.

    Args:
        allowed: the largest |difference| that counts as agreement; None is 1e-3 * max(1, |reward|).
    """
    found: list[Scored] = []
    first: list[float] | None = None
    for consumer in CONSUMERS:
        if consumer.needs is not None and find_spec(consumer.needs) is None:
            found.append(Scored(consumer.name, None, None, None, f"{consumer.needs} is not installed"))
            continue
        try:
            with quiet(), _no_advice():
                rewards = consumer.score(opened)
        except RmxError as error:
            found.append(Scored(consumer.name, None, None, None, first_line(error)))
            continue
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
            why = f"it stops with {type(error).__name__}: {first_line(error)}"
            found.append(Scored(consumer.name, None, None, None, why))
            continue
        first = rewards if first is None else first
        found.append(_compared(consumer.name, rewards, first, allowed))
    return found


def _compared(name: str, rewards: list[float], first: list[float], allowed: float | None) -> Scored:
    pairs = list(zip(rewards, first, strict=True))
    largest = max(abs(a - b) for a, b in pairs)
    agrees = all(abs(a - b) <= (FLOAT32_TOLERANCE * max(1.0, abs(b)) if allowed is None else allowed) for a, b in pairs)
    return Scored(name, rewards, largest, agrees)


@contextmanager
def _no_advice() -> Iterator[None]:
    """What transformers and peft say to their own user (lengths, devices, future versions) is none of rmx's user's."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what goes wrong, it raises
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


# --- Who scores ---


def _rmx(opened: Opened) -> list[float]:
    return load(opened.folder).score(ten_conversations())


def _single(opened: Opened) -> list[float]:
    _texts(opened)
    return alone(opened, torch.float32)


def _texts(opened: Opened) -> list[str]:
    if opened.texts is None:
        raise ValueError("the tokenizer has no chat template that works")
    return opened.texts


@torch.no_grad()
def _batch(opened: Opened) -> list[float]:
    """All ten in one padded batch; config and tokenizer as they are in the folder."""
    model: Any = opened.model()
    inputs = opened.tokenizer(_texts(opened), padding=True, add_special_tokens=False, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    return model(**inputs.to(model.device)).logits[:, 0].float().tolist()


def _pipeline(opened: Opened) -> list[float]:
    """`pipeline(..., function_to_apply="none")` on the rendered text, which it tokenises with default settings."""
    pipe = pipeline(
        "text-classification", model=str(opened.folder), device="cpu", trust_remote_code=trust_remote_code()
    )
    loaded = type(pipe.model).__name__
    if not loaded.endswith("ForSequenceClassification"):
        raise ValueError(f"it loads a {loaded} from this folder")
    if pipe.model.config.num_labels != 1:
        raise ValueError(f"it makes a head of {pipe.model.config.num_labels} outputs")
    return [float(pipe(text, function_to_apply="none")[0]["score"]) for text in _texts(opened)]


@torch.no_grad()
def _trl(opened: Opened) -> list[float]:
    """The steps of GRPO and RLOO in trl 1.16 for `reward_funcs="FOLDER"`; its own template helper writes the text."""
    from trl.data_utils import apply_chat_template

    model: Any = AutoModelForSequenceClassification.from_pretrained(
        opened.folder, num_labels=1, trust_remote_code=trust_remote_code(), **opened.loading
    ).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(opened.folder, trust_remote_code=trust_remote_code())
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    texts = [apply_chat_template({"messages": row}, tokenizer)["text"] for row in ten_conversations()]
    inputs = tokenizer(text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    return model(**inputs.to(model.device)).logits[:, 0].float().tolist()


def _vllm(opened: Opened) -> list[float]:
    """vLLM's pooling runner, its `classify` task without an activation, on token ids."""
    from vllm import LLM, PoolingParams

    engine = LLM(model=str(opened.folder), runner="pooling", dtype="float32", enforce_eager=True)
    prompts = [{"prompt_token_ids": row} for row in opened.token_ids]
    settings = PoolingParams(use_activation=False)
    answers = engine.encode(prompts, pooling_task="classify", pooling_params=settings)
    return [float(answer.outputs.data.flatten()[0]) for answer in answers]


CONSUMERS = (
    Consumer("rmx.load(...).score", _rmx),
    Consumer("transformers, each row alone", _single),
    Consumer("transformers, one padded batch", _batch),
    Consumer('pipeline("text-classification")', _pipeline),
    Consumer("TRL's GRPO and RLOO", _trl, needs="trl"),
    Consumer("vLLM, classify", _vllm, needs="vllm"),
)
