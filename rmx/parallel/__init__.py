"""How one model and one optimizer step are spread over several processes: what `parallel=` says, as numbers.

    processes = replicate x shard x tensor          by torch itself
    processes                                       by DeepSpeed: all of them share

`shard` processes hold a part of every weight, gradient and optimizer state each (fully_shard, ZeRO-3);
`replicate` such groups hold the same (HSDP); `tensor` processes compute a part of every layer together.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rmx.errors import ConfigError, counted
from rmx.values import Count, Positive, refuse_wrong_fields

__all__ = ["MeshSizes", "NoParallel", "Replicated", "Sharded", "Zero"]


class MeshSizes(NamedTuple):
    """Processes along each dimension of the mesh."""

    replicate: int
    shard: int
    tensor: int

    @property
    def data(self) -> int:
        """Groups that see different rows.

        >>> MeshSizes(replicate=2, shard=4, tensor=2).data
        8
        """
        return self.replicate * self.shard


@dataclass(frozen=True)
class NoParallel:
    """parallel=none: every process holds the whole model; where a launcher started several, they average gradients.

    Args:
        processes: how many processes rmx starts itself; null for none, auto for one per GPU.
        timeout_minutes: how long a process waits for the others.
    """

    processes: Count | Literal["auto"] | None = None
    timeout_minutes: Positive = 30.0

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "parallel")

    def refuse_missing(self) -> None:
        """Stop where a package is missing that this takes.

        Raises:
            ConfigError: it names the package.
        """

    def words(self, processes: int) -> str:
        """Return how so many processes share the work."""
        return "ddp" if processes > 1 else "none"

    def sizes(self, processes: int, per_node: int | None = None) -> MeshSizes | None:
        """Return the mesh for so many processes, `per_node` on each machine; None where weights are not divided.

        Raises:
            ConfigError: the sizes do not fit the number of processes.
        """
        return None


@dataclass(frozen=True)
class Replicated(NoParallel):
    """parallel=ddp: as `none`, and one process alone is refused."""

    def sizes(self, processes: int, per_node: int | None = None) -> MeshSizes | None:
        """See `NoParallel.sizes`."""
        if processes == 1:
            raise ConfigError(f"parallel=ddp: there is one process; {START}, or take parallel=none")
        return None


START = "start several (`torchrun --nproc-per-node=N -m rmx ...`, or parallel.processes=N)"


@dataclass(frozen=True)
class Sharded(NoParallel):
    """parallel=fsdp, hsdp, tp, fsdp_tp: every process holds a part of the weights, gradients and optimizer state.

    Args:
        shard: processes that divide all weights among them.
        replicate: groups of such processes that hold the same; gradients are averaged over them.
        tensor: processes that compute every layer together.
        cpu_offload: weights, gradients and optimizer state wait in the host's memory.

    >>> Sharded(shard="auto").sizes(8)
    MeshSizes(replicate=1, shard=8, tensor=1)
    >>> Sharded(shard="auto", tensor=2).sizes(8)
    MeshSizes(replicate=1, shard=4, tensor=2)
    >>> Sharded(shard=2, replicate=2).sizes(6)
    Traceback (most recent call last):
    rmx.errors.ConfigError: parallel: replicate=2 x shard=2 x tensor=1 are 4 processes, and there are 6; ...
    """

    shard: Count | Literal["auto"] = "auto"
    replicate: Count | Literal["auto"] = 1
    tensor: Count | Literal["auto"] = 1
    cpu_offload: bool = False

    def sizes(self, processes: int, per_node: int | None = None) -> MeshSizes:
        """Return the mesh: what is `auto` follows from the number of processes.

        With `shard` and `replicate` both auto, the processes of one node share the weights: `per_node` of them, or as
        many as the launcher says.

        Raises:
            ConfigError: the sizes do not fit the number of processes.
        """
        if processes == 1:
            raise ConfigError(f"parallel: weights are divided among processes, and there is one; {START}")
        sizes = {"replicate": self.replicate, "shard": self.shard, "tensor": self.tensor}
        if sizes["replicate"] == sizes["shard"] == "auto":
            sizes["shard"] = min(per_node or int(os.environ.get("LOCAL_WORLD_SIZE", processes)), processes)
        open_sizes = [name for name, size in sizes.items() if size == "auto"]
        if len(open_sizes) > 1:
            raise ConfigError(f"parallel: {' and '.join(open_sizes)} are both auto; give a number for one of them")
        given = 1
        for size in sizes.values():
            given *= 1 if size == "auto" else int(size)
        for name in open_sizes:
            sizes[name] = max(1, processes // given)
            given *= int(sizes[name])
        found = MeshSizes(**{name: int(size) for name, size in sizes.items()})
        if given != processes:
            words = " x ".join(f"{name}={size}" for name, size in found._asdict().items())
            raise ConfigError(
                f"parallel: {words} are {counted(given, 'process', 'processes')}, and there are {processes}; "
                f"give sizes whose product is {processes}, or start {counted(given, 'process', 'processes')}"
            )
        return found

    def words(self, processes: int) -> str:
        """See `NoParallel.words`.

        >>> Sharded(tensor=2).words(8)
        'replicate=1 x shard=4 x tensor=2'
        """
        return " x ".join(f"{name}={size}" for name, size in self.sizes(processes)._asdict().items())


@dataclass(frozen=True)
class Zero(NoParallel):
    """parallel=zero2, zero3: DeepSpeed divides among all processes (Rajbhandari et al. 2020, ZeRO).

    Args:
        stage: 2 divides gradients and optimizer state; 3 the weights as well.

    >>> Zero(stage=3).words(8)
    'zero3 over 8'
    """

    stage: Literal[2, 3] = 2

    def refuse_missing(self) -> None:
        """See `NoParallel.refuse_missing`."""
        if importlib.util.find_spec("deepspeed") is None:
            raise ConfigError(
                f"parallel=zero{self.stage}: needs deepspeed; pip install 'rmx[deepspeed]', or take parallel=fsdp"
            )

    def sizes(self, processes: int, per_node: int | None = None) -> MeshSizes | None:
        """See `NoParallel.sizes`: there is one dimension, as long as there are processes.

        Raises:
            ConfigError: there is one process.
        """
        if processes == 1:
            raise ConfigError(f"parallel=zero{self.stage}: there is one process, and nothing to divide; {START}")
        return None

    def words(self, processes: int) -> str:
        """See `NoParallel.words`."""
        return f"zero{self.stage} over {processes}"
