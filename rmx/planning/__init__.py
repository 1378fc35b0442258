"""What a run will take before it is started: bytes, FLOPs, hours, and what fits.

settings      what the plan is made for; light, because every configuration has it
gpus          the devices: their memory
parts         bytes of each process: weights, gradients, optimizer state, what comes and goes
activations   bytes of each token between forward and backward pass
work          tokens, steps, FLOPs and hours
estimate      all of it, and the strategies and devices that fit
telling       plan.json, and the words on the screen
"""

from __future__ import annotations

from rmx.planning.settings import PlanSettings

__all__ = ["PlanSettings"]
