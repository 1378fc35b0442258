"""Building the model below any adapter: from code (tiny) or from a folder with config.json and safetensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rmx.errors import ModelError, first_line
from rmx.models.head import HEADS, StoredHead, embedding_of, find_head, head_parts, init_head, restore_head
from rmx.models.quantization import Quantization, as_stored
from rmx.models.quiet import quiet
from rmx.models.resolve import Resolved, resolve, trust_remote_code
from rmx.models.tensor_files import VALUE_HEAD, StoredTensor, half_precision, tensors
from rmx.models.tiny import TINY, tiny_config, tiny_tokenizer
from rmx.models.tokenizer import check_vocabulary, choose_padding, load_tokenizer
from rmx.models.unread import ReadWholeError, Unread, build_unread

if TYPE_CHECKING:
    from rmx.models.source import RewardModelSource

__all__ = ["Base", "Wish", "attention_of", "build_checkpoint", "build_tiny", "config_of", "reward_config"]


@dataclass(frozen=True)
class Wish:
    """How the weights below an adapter are asked for."""

    source: RewardModelSource
    master: bool  # all weights are trained: keep them in float32
    quantization: Quantization | None
    seed: int
    device: str | None
    divided: bool = False  # processes hold a part of every weight each
    whole: str | None = None  # why each of them has to read all of it nevertheless
    parts_only: bool = False  # and then none of them is to


@dataclass
class Base:
    """What lies below an adapter, as built."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    path: str
    revision: str | None
    folder: Path | None
    head_was_kept: bool
    changed: bool  # differs from what is at `path`
    notes: list[str] = field(default_factory=list)
    quantization: Quantization | None = None
    unread: list[tuple[nn.Parameter, Unread]] = field(
        default_factory=list
    )  # weights without memory, and where they lie


def build_tiny(wish: Wish) -> Base:
    """The embedded model: random weights that depend on the seed alone."""
    source, config, tokenizer = wish.source, tiny_config(), tiny_tokenizer()
    reward_config(config, tokenizer.pad_token_id, keep_dropout=source.dropout)
    dtype = torch.float32 if source.dtype == "auto" else getattr(torch, source.dtype)
    try:
        model = AutoModelForSequenceClassification.from_config(
            config, attn_implementation=attention_of(source, config), dtype=dtype, trust_remote_code=False
        )
    except (ImportError, ValueError) as error:
        raise ModelError(f"model.attn_implementation: {first_line(error)}") from None
    init_head(model, "zero" if source.head_init == "zero" else "normal", wish.seed)
    return Base(model, tokenizer, TINY, None, None, head_was_kept=False, changed=True)


def build_checkpoint(place: Resolved, wish: Wish) -> Base:
    """A base model or a finished reward model, with its head kept or drawn as `model.head_init` says."""
    source = wish.source
    config = config_of(place)
    tokenizer = _tokenizer(source, place)
    padding = choose_padding(tokenizer)
    notes = [padding.why] if padding.why else []
    stored = tensors(place.folder)
    head = find_head(place.folder, stored, config) if source.head_init == "keep" else None
    if head is not None and head.outputs != 1:
        raise ModelError(
            f"model.path: the head of {place.path} has {head.outputs} outputs, a reward has one; "
            "model.head_init=normal replaces it"
        )
    reward_config(config, padding.id, keep_dropout=source.dropout)
    dtype = _dtype(wish, half_precision(stored))
    built = _unread(wish, config, stored, dtype, padding.id) if wish.divided else "it is not divided"
    if isinstance(built, str):
        if wish.parts_only:
            raise ReadWholeError(built)
        model, loaded = _from_pretrained(place, config, wish, dtype, strict=head is not None)
        _check_weights(model, loaded, place.path, head)
        unread: list[tuple[nn.Parameter, Unread]] = []
        if wish.divided:
            notes.append(f"every process reads the whole model before it is divided: {built}")
    else:
        model, unread = built
        notes.append("every process reads its part of the weights only")
    changed = _fit_vocabulary(model, tokenizer, padding.id, place.path, notes)
    if head is not None:
        notes.extend(restore_head(model, head))
        changed = changed or head.file.name == VALUE_HEAD
    else:
        init_head(model, "zero" if source.head_init == "zero" else "normal", wish.seed)
    return Base(
        model=model,
        tokenizer=tokenizer,
        path=place.path,
        revision=place.revision,
        folder=place.folder,
        head_was_kept=head is not None,
        changed=changed,
        notes=notes,
        quantization=wish.quantization,
        unread=unread,
    )


def reward_config(config: PreTrainedConfig, pad_token_id: int, *, keep_dropout: bool = False) -> None:
    """Make a config that of a reward model: one output called reward, read as a regression, known padding.

    `problem_type` matters: without it, pipelines and vLLM put a sigmoid on the reward.
    """
    config.num_labels = 1
    config.id2label = {0: "reward"}
    config.label2id = {"reward": 0}
    config.problem_type = "regression"
    config.value_head_prefix = "score"  # the name OpenRLHF looks for
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        part.pad_token_id = pad_token_id
        part.use_cache = False
        if not keep_dropout:
            for name, value in list(vars(part).items()):
                if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
                    setattr(part, name, 0.0)


# --- Steps of build_checkpoint ---


def config_of(place: Resolved) -> PreTrainedConfig:
    """Read the config of a folder.

    Raises:
        ModelError: it cannot be used, or its architecture cannot carry a scalar head.
    """
    try:
        config = AutoConfig.from_pretrained(place.folder, trust_remote_code=trust_remote_code())
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"model.path: {place.path} brings its own code, which is not run; if you have read and trust it, "
                "repeat the command with --trust-remote-code"
            ) from None
        raise ModelError(f"model.path: the config of {place.path} cannot be used: {first_line(error)}") from None
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not trust_remote_code():
        raise ModelError(
            f"model.path: {place.path} is a {config.model_type} model, for which transformers has no "
            "...ForSequenceClassification class, so it cannot carry a scalar head; choose another base model"
        )
    return config


def _tokenizer(source: RewardModelSource, place: Resolved) -> PreTrainedTokenizerBase:
    if source.tokenizer_path is None:
        return load_tokenizer(place.folder)
    folder = Path(source.tokenizer_path).expanduser()
    if not folder.is_dir():
        folder = resolve(source.tokenizer_path, key="model.tokenizer_path", weights=False).folder
    return load_tokenizer(folder, "model.tokenizer_path")


def _dtype(wish: Wish, stored_half: str | None) -> torch.dtype:
    if wish.source.dtype != "auto":
        return getattr(torch, wish.source.dtype)
    if wish.master or stored_half is None:
        return torch.float32
    if stored_half == "float16" and not torch.cuda.is_available():
        return torch.float32  # half a CPU's kernels do not exist in float16
    return getattr(torch, stored_half)


def _unread(
    wish: Wish, config: PreTrainedConfig, stored: dict[str, StoredTensor], dtype: torch.dtype, pad: int
) -> tuple[PreTrainedModel, list[tuple[nn.Parameter, Unread]]] | str:
    """Build the model without reading it, where that is known to give the same; else say why not."""
    if wish.whole is not None:
        return wish.whole
    if pad >= config.get_text_config().vocab_size:
        return "its embedding grows for a padding token"
    return build_unread(
        config,
        stored,
        attention=attention_of(wish.source, config),
        dtype=dtype,
        remote=trust_remote_code(),
        quantization=wish.quantization,
    )


def attention_of(source: RewardModelSource, config: PreTrainedConfig) -> str:
    """Return the attention implementation to load a model with.

    Raises:
        ModelError: it needs a CUDA device, and there is none.
    """
    asked = source.attn_implementation
    if asked.startswith("flash") and not torch.cuda.is_available():
        raise ModelError(f"model.attn_implementation: {asked} needs a CUDA device, and there is none; use sdpa")
    if asked != "auto":
        return asked
    model_class: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    return "sdpa" if model_class is None or model_class._supports_sdpa else "eager"


def _from_pretrained(
    place: Resolved, config: PreTrainedConfig, wish: Wish, dtype: torch.dtype, strict: bool
) -> tuple[PreTrainedModel, dict[str, Any]]:
    extra: dict[str, Any] = {}
    if wish.quantization is not None:
        here = wish.device or ("cuda" if torch.cuda.is_available() else "cpu")
        extra = {"quantization_config": wish.quantization.config(), "device_map": {"": here}}
    try:
        with quiet(sum(file.stat().st_size for file in place.folder.glob("*.safetensors"))):
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                place.folder,
                config=config,
                dtype=dtype,
                attn_implementation=attention_of(wish.source, config),
                trust_remote_code=trust_remote_code(),
                use_safetensors=True,
                ignore_mismatched_sizes=not strict,
                output_loading_info=True,
                **extra,
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"model.path: {place.path} cannot be loaded: {type(error).__name__}: {first_line(error)}"
        ) from None
    as_stored(model)
    return model, loaded


def _check_weights(model: PreTrainedModel, loaded: dict[str, Any], path: str, head: StoredHead | None) -> None:
    """Fail where weights would stay random that no one draws on purpose: the backbone's, or half of a kept head."""
    # A kept head is restored from the file, under whatever name it has there.
    random = tuple(f"{name}." for name in (head_parts(model) if head is None else HEADS))
    missing = sorted(name for name in loaded["missing_keys"] if not name.startswith(random))
    wrong = sorted(str(entry[0]) for entry in loaded["mismatched_keys"] if not str(entry[0]).startswith(random))
    if missing or wrong:
        what = f"{len(missing)} weights are missing" if missing else f"{len(wrong)} weights have another shape"
        raise ModelError(
            f"model.path: {path} does not fit its config: {what} ({', '.join((missing or wrong)[:3])}); "
            "they would be random; the checkpoint is incomplete or of another architecture"
        )


def _fit_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pad: int, path: str, notes: list[str]
) -> bool:
    rows = embedding_of(model).num_embeddings
    if pad == rows:  # a new padding token, and no spare row for it
        model.resize_token_embeddings(rows + 1, mean_resizing=False)
        with torch.no_grad():
            embedding_of(model).weight[pad].zero_()
        notes.append(f"the embedding grew from {rows} to {rows + 1} rows for the new padding token")
    check_vocabulary(tokenizer, embedding_of(model).num_embeddings, path)
    return pad == rows
