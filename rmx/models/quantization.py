"""Bitsandbytes weights of a frozen base: what asks for them, and how a finished adapter remembers them.

A weight in 4 bits is one tensor, two numbers to a byte, that can be divided as any other; its scales (a byte for each
64 numbers, and theirs) lie beside it in the layer, whole in every process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from rmx.errors import ConfigError, ModelError
from rmx.models.tensor_files import json_object

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

    from rmx.models.adapters import Adapter
    from rmx.models.source import RewardModelSource

__all__ = [
    "BLOCK",
    "Bits",
    "Quantization",
    "as_stored",
    "is_packed",
    "pack",
    "packed_shape",
    "prepare_packed",
    "quantization_in",
    "refuse_divided",
    "scales_of",
    "wanted_quantization",
]


Bits = Literal["8bit", "4bit"]

NF4: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}  # double quantisation (Dettmers et al. 2023)
BLOCK = 64  # weights that share a scale; bitsandbytes' own number

SKIPPED = ["score", "classifier", "pooler", "head"]  # the reward's own layers stay in float32


@dataclass(frozen=True)
class Quantization:
    """Weights of the base in so many bits, and the dtype in which 4-bit weights are multiplied."""

    bits: Bits
    compute_dtype: str = "bfloat16"

    def config(self) -> BitsAndBytesConfig:
        """Return it in transformers' words: NF4 with double quantisation (Dettmers et al. 2023), or LLM.int8."""
        from transformers import BitsAndBytesConfig

        if self.bits == "8bit":
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=SKIPPED)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=NF4["quant_type"],
            bnb_4bit_use_double_quant=NF4["compress_statistics"],
            bnb_4bit_compute_dtype=getattr(torch, self.compute_dtype),
            llm_int8_skip_modules=SKIPPED,
        )


def wanted_quantization(
    source: RewardModelSource, adapter: Adapter | None, stored: Path | None, trainable: bool
) -> Quantization | None:
    """Return how the base's weights are read; a stored adapter's base is read as it was when the adapter was trained.

    Args:
        source: what `model=` says; its `quantization` is obeyed where it is given, `none` included.
        adapter: the one to be trained, if any.
        stored: the folder of a finished reward adapter, if that is what is loaded.
        trainable: whether weights are to be trained.

    Raises:
        ConfigError: the quantised weights themselves would have to be trained.
        ModelError: bitsandbytes is not installed, there is no CUDA device to train on in 8 bits, or the embedded
            model is asked for.
    """
    if source.quantization == "none":
        return None
    remembered = _remembered(stored)
    qlora = adapter is not None and adapter.kind == "qlora"
    compute = "bfloat16" if source.dtype == "auto" else source.dtype
    wanted = remembered if source.quantization is None else Quantization(source.quantization, compute)
    if source.quantization is None and qlora:
        wanted = Quantization("4bit", compute)
    if wanted is None:
        return None
    bits = wanted.bits
    key = "model.quantization" if source.quantization else "peft=qlora" if qlora else f"{stored}"
    if source.embedded:
        raise ModelError(f"{key}: the embedded tiny model has no stored weights to quantise; use peft=lora")
    if trainable and adapter is None and stored is None:
        raise ConfigError(f"{key}: {bits} weights cannot be trained themselves; train an adapter (peft=qlora)")
    if trainable and bits == "8bit" and not torch.cuda.is_available():
        raise ModelError(
            f"{key}: training on 8bit weights needs a CUDA device, and there is none (scoring does without); use "
            "peft=qlora, in 4 bits, or peft=lora"
        )
    if find_spec("bitsandbytes") is None:
        otherwise = " (or model.quantization=none: the base as it is stored, other scores)" if remembered else ""
        raise ModelError(f"{key}: {bits} weights need bitsandbytes; pip install 'rmx[quantization]'{otherwise}")
    return wanted


def quantization_in(contract: Mapping[str, Any]) -> Quantization | None:
    """Return what a reward contract names.

    >>> quantization_in({"model": {"quantization": {"bits": "4bit", "compute_dtype": "float32"}}})
    Quantization(bits='4bit', compute_dtype='float32')
    >>> quantization_in({"model": {"quantization": None}}), quantization_in({})
    (None, None)
    """
    found = contract.get("model", {}).get("quantization")
    return Quantization(found["bits"], found["compute_dtype"]) if found else None


def as_stored(model: nn.Module) -> None:
    """Let 4-bit layers multiply what is stored, on every device.

    On some CPUs bitsandbytes packs the weights anew at the first evaluation: the scales are rounded to bfloat16, which
    changes rewards, and no gradient passes from then on (bitsandbytes 0.50, `Linear4bit.forward`).
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            cast(Any, module).support_avx512bf16_for_cpu = False


def _remembered(folder: Path | None) -> Quantization | None:
    contract = None if folder is None else folder / "reward_contract.json"
    return quantization_in(json_object(contract)) if contract is not None and contract.exists() else None


def refuse_divided(wanted: Quantization, tensor: int = 1) -> None:
    """Stop where several processes would have to share weights that cannot be divided.

    Args:
        wanted: how the base is quantised.
        tensor: processes that compute every layer together (parallel.tensor).

    Raises:
        ConfigError: they are in 8 bits, or would be divided by rows and columns.
    """
    if wanted.bits == "8bit":
        raise ConfigError(
            "model.quantization=8bit: bitsandbytes keeps 8-bit weights outside of the parameters, where they are not "
            "divided; take 4bit (peft=qlora), or parallel=ddp"
        )
    if tensor > 1:
        raise ConfigError(
            f"parallel.tensor={tensor}: packed weights are not divided by rows and columns; take parallel=fsdp, hsdp "
            "or ddp"
        )


# --- Weights that are quantised while they are read -------------------------------------------------------------------


def prepare_packed(model: PreTrainedModel, wanted: Quantization) -> str | None:
    """Give a model on the meta device the 4-bit layers that its weights will be packed into, of their packed size.

    Returns:
        None; or, as half a sentence, why its weights have to be read whole.
    """
    from bitsandbytes.nn import Params4bit
    from transformers.quantizers import AutoHfQuantizer

    plain = {name: module.bias for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    quantizer = AutoHfQuantizer.from_config(wanted.config(), pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map=None)
    for name, module in model.named_modules():
        if type(module).__name__ != "Linear4bit":
            continue
        if name not in plain:
            return f"its layer {name} is stored transposed"
        layer, weight = cast(Any, module), cast(Any, module).weight
        layer.weight = Params4bit(
            torch.empty(packed_shape(weight, "4bit"), dtype=torch.uint8, device="meta"),
            blocksize=BLOCK,
            module=layer,
            bnb_quantized=True,
            **NF4,
        )
        layer.bias = plain[name]  # as it is, where the new one is in float32
    quantizer.postprocess_model(model)
    cast(Any, model).hf_quantizer = quantizer
    as_stored(model)
    return None


def packed_shape(weight: torch.Tensor, bits: Bits) -> tuple[int, ...]:
    """Return the shape of a weight's bytes.

    >>> packed_shape(torch.empty(5, 3, device="meta"), "4bit"), packed_shape(torch.empty(5, 3, device="meta"), "8bit")
    ((8, 1), (5, 3))
    """
    return ((weight.numel() + 1) // 2, 1) if bits == "4bit" else tuple(weight.shape)


def is_packed(weight: torch.Tensor) -> bool:
    """Whether it holds 4-bit weights, whole or divided."""
    return weight.dtype == torch.uint8 and weight.dim() == 2


def pack(layer: nn.Module, weight: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Quantise a weight as its 4-bit layer wants it, leave its scales in the layer, and return its bytes.

    Args:
        layer: a layer that `prepare_packed` made, divided or not.
        weight: [out, in], in the dtype that it is unpacked to.
        device: that computes, and keeps the scales.
    """
    from bitsandbytes.functional import quantize_4bit

    packed, cast(Any, layer).quant_state = quantize_4bit(weight.to(device), blocksize=BLOCK, **NF4)
    return packed


def scales_of(model: nn.Module) -> list[torch.Tensor]:
    """Return the tensors that unpack a model's quantised weights."""
    found: list[torch.Tensor] = []
    for module in model.modules():
        state = getattr(module, "quant_state", None)
        if state is not None:
            second = [] if state.state2 is None else [state.offset, state.state2.absmax, state.state2.code]
            found += [state.absmax, state.code, *second]
    return found
