"""The artefact: what a run leaves under model/, how it is proved, and how it is read again.

    model/config.json, model*.safetensors      <Arch>ForSequenceClassification, one output, problem_type=regression
       or adapter_config.json, adapter_model.safetensors   (base/ beside them where the base is nowhere else)
    model/tokenizer*.json, chat_template.jinja the template as bound: apply_chat_template gives the scored text
    model/reward_contract.json                 how a text becomes this score
    model/README.md                            model card

No pickle is written and none is read.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rmx.errors import ModelError, OutputError
from rmx.files import new_folder, writing
from rmx.models.artefact.adapter_files import write_adapter
from rmx.models.head import head_of, linear_of, unwrap
from rmx.models.loaded import LoadedModel
from rmx.models.quiet import quiet
from rmx.models.source import RewardModelSource
from rmx.models.stored import BASE
from rmx.models.streaming import Fetch, save_pretrained
from rmx.models.tensor_files import json_object

__all__ = ["CONTRACT", "Artefact", "head_hash", "read_artefact", "save_artefact"]

CONTRACT = "reward_contract.json"
CARD = "README.md"


class SavedTemplate(Protocol):
    """What of rmx.templates.BoundTemplate is written into the artefact."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""

    @property
    def jinja(self) -> str:
        """The chat template whose text is scored."""

    @property
    def start_token(self) -> str | None:
        """The token every text begins with."""

    @property
    def end_token(self) -> str:
        """The scored token."""


@dataclass
class Artefact:
    """A saved reward model, opened: everything that is needed to score with it as its run did."""

    folder: Path
    loaded: LoadedModel
    contract: dict[str, Any]  # {} for a reward model that rmx did not save

    @property
    def model(self) -> PreTrainedModel:
        """The model, in evaluation mode."""
        return self.loaded.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, chat template included."""
        return self.loaded.tokenizer

    @property
    def max_tokens(self) -> int:
        """The length limit of its run; without a contract 2048, or what the model has positions for."""
        limit = self.loaded.max_positions
        return int(self.contract.get("max_tokens", 2048 if limit is None else min(2048, limit)))


def save_artefact(
    loaded: LoadedModel,
    folder: str | Path,
    *,
    template: SavedTemplate,
    contract: Mapping[str, Any],
    card: str | None = None,
    fetch: Fetch | None = None,
) -> Path:
    """Write the artefact, complete or not at all; an earlier one is there until the new one takes its place.

    Args:
        template: Becomes the tokenizer's chat template and part of the contract.
        contract: What only the run knows: max_tokens, truncation, precision, and whatever else it wants to say.
        card: Text of README.md.
        fetch: Returns a weight of `loaded.model.state_dict()` by its name, where the model has none itself; one at a
            time is asked for.

    Raises:
        OutputError: The folder cannot be written.
    """
    final = Path(folder).absolute()
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        size = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
        with writing(final), new_folder(final) as staging, quiet(size):
            _write(loaded, staging, final, template, contract, card, fetch)
    except OSError as error:
        raise OutputError(f"output_dir: {final} cannot be written: {error.strerror or error}") from None
    return final


def read_artefact(path: str | Path, *, device: str | None = None) -> Artefact:
    """Open a saved reward model: a run folder, its model/ folder, or any reward model that transformers loads.

    Raises:
        ModelError: There is none, its head is missing, or it is not the head that the contract names.
    """
    folder = Path(path)
    if (folder / "model" / "config.json").exists() or (folder / "model" / "adapter_config.json").exists():
        folder = folder / "model"
    loaded = RewardModelSource(name=folder.name or "model", path=str(folder)).load(trainable=False, device=device)
    if not loaded.head_was_kept:
        raise ModelError(f"{path} is no reward model: it has no trained scalar head")
    local = loaded.folder or folder
    contract = json_object(local / CONTRACT) if (local / CONTRACT).exists() else {}
    expected = contract.get("head", {}).get("sha256")
    if expected is not None and expected != head_hash(loaded.model):
        raise ModelError(
            f"{path}: the scalar head is not the one that {CONTRACT} names; weights and contract come from two models"
        )
    return Artefact(local, loaded, contract)


def head_hash(model: torch.nn.Module, fetch: Fetch | None = None) -> str:
    """SHA-256 of the head's float32 weight: a name for what was trained.

    Args:
        model: The reward model.
        fetch: Returns a weight of `model.state_dict()` by its name, where the model has none or a part only.

    >>> head = torch.nn.Linear(2, 1, bias=False)
    >>> len(hashlib.sha256(head.weight.detach().numpy().tobytes()).hexdigest())
    64
    """
    weight = linear_of(head_of(model).module).weight
    if fetch is not None:
        weight = fetch(next(name for name, value in model.state_dict(keep_vars=True).items() if value is weight))
    return hashlib.sha256(weight.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()


# --- Writing ---


def _write(
    loaded: LoadedModel,
    staging: Path,
    final: Path,
    template: SavedTemplate,
    contract: Mapping[str, Any],
    card: str | None,
    fetch: Fetch | None,
) -> None:
    model = unwrap(loaded.model)
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = template.jinja
    if type(model).__module__.startswith("transformers."):
        vars(model.config).pop("auto_map", None)  # names code of the base's repository, which nothing here needs
    if loaded.adapter is None and not _is_peft(loaded.model):
        save_pretrained(model, staging, fetch)
    else:
        write_adapter(loaded, staging, final, fetch)
    for folder in [staging, *([staging / BASE] if (staging / BASE).is_dir() else [])]:
        tokenizer.save_pretrained(folder)
    text = json.dumps(_contract(loaded, template, contract, fetch), indent=2, ensure_ascii=False, allow_nan=False)
    (staging / CONTRACT).write_text(text + "\n", encoding="utf-8")
    (staging / CARD).unlink(missing_ok=True)  # peft writes one that says nothing of rewards
    if card is not None:
        (staging / CARD).write_text(card, encoding="utf-8")


def _contract(
    loaded: LoadedModel, template: SavedTemplate, contract: Mapping[str, Any], fetch: Fetch | None
) -> dict[str, Any]:
    inner = unwrap(loaded.model)
    packages = ("rmx", "torch", "transformers", "tokenizers", "peft")
    return {
        "format": 1,
        "template": {
            "name": template.name,
            "sha256": hashlib.sha256(template.jinja.encode()).hexdigest(),
            "jinja": template.jinja,
        },
        "tokenization": {
            "start_token": template.start_token,
            "scored_token": template.end_token,
            "scored_position": "own pooling" if loaded.is_encoder else "last token that is not padding",
            "add_special_tokens": False,
            "padding_token": loaded.tokenizer.pad_token,
            "padding_token_id": inner.config.get_text_config().pad_token_id,
        },
        "head": {"name": loaded.head_name, "dtype": "float32", "sha256": head_hash(loaded.model, fetch)},
        "model": {
            "architecture": type(inner).__name__,
            "dtype": loaded.dtype,
            # of the base below the adapter, while that was trained
            "quantization": asdict(loaded.quantization) if loaded.quantization else None,
            "parameters": loaded.parameters,
            "base": loaded.base_path,
            "revision": loaded.revision,
            "adapter": loaded.adapter.kind if loaded.adapter else None,
        },
        "versions": {name: version(name) for name in packages},
        **contract,
    }


def _is_peft(model: torch.nn.Module) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)
