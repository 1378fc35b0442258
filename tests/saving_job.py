"""One process of a run whose saving is watched: `saving_job.py FOLDER STRATEGY CHANGES`; started by torchrun.

Beside the run's `model/` it leaves `model-whole/`, which is saved from a whole model in the first process's memory, and
`saving-<rank>.json`: the bytes of gathered weights that this process held at most, and what was true while the artefact
was checked.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import torch
from parallel_job import main
from torch import Tensor
from torch.distributed.tensor import DTensor

import rmx.models.artefact.adapter_files
import rmx.models.artefact.save
import rmx.training.proof
from rmx.models.streaming import save_pretrained
from rmx.training import sharded

FOUND: dict[str, Any] = {"gathers": 0, "gathered_bytes": 0, "most_bytes": 0}
HELD = [0]


def counted(tensor: Tensor) -> Tensor:
    """`sharded.whole`, counting what of its results is in memory."""
    complete = whole(tensor)
    if isinstance(tensor, DTensor) and tensor.dim() > 0 and counted.on:  # type: ignore[attr-defined]
        size = complete.untyped_storage().nbytes()
        HELD[0] += size
        FOUND["gathers"] += 1
        FOUND["gathered_bytes"] += size
        FOUND["most_bytes"] = max(FOUND["most_bytes"], HELD[0])
        weakref.finalize(complete.untyped_storage(), release, size)
    return complete


def release(size: int) -> None:
    HELD[0] -= size


def with_weights(self: Any, model: Any, work: Any) -> Any:
    """Save the whole model first, from the first process's memory, and put it aside."""
    sharded.reshard(model)
    state = {name: whole(tensor).clone() for name, tensor in model.state_dict().items()}
    FOUND["trained_parts_bytes"] = rmx.training.proof.held(model)
    if self.process == 0:
        FOUND["largest_bytes"] = max(tensor.nbytes for tensor in state.values())
        FOUND["trained_bytes"] = sum(state[name].nbytes for name, p in model.named_parameters() if p.requires_grad)
        self.skeleton.load_state_dict(state, assign=True, strict=False)
        folder = work(self.skeleton, None)
        folder.rename(folder.with_name("model-whole"))
        self.skeleton.to("meta")
    del state
    gc.collect()
    counted.on = True  # type: ignore[attr-defined]
    result = lent(self, model, work)
    counted.on = False  # type: ignore[attr-defined]
    return result


def watched(*arguments: Any, loaded: Any = None, **options: Any) -> Any:
    """`verify_artefact`, noting with what it is called."""
    parts = [] if loaded is None else list(loaded.parameters())
    FOUND["checked_in_parts"] = bool(parts)
    FOUND["checked_parts"] = sum(isinstance(p, DTensor) for p in parts)
    FOUND["checked_parameters"] = len(parts)
    FOUND["checked_bytes"] = 0 if loaded is None else rmx.training.proof.held(loaded)
    gc.collect()
    everything = gc.get_objects()
    FOUND["optimizers"] = sum(isinstance(thing, torch.optim.Optimizer) for thing in everything)
    FOUND["gradients"] = sum(isinstance(thing, torch.nn.Parameter) and thing.grad is not None for thing in everything)
    return checked(*arguments, loaded=loaded, **options)


if __name__ == "__main__":
    whole, lent, checked = sharded.whole, sharded.ShardedWeights.with_weights, rmx.training.proof.verify_artefact
    counted.on = False  # type: ignore[attr-defined]
    sharded.whole = counted
    sharded.ShardedWeights.with_weights = with_weights  # type: ignore[method-assign,assignment]
    rmx.training.proof.verify_artefact = watched
    changes = json.loads(sys.argv[3])
    if "shard_size" in changes:
        small: Any = partial(save_pretrained, max_shard_size=changes.pop("shard_size"))
        rmx.models.artefact.save.save_pretrained = rmx.models.artefact.adapter_files.save_pretrained = small
    run_folder = Path(sys.argv[1])
    main(run_folder, sys.argv[2], changes)
    (run_folder / f"saving-{os.environ['RANK']}.json").write_text(json.dumps(FOUND))
