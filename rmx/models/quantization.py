"""Bitsandbytes weights of a frozen base: what asks for them, and how a finished adapter remembers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from rmx.errors import ConfigError, ModelError
from rmx.models.tensor_files import json_object

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

    from rmx.models.adapters import Adapter
    from rmx.models.source import RewardModelSource

__all__ = ["Quantization", "quantization_in", "wanted_quantization"]

Bits = Literal["8bit", "4bit"]

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
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
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
        ModelError: bitsandbytes is not installed, there is no CUDA device to train on, or the embedded model is
            asked for.
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
    if trainable and not _passes_gradients():
        raise ModelError(
            f"{key}: training on {bits} weights needs a CUDA device, and there is none (scoring does without); "
            "use peft=lora"
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


def _passes_gradients() -> bool:
    """On a CPU, bitsandbytes packs the weights at the first evaluation, for products that pass no gradient on."""
    return torch.cuda.is_available()


def _remembered(folder: Path | None) -> Quantization | None:
    contract = None if folder is None else folder / "reward_contract.json"
    return quantization_in(json_object(contract)) if contract is not None and contract.exists() else None
