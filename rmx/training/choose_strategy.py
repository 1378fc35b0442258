"""Which strategy a process trains with: from `parallel=` and the number of processes."""

from __future__ import annotations

from transformers import TrainingArguments

from rmx.parallel import NoParallel, Sharded, Zero
from rmx.training.sharded import ShardedWeights
from rmx.training.strategies import DataParallel, OneProcess

__all__ = ["strategy_for"]


def strategy_for(args: TrainingArguments, parallel: NoParallel | None = None) -> OneProcess:
    """Return the strategy of this process.

    Raises:
        ConfigError: what `parallel=` asks for does not fit the number of processes.
    """
    processes = max(args.world_size, 1)
    sizes = None if parallel is None else parallel.sizes(processes)
    if isinstance(parallel, Zero):
        from rmx.training.zero import ZeroPartitions

        return ZeroPartitions(args, parallel.stage)
    if sizes is None:
        return DataParallel(args) if processes > 1 else OneProcess(args)
    return ShardedWeights(args, sizes, cpu_offload=isinstance(parallel, Sharded) and parallel.cpu_offload)
