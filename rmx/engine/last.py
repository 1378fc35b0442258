"""The last layer, for the scored tokens only.

Nobody reads the last layer's output but the head, at N of T tokens. Its keys and values are needed everywhere,
its queries and its MLP only there: in a model of L layers that is most of 1/L of all work (a fifth of a 4-layer
model, a thirtieth of a 32-layer one). The other positions' outputs become zero, and the head never looks at them.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from rmx.engine.layout import Layout

__all__ = ["narrow", "widen"]

FUSED = "liger_kernel."  # the package of forwards that may stand on an MLP


def narrow(model: Any) -> None:
    """Let the last layer of `model` compute scored tokens only, wherever a layout comes with the call.

    Works on decoder layers with an `mlp` child, which is nearly all of them; others stay as they are. So does a
    checkpointed layer: it runs again in backward, where nothing would tell its MLP which tokens were scored.
    """
    layer = _last_layer(model)
    if layer is None:
        return
    scored: list[torch.Tensor] = []  # filled while the layer runs on a row of the engine's
    former = _former(layer.mlp)

    def layer_forward(self: nn.Module, *args: Any, rmx_layout: Layout | None = None, **kwargs: Any) -> Any:
        if rmx_layout is None:
            return type(self).forward(self, *args, **kwargs)
        if self.training and getattr(self, "gradient_checkpointing", False):
            return type(self).forward(self, *args, rmx_layout=rmx_layout, **kwargs)
        layout = rmx_layout.last()
        scored.append(layout.pool_index)
        try:
            return type(self).forward(self, *args, rmx_layout=layout, **kwargs)
        finally:
            scored.clear()

    def mlp_forward(self: nn.Module, states: torch.Tensor, *args: Any) -> Any:
        run = type(self).forward if former is None else former.__func__
        if not scored:
            return run(self, states, *args)
        output = run(self, states.index_select(1, scored[0]))
        if isinstance(output, tuple):  # mixtures of experts add their router's scores
            return spread(output[0], scored[0], states.shape[1]), *output[1:]
        return spread(output, scored[0], states.shape[1])

    layer.forward = MethodType(layer_forward, layer)
    mlp_forward.__wrapped__ = former  # type: ignore[attr-defined]
    layer.mlp.forward = MethodType(mlp_forward, layer.mlp)


def widen(model: Any) -> None:
    """Give the last layer its own forward back."""
    layer = _last_layer(model)
    if layer is not None:
        vars(layer).pop("forward", None)
        former = _former(layer.mlp)
        vars(layer.mlp).pop("forward", None)
        if former is not None:
            layer.mlp.forward = former


def _former(mlp: nn.Module) -> Any:
    """The forward that a fused kernel has put on an MLP, beneath ours; None where it is that of its class."""
    own = vars(mlp).get("forward")
    return getattr(own, "__wrapped__", None) if own is not None and own.__module__ == __name__ else own


def spread(narrow: torch.Tensor, scored: torch.Tensor, tokens: int) -> torch.Tensor:
    """Put [1, N, ...] at the scored positions of [1, tokens, ...], zero elsewhere."""
    return narrow.new_zeros(1, tokens, *narrow.shape[2:]).index_copy(1, scored, narrow)


def _last_layer(model: Any) -> Any:
    """The decoder's last layer, if it has an MLP of its own and nobody has changed how the two are called.

    A fused kernel (Liger's) on the MLP is no such change: it works token by token, as what it replaces.
    """
    count = model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not stacks or "mlp" not in dict(stacks[0][-1].named_children()):
        return None
    layer = stacks[0][-1]
    kept = [(layer, (__name__,)), (layer.mlp, (__name__, FUSED))]
    forwards = [(vars(module).get("forward"), modules) for module, modules in kept]
    return layer if all(f is None or f.__module__.startswith(modules) for f, modules in forwards) else None
