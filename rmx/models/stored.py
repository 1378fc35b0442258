"""Adapters on disk: ours and peft's (a head among the saved modules), and language-model adapters with a side head."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import nn

from rmx.errors import ModelError, first_line
from rmx.models.adapters import Adapter
from rmx.models.build import Base, Wish, build_checkpoint, reward_config
from rmx.models.head import find_head, head_parts, init_head, restore_head
from rmx.models.quiet import quiet
from rmx.models.resolve import Resolved, resolve
from rmx.models.streaming import renamed
from rmx.models.tensor_files import VALUE_HEAD, StoredTensor, json_object, tensors
from rmx.models.tokenizer import choose_padding, load_tokenizer
from rmx.models.unread import Unread

__all__ = [
    "adapter_names",
    "base_of_adapter",
    "describe_adapter",
    "is_reward_adapter",
    "merge_foreign",
    "open_adapter",
    "why_base_is_read",
]

BASE = "base"  # folder inside an artefact for a base that is nowhere else


def is_reward_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter that carries a trained head."""
    return json_object(folder / "adapter_config.json").get("task_type") == "SEQ_CLS"


def why_base_is_read(folder: Path) -> str | None:
    """Half a sentence on why the weights below a stored adapter have to be there before it is; None if they do not."""
    settings = json_object(folder / "adapter_config.json")
    if not is_reward_adapter(folder):
        return "a language model's adapter is merged into it"
    if settings.get("peft_type") != "LORA":
        return f"its adapter is of another kind than LoRA ({settings.get('peft_type')})"
    start = settings.get("init_lora_weights", True)
    return None if isinstance(start, bool) else f"its adapter (init_lora_weights={start}) starts from its weights"


def describe_adapter(folder: Path) -> Adapter | None:
    """A stored LoRA in rmx's words; None for another method of peft."""
    settings = json_object(folder / "adapter_config.json")
    if settings.get("peft_type") != "LORA":
        return None
    kind: Literal["lora", "rslora", "dora"] = "lora"
    if settings.get("use_dora") or settings.get("use_rslora"):
        kind = "dora" if settings.get("use_dora") else "rslora"
    targets = settings.get("target_modules") or "auto"
    return Adapter(
        kind=kind,
        r=int(settings.get("r", 8)),
        alpha=float(settings.get("lora_alpha", 8)),
        dropout=float(settings.get("lora_dropout", 0.0)),
        target_modules=targets if isinstance(targets, str) else sorted(targets),
    )


def base_of_adapter(place: Resolved, wish: Wish) -> Base:
    """Build what a stored adapter stands on: inside the artefact, or where adapter_config.json says.

    Raises:
        ModelError: The adapter names no base, or the base cannot be found.
    """
    settings = json_object(place.folder / "adapter_config.json")
    inside = place.folder / BASE
    if (inside / "config.json").exists():
        below = Resolved(inside, str(inside), None)
    else:
        named = settings.get("base_model_name_or_path")
        if not isinstance(named, str) or not named:
            raise ModelError(f"model.path: {place.path} is an adapter that does not name its base model")
        below = resolve(named, settings.get("revision"), key=f"the base model of {place.path}")
    base = build_checkpoint(below, wish)
    base.folder = place.folder  # what was opened is the adapter
    if (place.folder / "tokenizer_config.json").exists() and wish.source.tokenizer_path is None:
        base.tokenizer = load_tokenizer(place.folder)
        reward_config(base.model.config, choose_padding(base.tokenizer).id, keep_dropout=wish.source.dropout)
    return base


def open_adapter(base: Base, place: Resolved, wish: Wish, trainable: bool) -> Any:
    """Put a stored reward adapter on its base, with its head, or with a new one where `model.head_init` asks for one.

    Raises:
        ModelError: It does not fit the base, or it does not bring all of the head.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    stored = tensors(place.folder, "adapter_model")
    keep = wish.source.head_init == "keep"
    for part in head_parts(base.model) if keep else ():
        if not any(f".{part}." in name for name in stored):
            raise ModelError(
                f"model.path: the adapter {place.path} was saved without {part}: its head is lost, and any reload "
                "scores with random weights; train it again"
            )
    try:
        with quiet():
            model = PeftModel.from_pretrained(
                base.model,
                str(place.folder),
                is_trainable=trainable,
                low_cpu_mem_usage=bool(base.unread),  # without a word about the meta device, where the base is
                torch_device="cpu",
            )
    except (ValueError, RuntimeError, KeyError, TypeError, OSError, SafetensorError) as error:
        detail = first_line(error)
        raise ModelError(f"model.path: the adapter {place.path} does not fit {base.path}: {detail}") from None
    if base.unread:
        base.unread += _unread_adapter(model, stored)
    base.head_was_kept = keep
    if not keep:
        init_head(model, "zero" if wish.source.head_init == "zero" else "normal", wish.seed)
    head = "its head" if keep else f"a new head (model.head_init={wish.source.head_init})"
    reading = [note for note in base.notes if note.startswith("every process reads")]
    base.notes = [f"adapter {place.path} on {base.path}, with {head}", *reading]  # of the base's own head all is void
    return model


def adapter_names(model: Any) -> dict[str, str]:
    """Return the names under which PEFT saves an adapter and its head, each with the weight's name in the model."""
    from peft import get_peft_model_state_dict

    return renamed(
        model.state_dict(),
        lambda state: get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False),
    )


def _unread_adapter(model: Any, stored: dict[str, StoredTensor]) -> list[tuple[nn.Parameter, Unread]]:
    """Return where those weights of an adapter lie that PEFT has put on the meta device, as their base is.

    Raises:
        ModelError: one of them is in no file.
    """
    weights, found = dict(model.named_parameters()), []
    for name, inside in adapter_names(model).items():
        if inside not in weights or not weights[inside].is_meta:
            continue
        there = next((there for there in (name, f"{name}.weight") if there in stored), None)  # a magnitude of DoRA's
        if there is None:
            raise ModelError(f"model.path: the adapter has no {name} in its files; save it again")
        found.append((weights[inside], Unread(stored[there].file, there)))
    return found


def merge_foreign(base: Base, place: Resolved, wish: Wish) -> None:
    """Merge a language-model adapter into the base; take its head where LLaMA-Factory left one beside it."""
    from peft import PeftConfig, PeftModel

    try:
        with quiet():
            settings = PeftConfig.from_pretrained(str(place.folder))
            settings.task_type = None  # the wrapper for language models wants a model that generates
            wrapped = PeftModel.from_pretrained(base.model, str(place.folder), config=settings)
        base.model = wrapped.merge_and_unload().requires_grad_(True)  # the adapter had frozen what it now is part of
    except (ValueError, RuntimeError, KeyError, TypeError, OSError, AttributeError) as error:
        detail = first_line(error)
        raise ModelError(f"model.path: the adapter {place.path} cannot be merged into {base.path}: {detail}") from None
    base.changed = True
    base.notes.append(f"the language-model adapter {place.path} is merged into {base.path}")
    if wish.source.head_init == "keep" and (place.folder / VALUE_HEAD).exists():
        head = find_head(place.folder, {}, base.model.config)
        if head is not None:
            base.notes.extend(restore_head(base.model, head))
            base.head_was_kept = True
