"""Loading: a base, then an adapter where there is one, then what is trained. See `RewardModelSource.load`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import nn

from rmx.errors import ConfigError, ModelError, counted
from rmx.models.adapters import Adapter, attach
from rmx.models.build import Base, Wish, build_checkpoint, build_tiny
from rmx.models.head import backbone_of, head_of, head_parts, in_float32, linear_of, text_backbone, unwrap
from rmx.models.loaded import LoadedModel
from rmx.models.quantization import refuse_divided, wanted_quantization
from rmx.models.resolve import Resolved
from rmx.models.stored import (
    base_of_adapter,
    describe_adapter,
    is_reward_adapter,
    merge_foreign,
    open_adapter,
    why_base_is_read,
)
from rmx.models.unread import in_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rmx.models.source import RewardModelSource

__all__ = ["load_model", "set_trainable"]


def load_model(
    source: RewardModelSource,
    place: Resolved | None,
    *,
    adapter: Adapter | None,
    trainable: bool,
    seed: int,
    device: str | None,
    divided: bool = False,
    parts_only: bool = False,
) -> LoadedModel:
    """See `RewardModelSource.load`; `place` is where its path was found, None for the embedded model."""
    if adapter is not None and trainable and source.freeze_layers:
        raise ConfigError("model.freeze_layers: an adapter freezes all layers already; set it to 0 or use peft=none")
    adapter = adapter if trainable else None
    if device is not None:
        _check_device(device)
    with _seeded(seed):
        base, model, initial = _weights(
            source, place, adapter, trainable, seed, device, divided=divided, parts_only=parts_only
        )
    if device is not None and base.quantization is None and not divided:  # which is where it belongs since it was read
        model = model.to(device)
    if adapter is None and isinstance(model, PeftModel) and base.folder is not None:
        adapter = describe_adapter(base.folder)
    set_trainable(model, source, trainable)
    return _describe(source, adapter, base, model, initial)


def _check_device(device: str) -> None:
    """Refuse a device that this machine does not have, before any weights are read.

    Raises:
        ConfigError: torch knows no such device, or CUDA does not see it.

    >>> _check_device("gpu")
    Traceback (most recent call last):
        ...
    rmx.errors.ConfigError: device: 'gpu' is not a device of torch; give cpu, cuda or cuda:N
    """
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device: {device!r} is not a device of torch; give cpu, cuda or cuda:N") from None
    if place.type != "cuda":
        return
    seen = torch.cuda.device_count()
    if seen == 0:
        raise ConfigError(f"device: {device}: torch sees no CUDA device on this machine; leave device out, or give cpu")
    if place.index is not None and place.index >= seen:
        raise ConfigError(f"device: {device}: this machine has {seen}, from cuda:0 to cuda:{seen - 1}")


def _weights(
    source: RewardModelSource,
    place: Resolved | None,
    adapter: Adapter | None,
    trainable: bool,
    seed: int,
    device: str | None,
    *,
    divided: bool,
    parts_only: bool,
) -> tuple[Base, Any, dict[str, torch.Tensor] | None]:
    adapted = place is not None and (place.folder / "adapter_config.json").exists()
    stored = adapted and place is not None and is_reward_adapter(place.folder)  # else of a language model: merged
    exact = adapter is not None and adapter.kind == "pissa"  # its base changes: half precision would round it
    wish = Wish(
        source,
        master=trainable and (exact or (adapter is None and not stored)),
        quantization=wanted_quantization(
            source, adapter, place.folder if place is not None and stored else None, trainable
        ),
        seed=seed,
        device=device,
        divided=divided,
        whole=why_base_is_read(place.folder) if adapted and place is not None else _why_whole(adapter),
        parts_only=parts_only,
    )
    if divided and wish.quantization is not None:
        refuse_divided(wish.quantization)
    if place is None:
        base = build_tiny(wish)
    elif adapted:
        base = base_of_adapter(place, wish)
    else:
        base = build_checkpoint(place, wish)
    if adapted and not stored and place is not None:
        merge_foreign(base, place, wish)
    if trainable and base.changed and base.quantization is not None:
        raise ModelError(
            f"model.path: {base.path} is changed when it is read ({base.notes[-1]}), and a base in "
            f"{base.quantization.bits} cannot be saved with the adapter; use peft=lora"
        )
    in_float32(base.model)
    if stored and place is not None:
        if adapter is not None:
            raise ModelError(
                f"model.path: {place.path} is an adapter already; peft=none continues to train it, and a second one "
                "needs the merged model: `rmx export FOLDER --format merged OUT`"
            )
        return base, open_adapter(base, place, wish, trainable), None
    if adapter is not None:
        return base, *attach(base.model, adapter, seed)
    return base, base.model, None


def _why_whole(adapter: Adapter | None) -> str | None:
    """Half a sentence on why a base's weights have to be there before a new adapter is; None if they do not."""
    if adapter is not None and not adapter.drawn:
        return f"its adapter ({adapter.kind}) starts from its weights"
    return None


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed before anything is drawn, and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


# --- What is trained ---


def set_trainable(model: nn.Module, source: RewardModelSource, trainable: bool) -> None:
    """Say which parameters are trained, as `model.freeze_layers` has it; with `trainable` false none is."""
    if not trainable:
        model.requires_grad_(False)
        model.eval()
        return
    backbone, text = backbone_of(model), text_backbone(model)
    if text is not backbone:  # a vision tower gets no gradient from text
        reads_text = {id(parameter) for parameter in text.parameters()}
        for parameter in backbone.parameters():
            if id(parameter) not in reads_text:
                parameter.requires_grad_(False)
    if source.freeze_layers:
        _freeze(text, source.freeze_layers)
        for part in head_parts(model):
            unwrap(model).get_submodule(part).requires_grad_(True)
    bias = linear_of(head_of(model).module).bias
    if bias is not None:  # preferences give it no gradient: r + b ranks as r
        bias.requires_grad_(False)
    model.train()


def _freeze(backbone: nn.Module, layers: int) -> None:
    """Freeze embeddings and the lowest layers; what stands after the layers (the final norm) stays trainable."""
    if layers == -1:
        backbone.requires_grad_(False)
        return
    stacks = [(name, stack) for name, stack in backbone.named_modules() if isinstance(stack, nn.ModuleList)]
    if not stacks:
        raise ModelError(f"model.freeze_layers: no list of layers was found in {type(backbone).__name__}")
    name, stack = max(stacks, key=lambda entry: sum(p.numel() for p in entry[1].parameters()))
    if layers > len(stack):
        raise ConfigError(f"model.freeze_layers: {layers}; this model has {counted(len(stack), 'layer')}")
    kept = tuple(f"{name}.{number}." for number in range(layers, len(stack)))
    passed = False
    for key, parameter in backbone.named_parameters():
        inside = key.startswith(f"{name}.")
        passed = passed or inside
        if key.startswith(kept) or (passed and not inside):
            continue
        parameter.requires_grad_(False)


# --- What is known of it ---


def _describe(
    source: RewardModelSource,
    adapter: Adapter | None,
    base: Base,
    model: Any,
    initial: dict[str, torch.Tensor] | None,
) -> LoadedModel:
    inner = unwrap(model)
    config = inner.config.get_text_config()
    parameters = list(model.parameters())
    floating = [p.dtype for p in backbone_of(model).parameters() if p.is_floating_point()]
    positions = getattr(config, "max_position_embeddings", None)
    return LoadedModel(
        model=model,
        tokenizer=base.tokenizer,
        source=source,
        base_path=base.path,
        revision=base.revision,
        head_name=head_of(model).name,
        head_was_kept=base.head_was_kept,
        adapter=adapter,
        base_changed=base.changed,
        parameters=sum(p.numel() for p in parameters),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        dtype=str(floating[0]).removeprefix("torch."),
        attn_implementation=inner.config._attn_implementation,
        max_positions=positions if isinstance(positions, int) and positions > 0 else None,
        is_encoder=head_parts(model) != ["score"],
        notes=base.notes,
        folder=base.folder,
        quantization=base.quantization,
        initial_adapter=initial,
        unread=in_model(model, base.unread),
    )
