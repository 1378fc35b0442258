"""The tokenizer beside the model: a padding token that is not the end token, and no id beyond the embedding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from rmx.errors import ModelError, first_line
from rmx.models.head import ScoredPosition, scored_position
from rmx.models.resolve import resolve, trust_remote_code
from rmx.models.tiny import tiny_tokenizer

if TYPE_CHECKING:
    from rmx.models.source import RewardModelSource

__all__ = ["Padding", "check_vocabulary", "choose_padding", "load_tokenizer", "scored_position_of", "tokenizer_of"]

NEW_PAD = "<|pad|>"
# Tokens that model families ship for padding or for later use, in order of preference. None occurs in text:
# Llama 3.1+, Qwen, Phi / Llama 3.0, SmolLM2 and StarCoder, Mistral, and the unknown token of tokenizers that
# fall back to bytes and so never produce it.
SPARE_TOKENS = (
    "<|finetune_right_pad_id|>",
    "<pad>",
    "[PAD]",
    "<|pad|>",
    "<|padding|>",
    "<|vision_pad|>",
    "<|fim_pad|>",
    "<fim_pad>",
    "<|reserved_special_token_0|>",
    "<reponame>",
    "[control_8]",
    "<unk>",
)


class Padding(NamedTuple):
    """The padding token that was chosen, and whether it is new to the tokenizer."""

    token: str
    id: int
    added: bool
    why: str | None  # a sentence for the log; None where the tokenizer's own was right


def tokenizer_of(source: RewardModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer that `source.load` would return, without any weights.

    Raises:
        ModelError: It cannot be found, reached or built.
    """
    if source.embedded:
        return tiny_tokenizer()
    key, path = (
        ("model.path", source.path)
        if source.tokenizer_path is None
        else ("model.tokenizer_path", source.tokenizer_path)
    )
    place = resolve(str(path), source.revision if key == "model.path" else None, key, weights=False)
    tokenizer = load_tokenizer(place.folder, key)
    choose_padding(tokenizer)
    return tokenizer


def scored_position_of(source: RewardModelSource) -> ScoredPosition:
    """Where the model of `source.load` reads its reward, found without any weights.

    Raises:
        ModelError: The model cannot be found or reached, or transformers does not know it.
    """
    place = None if source.embedded else resolve(str(source.path), source.revision, weights=False).folder
    if place is not None and not (place / "config.json").exists() and (place / "adapter_config.json").exists():
        base = json.loads((place / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        place = resolve(base, weights=False).folder
    if place is None or not (place / "config.json").exists():
        return "last"
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code(), num_labels=1)
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=trust_remote_code())
    except (OSError, ValueError, KeyError, ImportError) as error:
        detail = first_line(error)
        raise ModelError(f"model.path: {place} ({type(error).__name__}: {detail})") from None
    return scored_position(model)


def load_tokenizer(folder: Path, key: str = "model.path") -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, with padding on the right and truncation that keeps the end.

    Raises:
        ModelError: There is none, or it cannot be built.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code())
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
        detail = first_line(error)
        raise ModelError(
            f"{key}: no tokenizer can be loaded from {folder} ({type(error).__name__}: {detail}); "
            "give one with model.tokenizer_path"
        ) from None
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is None:
        raise ModelError(f"{key}: the tokenizer in {folder} has no end token (eos_token); set one in its folder")
    tokenizer.padding_side = "right"  # absolute positions (GPT-2) shift under padding on the left
    tokenizer.truncation_side = "left"  # the scored token is at the end
    return tokenizer


def choose_padding(tokenizer: PreTrainedTokenizerBase) -> Padding:
    """Give the tokenizer a padding token that is not an end token, and say which.

    transformers reads a reward at the right-most token that is not padding, so with pad == eos it reads one token
    early on every row, while vLLM and others read the end token: two scores for one text. A token that the
    vocabulary holds in reserve is reused before a new one is added.
    """
    taken = {tokenizer.eos_token, tokenizer.bos_token, None}
    if tokenizer.pad_token not in taken:
        return Padding(tokenizer.pad_token, tokenizer.pad_token_id, False, None)
    had = tokenizer.pad_token
    known = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens) | {str(token) for token in tokenizer.added_tokens_decoder.values()}
    token = next((spare for spare in SPARE_TOKENS if spare in known and spare in special and spare not in taken), None)
    added = token is None
    token = token or NEW_PAD
    tokenizer.add_special_tokens({"pad_token": token})
    found = f"{had} is also its end token" if had else "the tokenizer has none"
    why = f"padding token {token} ({'new' if added else 'reserved by the vocabulary'}): {found}"
    return Padding(token, tokenizer.pad_token_id, added, why)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, shown: str) -> None:
    """Compare the largest token id with the rows of the embedding, before a text meets the difference.

    Raises:
        ModelError: Some token has no embedding.
    """
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        without = sorted(token for token, number in tokenizer.get_vocab().items() if number >= rows)
        raise ModelError(
            f"{shown}: the tokenizer has ids up to {largest}, the embedding has {rows} rows; {len(without)} tokens "
            f"have no embedding ({', '.join(without[:3])}); tokenizer and model do not belong together"
        )
