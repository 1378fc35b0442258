"""The layers of a transformer, whatever its architecture calls them."""

from __future__ import annotations

from torch import nn

__all__ = ["layers_of"]


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the transformer's layers: the modules of its longest list.

    >>> small, large = nn.ModuleList([nn.Linear(1, 1)]), nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    >>> layers_of(nn.ModuleDict({"few": small, "many": large})) == list(large)
    True
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    layers = max(lists, key=lambda stack: sum(p.numel() for p in stack.parameters()), default=None)
    return [] if layers is None else list(layers)
