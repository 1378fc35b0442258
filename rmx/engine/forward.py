"""The forward call that returns rewards, set on a model instance so that wrappers see the model they know."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch

from rmx.engine.layout import Layout

__all__ = ["Call", "autocast_device", "return_rewards", "unbind"]

INPUTS = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "past_key_values")


@dataclass(frozen=True, slots=True)
class Call:
    """What travels with a forward call, as one keyword argument, through PEFT, DDP and compiled wrappers."""

    layout: Layout | None  # None: padded rows
    bf16: bool  # the backbone runs under autocast
    states_only: bool = False  # return the scored hidden states themselves
    copy: bool = False  # return no view: divided weights hang hooks on what comes out


def return_rewards(model: Any) -> None:
    """Let `model(..., rmx=Call(...))` return rewards [N]; calls without `rmx` behave as before.

    The method sits on the instance, not on the class: PEFT, DDP and save_pretrained keep the model they know.
    """

    @functools.wraps(type(model).forward)  # PEFT and Trainer look at the signature
    def forward(self: Any, *args: Any, rmx: Call | None = None, **kwargs: Any) -> Any:
        if rmx is None:
            return type(self).forward(self, *args, **kwargs)
        inputs = {name: kwargs[name] for name in INPUTS if kwargs.get(name) is not None}
        if rmx.copy:
            return _rewards(self, rmx, inputs).clone()
        return _rewards(self, rmx, inputs)

    model.forward = MethodType(forward, model)


def unbind(model: Any) -> None:
    """Give `model` its own forward back."""
    vars(model).pop("forward", None)


def _rewards(model: Any, call: Call, inputs: dict[str, Any]) -> torch.Tensor:
    # Autocast caches no weights: each is used once in a pass, and the cache would hold a bfloat16 copy of the whole
    # model to the end of it, even where weights are divided among processes or layers are computed again.
    device = autocast_device(model.device)
    if not scores_last_token(model):  # an encoder pools its own way, between backbone and classifier
        with _backbone_in_bf16(model, call.bf16):
            return _float32(type(model).forward(model, **inputs).logits[:, 0])
    if call.layout is not None:
        # A 4-D mask is handed through as it is: transformers then builds none, and does not take the restarting
        # positions for packed sequences. The attention function never looks at it.
        mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=model.device)
        inputs |= {"attention_mask": mask, "rmx_layout": call.layout}
    with torch.autocast(device, torch.bfloat16, enabled=call.bf16, cache_enabled=False):
        states = model.base_model(**inputs, use_cache=False).last_hidden_state
    if call.layout is not None:
        scored = states[0, call.layout.pool_index]
    else:  # counted from the mask's end, because prompt tuning puts virtual tokens before the row
        mask = inputs["attention_mask"]
        last = mask.sum(1).long() - 1 - (mask.shape[1] - states.shape[1])
        scored = states[torch.arange(len(states), device=states.device), last]
    if call.states_only:
        return scored
    scored = _float32(scored)
    with torch.autocast(device, enabled=False):
        if all(p.dtype == scored.dtype for p in model.score.parameters()):
            return model.score(scored)[:, 0]
        raised = {name: _float32(p) for name, p in model.score.named_parameters()}
        return torch.func.functional_call(model.score, raised, (scored,))[:, 0]


def autocast_device(device: torch.device) -> str:
    """Return the kind of device whose autocast holds: weights on the meta device compute nothing, and have none.

    >>> autocast_device(torch.device("cpu")), autocast_device(torch.device("meta"))
    ('cpu', 'cpu')
    """
    return device.type if torch.amp.is_autocast_available(device.type) else "cpu"


def scores_last_token(model: Any) -> bool:
    """Whether the head is transformers' `score`, one linear layer on the last token, as all decoders have it."""
    return "score" in dict(model.named_children()) and not model.config.is_encoder_decoder


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    """At least float32: bfloat16 is raised, float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def _backbone_in_bf16(model: Any, enabled: bool) -> Iterator[None]:
    """Autocast the backbone alone, for models that call it from their own forward; its outputs become float32."""
    if not enabled:
        yield
        return
    backbone = model.base_model
    run = backbone.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(autocast_device(model.device), torch.bfloat16, cache_enabled=False):
            output = run(*args, **kwargs)
        for name, value in output.items():
            if isinstance(value, torch.Tensor):
                output[name] = _float32(value)
        return output

    backbone.forward = forward
    try:
        yield
    finally:
        del backbone.forward
