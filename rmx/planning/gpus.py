"""The devices that a plan can be made for: what they hold and what they can do."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEVICES", "Gpu"]

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """One kind of accelerator.

    Attributes:
        name: as its driver calls it, by which `rmx.training.flops.peak_flops` knows its speed.
        memory_gib: what a program sees of its memory, in GiB: a little less than the name says.
    """

    name: str
    memory_gib: float

    @property
    def memory(self) -> int:
        """Bytes that a program sees.

        >>> DEVICES["h100"].memory
        85018877624
        """
        return int(self.memory_gib * GIB)


# Memory as `torch.cuda.mem_get_info` has it on these cards, rounded down; of the H100 that of benchmarks/results.
DEVICES = {
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", 23.5),
    "a100_40gb": Gpu("NVIDIA A100-SXM4-40GB", 39.3),
    "l40s": Gpu("NVIDIA L40S", 44.3),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 79.1),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 79.18),
    "h200": Gpu("NVIDIA H200", 139.7),
    "b200": Gpu("NVIDIA B200", 178.0),
    "mi300x": Gpu("AMD Instinct MI300X", 191.5),
}
