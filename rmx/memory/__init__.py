"""What a run keeps in a device's memory, counted from its model: for plans, and for training's first token budget.

activations    bytes that a token leaves between forward and backward pass
parts          weights, gradients, optimizer state and activations, added up; how many tokens fit beside the rest
"""

from __future__ import annotations

__all__ = ["HEADROOM"]

HEADROOM = 0.1  # share of a device's memory that is left free, for the allocator's gaps and the driver
