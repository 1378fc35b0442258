"""Adapters: which low-rank update is trained beside the head, and the check that the head is trained at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval, MinLen

from rmx.errors import ConfigError, ModelError
from rmx.models.quiet import quiet
from rmx.values import Count, Mistake, Positive, refuse_wrong_fields

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel

__all__ = ["Adapter", "attach", "check_trainable"]

QUANTIZED_LINEARS = ("Linear4bit", "Linear8bitLt")  # by name: bitsandbytes is not installed everywhere

OWNED = {  # LoraConfig fields that rmx decides, and the key that does it where there is one
    "r": "peft.r",
    "lora_alpha": "peft.alpha",
    "lora_dropout": "peft.dropout",
    "target_modules": "peft.target_modules",
    "use_rslora": "peft=rslora",
    "use_dora": "peft=dora",
    "task_type": None,
    "modules_to_save": None,
    "exclude_modules": None,
    "inference_mode": None,
    "base_model_name_or_path": None,
}


@dataclass(frozen=True)
class Adapter:
    """A LoRA on every linear layer of the backbone; the head is trained in full and saved with it.

    Attributes:
        kind: "lora" (Hu et al. 2021), "rslora" (scale alpha/sqrt(r), Kalajdzievski 2023), "dora" (direction and
            magnitude, Liu et al. 2024), "pissa" (starts from the principal singular vectors, Meng et al. 2024),
            "qlora" (on a 4-bit base, Dettmers et al. 2023).
        r: Rank of the update.
        alpha: The update is scaled by alpha / r.
        dropout: On the adapter's input, in training.
        target_modules: "auto" for all linear layers of the backbone, or name endings such as [q_proj, v_proj].
        merge: Also write the model with the adapter merged in, to model-merged/.
        extra: Other arguments of peft.LoraConfig by name, e.g. {bias: lora_only}.

    >>> Adapter(r=8).alpha
    32.0
    >>> Adapter(r=0)
    Traceback (most recent call last):
    rmx.errors.ConfigError: peft.r: 0 is not an integer from 1 up
    """

    kind: Literal["lora", "rslora", "dora", "pissa", "qlora"] = "lora"
    r: Count = 16
    alpha: Positive = 32.0
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    target_modules: Annotated[str, MinLen(1)] | Annotated[list[str], MinLen(1)] = "auto"
    merge: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        extra = self.extra if isinstance(self.extra, dict) else {}
        instead = {key: f"use {OWNED[key]}" if OWNED[key] else "drop it" for key in sorted(set(extra) & set(OWNED))}
        also = [Mistake(f"peft.extra.{key}", f"rmx decides this; {what}") for key, what in instead.items()]
        refuse_wrong_fields(self, "peft", also)

    @property
    def drawn(self) -> bool:
        """Whether its start depends on the seed alone: no weight of the base has to be read for it."""
        return self.kind in ("lora", "rslora", "qlora") and self.extra.get("init_lora_weights", True) is True

    def lora_config(self, model: PreTrainedModel) -> LoraConfig:
        """The peft configuration for this model: SEQ_CLS, the head saved in full and never a target.

        Raises:
            ConfigError: `extra` holds a name that LoraConfig does not know, or `target_modules` fits no layer.
        """
        from peft import LoraConfig, TaskType

        from rmx.models.head import head_parts

        parts, linear = head_parts(model), _linear_layers(model)
        arguments: dict[str, Any] = {
            "use_rslora": self.kind == "rslora",
            "use_dora": self.kind == "dora",
            # 16 subspace iterations: seconds where a full SVD of an 8B model takes minutes (PiSSA, section 4.3)
            "fan_in_fan_out": any(type(module).__name__ == "Conv1D" for module in linear.values()),  # GPT-2
            "init_lora_weights": "pissa_niter_16" if self.kind == "pissa" else True,
            **self.extra,
        }
        try:
            return LoraConfig(
                task_type=TaskType.SEQ_CLS,
                r=self.r,
                lora_alpha=self.alpha,  # type: ignore[arg-type]  # a float works, the annotation says int
                lora_dropout=self.dropout,
                target_modules=_targets(linear, self.target_modules),
                modules_to_save=parts,
                # Without this, a list such as [dense] also wraps an encoder's pooler, which is already saved whole.
                exclude_modules=r"(.*\.)?(" + "|".join(parts) + r")(\..*)?",
                **arguments,
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"peft.extra: {error}; see peft.LoraConfig for the names") from None


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from rmx.models.head import text_backbone

    return {
        name: module
        for name, module in text_backbone(model).named_modules()
        if isinstance(module, nn.Linear | Conv1D) or type(module).__name__ in QUANTIZED_LINEARS
    }


def _targets(linear: dict[str, nn.Module], asked: str | list[str]) -> list[str]:
    names = sorted({name.rsplit(".", 1)[-1] for name in linear})
    if asked == "auto":
        return names
    if asked in ("all-linear", "all"):
        raise ConfigError(f"peft.target_modules: {asked!r} is called auto here: every linear layer but the head")
    endings = [asked] if isinstance(asked, str) else list(asked)
    for ending in endings:
        if not any(name == ending or name.endswith("." + ending) for name in linear):
            raise ConfigError(
                f"peft.target_modules: {ending!r} fits no linear layer; this model has {', '.join(names)}"
            )
    return endings


def attach(
    model: PreTrainedModel, adapter: Adapter, seed: int | None = None
) -> tuple[PeftModel, dict[str, torch.Tensor] | None]:
    """Put a fresh adapter on the model; for PiSSA, also return the adapter that was taken out of the base.

    Args:
        model: its weights may be on the meta device where the adapter is `drawn`.
        adapter: what to put on it.
        seed: of the adapter's random start; None leaves what PEFT drew, on the meta device nothing.
    """
    from peft import get_peft_model, get_peft_model_state_dict

    try:
        with quiet():
            wrapped = get_peft_model(model, adapter.lora_config(model))
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"peft: {error}") from None
    if adapter.drawn and seed is not None:
        _draw(wrapped, seed)
    if adapter.kind != "pissa":
        return wrapped, None
    state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return wrapped, {name: value.clone() for name, value in state.items() if "lora_" in name}


def _draw(model: PeftModel, seed: int) -> None:
    """Draw an adapter's start anew, on the CPU: from the seed alone, and not from what was drawn for the model."""
    import torch
    from peft.tuners.lora import LoraLayer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                for name in layer.lora_A:
                    parts: tuple[Any, ...] = (layer.lora_A[name], layer.lora_B[name])
                    devices = [part.weight.device for part in parts]  # the base's, which PEFT follows
                    for part in parts:
                        part.to_empty(device="cpu")
                    layer.reset_lora_parameters(name, True)
                    for part, device in zip(parts, devices, strict=True):
                        if device.type != "meta":
                            part.to(device)


def check_trainable(model: nn.Module) -> None:
    """Fail before the first step where the head would not be trained, or trained and not saved.

    Raises:
        ModelError: The head is missing, frozen, a target of the adapter, or not among what the adapter saves.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    from rmx.models.head import HEADS, head_of, head_parts, linear_of, unwrap

    inner = unwrap(model)
    for part in HEADS:
        if part in dict(inner.named_children()) and isinstance(inner.get_submodule(part), BaseTunerLayer):
            raise ModelError(f"the adapter targets the head {part}: its own weight would stay random and unsaved")
    name, head = head_of(model)
    for adapter in _saved_parts(model):
        for part in head_parts(model):
            if part not in adapter:
                raise ModelError(f"the adapter does not save {part}: a reload would score with random weights")
    if not linear_of(head).weight.requires_grad:
        raise ModelError(f"the head {name} is frozen: the reward would stay random; nothing was trained")


def _saved_parts(model: nn.Module) -> list[set[str]]:
    from peft import PeftModel, TaskType

    found = []
    for module in model.modules():
        if isinstance(module, PeftModel):
            for config in module.peft_config.values():
                if config.task_type != TaskType.SEQ_CLS:
                    raise ModelError(f"the adapter's task_type is {config.task_type}: it must be SEQ_CLS for a head")
                found.append(set(vars(config).get("modules_to_save") or ()))
    return found
