"""A reward model folder as its consumers see it, opened without putting anything right.

`rmx.load` repairs what it can (a padding token that is the end token, a head in half precision). Here nothing is
repaired: the model is what plain transformers makes of the folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rmx.errors import ModelError, first_line
from rmx.models.artefact.save import CONTRACT
from rmx.models.head import head_parts, scored_position
from rmx.models.quantization import as_stored, quantization_in
from rmx.models.quiet import quiet
from rmx.models.resolve import resolve, trust_remote_code
from rmx.models.stored import BASE
from rmx.models.tensor_files import StoredTensor, json_object, tensors
from rmx.scoring.examine.rows import ten_conversations

__all__ = ["Opened", "open_folder_as_it_is"]

_LOADING = (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, AttributeError, SafetensorError)


@dataclass
class Opened:
    """What a consumer finds in the folder. Nothing is loaded before it is asked for."""

    folder: Path  # with config.json, or adapter_config.json
    shown: str  # as the user named it
    config: PreTrainedConfig  # of an adapter, its base's: that is the one transformers reads
    tokenizer: PreTrainedTokenizerBase
    stored: dict[str, StoredTensor]  # headers of the weights; of an adapter, its own
    contract: dict[str, Any]  # {} where rmx did not save the folder
    is_adapter: bool
    head: list[str]  # parts of the architecture outside its backbone: ["score"]
    head_names: list[str]  # the tensors of those parts
    reads_last_token: bool  # False for encoders, which pool
    _models: dict[torch.dtype, PreTrainedModel] = field(default_factory=dict, repr=False)

    @cached_property
    def stored_head(self) -> dict[str, StoredTensor]:
        """The stored tensors of the head, by the names that the architecture gives them."""
        found = {}
        for name in self.head_names:
            spellings = (name, f"base_model.model.{name}")
            here = next((spelling for spelling in spellings if spelling in self.stored), None)
            if here is not None:
                found[name] = self.stored[here]
        return found

    @cached_property
    def extra_head_tensors(self) -> dict[str, StoredTensor]:
        """Stored tensors beside the head that the architecture has no place for, such as `score.bias`."""
        places = tuple(f"{prefix}{part}." for part in self.head for prefix in ("", "base_model.model."))
        known = {spelling for name in self.head_names for spelling in (name, f"base_model.model.{name}")}
        return {name: tensor for name, tensor in self.stored.items() if name.startswith(places) and name not in known}

    @property
    def end_token_ids(self) -> set[int]:
        """Every id that ends a text: the tokenizer's and the config's."""
        of_config = self.config.get_text_config().eos_token_id
        ids = of_config if isinstance(of_config, list) else [of_config]
        return {number for number in (*ids, self.tokenizer.eos_token_id) if number is not None}

    def model(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Load it with `AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)`, once per dtype.

        Raises:
            ModelError: transformers cannot load it.
        """
        if dtype not in self._models:
            self._models[dtype] = self._load(dtype)
        return self._models[dtype]

    def forget(self, dtype: torch.dtype) -> None:
        """Give the memory of a loaded model back."""
        self._models.pop(dtype, None)

    @cached_property
    def texts(self) -> list[str] | None:
        """The ten conversations as the folder's own chat template writes them; None where it has none, or it fails."""
        if not self.tokenizer.chat_template:
            return None
        try:
            return [str(self.tokenizer.apply_chat_template(row, tokenize=False)) for row in ten_conversations()]
        except (jinja2.TemplateError, TypeError, ValueError):
            return None

    @cached_property
    def token_ids(self) -> list[list[int]]:
        """The ten rows as token ids, without added special tokens; plain `role: content` lines without a template."""
        texts = self.texts or ["\n".join(f"{m['role']}: {m['content']}" for m in row) for row in ten_conversations()]
        return [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]

    @property
    def loading(self) -> dict[str, Any]:
        """The keyword arguments beside num_labels and dtype that this folder needs."""
        base = quantization_in(self.contract)  # else two models are compared
        return {} if base is None else {"quantization_config": base.config(), "device_map": {"": "cpu"}}

    def _load(self, dtype: torch.dtype) -> PreTrainedModel:
        try:
            with quiet():
                model: Any = AutoModelForSequenceClassification.from_pretrained(
                    self.folder,
                    num_labels=1,
                    dtype=dtype,
                    trust_remote_code=trust_remote_code(),
                    use_safetensors=True,
                    **self.loading,
                )
        except _LOADING as error:
            raise ModelError(
                f"{self.shown} does not load with AutoModelForSequenceClassification: {first_line(error)}"
            ) from None
        as_stored(model)
        return model.eval()


def open_folder_as_it_is(path: str) -> Opened:
    """Open a run folder, its model/ folder, a base/ below an adapter, or a hub id.

    Raises:
        ModelError: There is none, it has no config, weights or tokenizer, or no class for a scalar head.
    """
    folder = Path(path).expanduser()
    if any((folder / "model" / name).exists() for name in ("config.json", "adapter_config.json")):
        folder = folder / "model"
    place = resolve(str(folder) if folder.is_dir() else path, key="folder")
    is_adapter = (place.folder / "adapter_config.json").exists()
    config = _config(_base_of(place.folder) if is_adapter else place.folder, path)
    head, names, last = _architecture(config, path)
    contract = json_object(place.folder / CONTRACT) if (place.folder / CONTRACT).exists() else {}
    return Opened(
        folder=place.folder,
        shown=path,
        config=config,
        tokenizer=_tokenizer(place.folder, path),
        stored=tensors(place.folder, "adapter_model" if is_adapter else "model"),
        contract=contract,
        is_adapter=is_adapter,
        head=head,
        head_names=names,
        reads_last_token=last,
    )


def _base_of(folder: Path) -> Path:
    if (folder / BASE / "config.json").exists():
        return folder / BASE
    settings = json_object(folder / "adapter_config.json")
    named = settings.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise ModelError(f"{folder} is an adapter that does not name its base model")
    return resolve(named, settings.get("revision"), key=f"the base model of {folder}", weights=False).folder


def _config(folder: Path, shown: str) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code())
    except _LOADING as error:
        raise ModelError(f"the config of {shown} cannot be used: {first_line(error)}") from None


def _tokenizer(folder: Path, shown: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code())
    except _LOADING as error:
        raise ModelError(
            f"no tokenizer can be loaded from {shown} ({first_line(error)}); consumers look for it beside the "
            "weights: save it there"
        ) from None


def _architecture(config: PreTrainedConfig, shown: str) -> tuple[list[str], list[str], bool]:
    """The parts of the head, the names of their tensors, and whether the last token is read."""
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not trust_remote_code():
        raise ModelError(
            f"{shown} is a {config.model_type} model, for which transformers has no ...ForSequenceClassification class"
        )
    with torch.device("meta"):
        model: Any = AutoModelForSequenceClassification.from_config(config, trust_remote_code=trust_remote_code())
    parts = head_parts(model)
    names = [name for name in model.state_dict() if name.startswith(tuple(f"{part}." for part in parts))]
    return parts, names, scored_position(model) == "last"
