"""What a token leaves in memory between forward and backward pass.

It is counted, not estimated: small models of the same class, with the same adapter, precision and checkpointing, run
forward on a CPU, and autograd says which tensors it keeps. Their bytes grow linearly with the tokens, with the layers
and with each dimension of a layer,

    bytes per token and layer = a + b hidden + c heads x size + d key heads x size + e intermediate + f heads + g size

so that seven shapes fix the coefficients, an eighth checks them, and the model's own dimensions give its number.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from rmx.engine import Engine
from rmx.errors import RmxError
from rmx.models.adapters import Adapter, attach
from rmx.models.head import in_float32
from rmx.models.quiet import quiet
from rmx.records import EncodedComparison

__all__ = ["ActivationCounter", "Activations", "kept_bytes", "routes"]

# hidden, intermediate, heads, key heads, head size: each of the first seven moves another coefficient.
SHAPES = (
    (64, 96, 4, 2, 16), (128, 96, 4, 2, 16), (64, 192, 4, 2, 16), (64, 96, 8, 2, 16), (64, 96, 4, 4, 16),
    (64, 96, 4, 2, 32), (64, 96, 8, 4, 16), (96, 160, 8, 4, 32),
)  # fmt: skip
VOCABULARY, TOKENS = 64, (128, 256)  # multiples of what a CPU fills bfloat16 rows up to


@dataclass(frozen=True)
class Activations:
    """Bytes of one token.

    Attributes:
        kept: from the forward pass to the backward pass, in all layers.
        layer: kept of one layer alone, while checkpointing computes it again; 0 without it.
        in_flight: of the gradients that a layer's backward pass hands on.
    """

    kept: float
    layer: float
    in_flight: float

    @property
    def at_peak(self) -> float:
        """All of them together.

        >>> Activations(kept=100.0, layer=20.0, in_flight=10.0).at_peak
        130.0
        """
        return self.kept + self.layer + self.in_flight


class _Unknown(Exception):
    """Why the bytes are not known, in half a sentence."""


class ActivationCounter:
    """Counts the bytes of a token in models of one config.

    Args:
        config: the model's.
        dtype: of the weights.
        adapter: trained on the frozen base, as rmx or as peft describes it; None where all weights are.
        precision: of the backbone's products.
    """

    def __init__(
        self, config: Any, dtype: torch.dtype, adapter: Adapter | PeftConfig | None, precision: Literal["fp32", "bf16"]
    ) -> None:
        self.config, self.text, self.dtype = config, config.get_text_config(), dtype
        self.adapter, self.precision = adapter, precision
        self._growth: tuple[_Growth, _Growth] | None = None

    def of(
        self, *, checkpointing: bool, every_n_layers: int = 1, tensor: int = 1, on_gpu: bool = True
    ) -> Activations | str:
        """Return the bytes of a token, or in half a sentence why they are not known.

        The random state of the process stays as it is.

        Args:
            checkpointing: whether layers are computed again in the backward pass.
            every_n_layers: of how many layers one is computed again; the others keep what they have.
            tensor: processes that compute every layer together: heads and intermediate are divided among them.
            on_gpu: attention runs in one kernel on half precision; on a CPU it runs in float32.
        """
        if routes(self.text):
            return "a mixture of experts keeps what its router decides"
        try:
            plain, again = self._grown()
        except _Unknown as error:
            return str(error)
        except (RmxError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError) as error:
            return f"small models of its class do not run here ({type(error).__name__})"
        layers, sizes = self.text.num_hidden_layers, np.asarray(_terms(*_divided(self.text, tensor)), dtype=float)
        layer = float(sizes @ plain.step)
        kept = (again if checkpointing else plain).at(sizes, layers)
        hidden, intermediate, heads, key_heads, size = _divided(self.text, tensor)
        saving = _kernel_saving(heads * size, key_heads * size) if on_gpu and self.precision == "bf16" else 0.0
        residual = 4 if self.dtype == torch.float32 else 2
        in_flight = 6 * intermediate + 4 * residual * hidden
        if checkpointing:
            whole = layers - -(-layers // every_n_layers)
            return Activations(kept + whole * (layer - saving), layer - saving, in_flight)
        return Activations(kept - (layers - 1) * saving, 0.0, in_flight)

    def _grown(self) -> tuple[_Growth, _Growth]:
        """How bytes grow with the dimensions: where layers keep what they compute, and where they do not."""
        if self._growth is None:
            shapes = [_possible(self.text, shape) for shape in SHAPES]
            terms = np.asarray([_terms(*shape) for shape in shapes], dtype=float)
            with torch.random.fork_rng(devices=()):
                one, two = (np.asarray([self._slopes(shape, n) for shape in shapes]) for n in (1, 2))
            plain, again = (_Growth(_fitted(terms, one[:, i]), _fitted(terms, (two - one)[:, i])) for i in (0, 1))
            self._growth = plain, again
        return self._growth

    def _slopes(self, shape: tuple[int, ...], layers: int) -> list[float]:
        """Bytes per token of a small model, without checkpointing and with it."""
        with torch.device("meta"):
            model = self._model(shape, layers)
        engine = Engine(model, precision=self.precision)
        if engine.encoding == "padded":
            raise _Unknown(f"it runs on padded rows ({engine.reason})")
        model.to_empty(device="cpu")  # any numbers will do: what is kept of them is as large
        found = []
        for checkpointing in (False, True):
            if checkpointing:
                _enable_checkpointing(model)
            few, many = (kept_bytes(engine, _row(tokens)) for tokens in TOKENS)
            found.append((many - few) / (TOKENS[1] - TOKENS[0]))
        return found

    def _model(self, shape: tuple[int, ...], layers: int) -> Any:
        config = copy.deepcopy(self.config)
        if hasattr(config, "quantization_config"):  # of a frozen base: its products have the same inputs
            del config.quantization_config
        _reshape(config, shape, layers)
        model: Any = AutoModelForSequenceClassification.from_config(
            config, dtype=self.dtype, attn_implementation="sdpa", trust_remote_code=False
        )
        in_float32(model)
        return _adapted(model, self.adapter).train()


@dataclass(frozen=True)
class _Growth:
    """Coefficients of the dimensions in the bytes of a token: of a model of one layer, and of one layer more."""

    first: Any
    step: Any

    def at(self, sizes: Any, layers: int) -> float:
        return float(sizes @ self.first + (layers - 1) * (sizes @ self.step))


def _fitted(terms: Any, values: Any) -> Any:
    coefficients, *_ = np.linalg.lstsq(terms, values, rcond=None)
    if np.abs(terms @ coefficients - values).max() > 1e-3 * max(1.0, float(np.abs(values).max())):
        raise _Unknown("what its layers keep does not grow linearly with their dimensions")
    return coefficients


def _adapted(model: Any, adapter: Adapter | PeftConfig | None) -> Any:
    """Put the adapter on a small model; PiSSA would factorise its weights, and its LoRA has the same shape."""
    if adapter is None:
        return model
    if isinstance(adapter, Adapter):
        kind = "lora" if adapter.kind in ("pissa", "qlora") else adapter.kind
        return attach(model, replace(adapter, kind=kind))[0]
    config: Any = copy.deepcopy(adapter)
    config.inference_mode = False
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True
    with quiet():
        return get_peft_model(model, config)


def _enable_checkpointing(model: Any) -> None:
    enable: Callable[..., None] = getattr(model, "activation_checkpointing_enable", None) or (
        model.gradient_checkpointing_enable
    )
    enable()


def routes(text: Any) -> bool:
    """Whether a config is that of a mixture of experts.

    >>> from transformers import AutoConfig
    >>> routes(AutoConfig.for_model("mixtral")), routes(AutoConfig.for_model("llama"))
    (True, False)
    """
    return any(getattr(text, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts"))


def kept_bytes(engine: Engine, comparison: EncodedComparison) -> int:
    """Return the bytes of the tensors that autograd keeps of one comparison's forward pass; weights are not counted.

    Masks are left out: no kernel of a GPU builds one.
    """
    own = {p.untyped_storage().data_ptr() for p in engine.wrapper.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}  # the tensor too, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.dtype != torch.bool:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        rewards = engine.rewards(engine.collate([comparison]))
        del rewards
    return sum(count for count, _ in kept.values())


_NAMES = ("hidden", "intermediate", "heads", "key_heads", "size")


def _dimension(text: Any, name: str) -> int:
    heads = text.num_attention_heads
    match name:
        case "hidden":
            return text.hidden_size
        case "intermediate":
            return getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size
        case "heads":
            return heads
        case "key_heads":
            return getattr(text, "num_key_value_heads", None) or heads
        case _:
            return getattr(text, "head_dim", None) or text.hidden_size // heads


def _divided(text: Any, tensor: int) -> tuple[float, ...]:
    """The dimensions of one process's part of a layer, in the order of `SHAPES`."""
    hidden, intermediate, heads, key_heads, size = (_dimension(text, name) for name in _NAMES)
    return hidden, intermediate / tensor, heads / tensor, key_heads / tensor, size


def _terms(hidden: float, intermediate: float, heads: float, key_heads: float, size: float) -> list[float]:
    return [1, hidden, heads * size, key_heads * size, intermediate, heads, size]


def _possible(text: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that the config can have: what it has no field for follows from the others."""
    hidden, intermediate, heads, key_heads, size = shape
    return (
        hidden,
        intermediate if getattr(text, "intermediate_size", None) else 4 * hidden,
        heads,
        key_heads if getattr(text, "num_key_value_heads", None) else heads,
        size if getattr(text, "head_dim", None) else hidden // heads,
    )


def _reshape(config: Any, shape: tuple[int, ...], layers: int) -> None:
    """Give a config the dimensions of a small model; what it has beside its text gets one layer."""
    text = config.get_text_config()
    for part in (getattr(config, name, None) for name in config.sub_configs):
        if part is not None and part is not text and getattr(part, "num_hidden_layers", None):
            part.num_hidden_layers = 1
    hidden, intermediate, heads, key_heads, size = shape
    for name, value in (("intermediate_size", intermediate), ("num_key_value_heads", key_heads), ("head_dim", size)):
        if getattr(text, name, None):
            setattr(text, name, value)
    text.hidden_size, text.num_attention_heads, text.num_hidden_layers = hidden, heads, layers
    text.vocab_size, text.pad_token_id = VOCABULARY, 0
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]


def _row(tokens: int) -> EncodedComparison:
    """One sequence of so many tokens."""
    return EncodedComparison("plan", "plan", [3 + i % 50 for i in range(tokens - 2)], ([4, 5],), ())


def _kernel_saving(query: float, keys: float) -> float:
    """Bytes per token and layer that one kernel on bfloat16 keeps less than attention in float32 does on a CPU.

    CPU: query, key, value and output in 4 bytes, the output once more joined, and in 2 bytes for the projection.
    GPU: query, output, and gathered keys and values in 2 bytes; a shared prompt is gathered once for each response,
    which is a third more for prompts as long as responses.
    """
    return 6 * query + (8 - 4 * 4 / 3) * keys
