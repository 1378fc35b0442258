"""Counts what makes a host wait for its device: every read of a tensor's value into Python."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

READS = {
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.numpy,
    torch.Tensor.cpu,
    torch.Tensor.__bool__,
    torch.Tensor.__int__,
    torch.Tensor.__float__,
    torch.Tensor.__index__,
    torch.Tensor.nonzero,
    torch.nonzero,
    torch.equal,
    torch.allclose,
}


class HostReads(TorchFunctionMode):
    """`with HostReads() as reads: ...; reads.total` and `reads.by_name`, on any device.

    On a GPU each of these waits for everything that was queued before. `tensor.to("cpu")` is one that this cannot
    see: where everything is on the CPU it is the same call as moving a batch to its device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Reads so far."""
        return self.by_name.total()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            self.by_name[func.__name__] += 1
        return func(*args, **(kwargs or {}))
