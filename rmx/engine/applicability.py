"""Whether a model may run on padding-free rows, and on shared prefixes: a static rule and a numeric probe.

Neither is enough alone. Some models take the attention name and ignore it, and only numbers tell; on a short
probe a bidirectional encoder differs by little, and only its source tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from rmx.engine.layout import Collator, Encoding
from rmx.records import Batch, EncodedComparison

__all__ = ["GRADIENT_TOLERANCE", "TOLERANCE", "Probed", "evaluating", "probe", "why_not_rows"]

# Probe errors up to here are rounding: valid models stay below 5e-7 and invalid ones reach 2e-3 in float32.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
# Gradients gather the rounding of both passes; what they have to expose, a kernel's wrong backward, is of order 1.
GRADIENT_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.2}

# Attention over the last tokens only, the window handed to the attention function; everything else
# (chunked, convolution, linear, recurrent ...) mixes tokens in a way that the row's layout does not reach.
LAYERS = {"full_attention", "sliding_attention"}


def why_not_rows(model: Any, wrapper: Any) -> str | None:
    """The reason why `model` cannot run on padding-free rows, from its classes and config; None if there is none."""
    config = model.config.get_text_config()
    backbone = model.base_model
    adapter = getattr(wrapper, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        return "the adapter puts virtual tokens before every row"
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder"
    if not type(backbone)._supports_attention_backend:
        return f"{type(backbone).__name__} takes no attention function from outside"
    if type(backbone)._is_stateful:
        return "it carries a recurrent state from token to token"
    other = sorted(set(getattr(config, "layer_types", None) or ()) - LAYERS)
    if other:
        return f"it has {', '.join(other)} layers"
    attention = [m for m in backbone.modules() if isinstance(getattr(m, "is_causal", None), bool)]
    bidirectional = getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", False)
    if bidirectional or not attention or not all(m.is_causal for m in attention):
        return "its attention is not causal"
    return None


class Probed(NamedTuple):
    """What a probe found: the largest differences that an encoding makes."""

    states: float  # of scored hidden states, relative to how far those states differ
    gradients: float  # of the gradient at the embedded tokens, relative to its largest entry

    def failure(self, dtype: torch.dtype) -> str | None:
        """Half a sentence on what is wrong at this precision; None if nothing is."""
        if not self.states <= TOLERANCE[dtype]:
            return f"changed the hidden states of a probe by {self.states:.0e}"
        if not self.gradients <= GRADIENT_TOLERANCE[dtype]:
            return f"changed the gradients of a probe by {self.gradients:.0e}"
        return None


def probe(engine: Any, encoding: Encoding) -> Probed:
    """Run two comparisons of random tokens as rows of `encoding` and as sequences alone, forward and backward.

    The sequences alone go through the model's own code. Backward is part of it because a kernel may be right in one
    direction only; it stops at the embedded tokens, so no weight's gradient is computed or kept.

    Args:
        encoding: "shared" or "flat".

    Raises:
        ValueError: The layers' windows are not those of the config.
    """
    vocabulary = engine.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)  # its own: the caller's random state stays as it is

    def ids(count: int) -> list[int]:
        return torch.randint(vocabulary, (count,), generator=generator).tolist()

    comparisons = [EncodedComparison(str(n), "probe", ids(12), (ids(n), ids(n + 1)), ()) for n in (5, 7)]
    with evaluating(engine.model), torch.inference_mode(False), torch.enable_grad():
        batch = Collator(encoding, multiple_of=engine.multiple_of)(comparisons)
        states, gradient = _states_and_gradient(engine, batch)
        alone = [
            _states_and_gradient(engine, Collator("padded")([EncodedComparison("", "", c.prefix_ids, (suffix,), ())]))
            for c in comparisons
            for suffix in c.suffix_ids
        ]
    layout = batch.layout
    if layout.windows != _windows(engine.model.config.get_text_config()):
        raise ValueError("its sliding window does not reach the attention function")
    expected = torch.cat([state for state, _ in alone])
    expected_gradient = torch.zeros_like(gradient)  # a shared token collects what all its responses send back
    keys = torch.arange(sum(layout.k_lens)) if layout.kv_index is None else layout.kv_index
    for positions, (_, part) in zip(keys.split(layout.k_lens), alone, strict=True):
        expected_gradient.index_add_(0, positions.to(part.device), part)
    spread = (expected.amax(0) - expected.amin(0)).max()
    return Probed(
        ((states - expected).abs().max() / spread).item(),
        ((gradient - expected_gradient).abs().max() / expected_gradient.abs().max()).item(),
    )


def _states_and_gradient(engine: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Scored hidden states [N, H], and the gradient of one fixed projection of them at the embedded tokens [T, H]."""
    embedded: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    hook = engine.model.get_input_embeddings().register_forward_hook(keep)
    try:
        states = engine.hidden(batch)
    finally:
        hook.remove()
    # A slope, because the last norm fixes a state's length: its squared length would have no gradient at all.
    slope = torch.linspace(-1, 1, states.shape[1], dtype=states.dtype, device=states.device)
    (gradient,) = torch.autograd.grad((states * slope).sum(), embedded)
    return states.detach(), gradient[0].detach()


def _windows(config: Any) -> list[int | None]:
    """The window of each layer, as the config has it.

    The probe is shorter than real windows, so it compares what the layers ask of the attention function instead:
    some models (Qwen2-MoE, PhiMoE) have windows in their masks alone, which would be lost with the masks.
    """
    declared = any("sliding_window" in vars(c).get("__annotations__", ()) for c in type(config).__mro__)
    window = (getattr(config, "sliding_window", None) or None) if declared else None
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in types]


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule has its own mode and every device its random state back."""
    modes = [(module, module.training) for module in model.modules()]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    model.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, training in modes:
            module.training = training
