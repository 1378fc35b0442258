"""One of the processes of tests/test_shards.py: writes its parts of a weight and of its optimizer state."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from rmx.checkpoints.sealing import seal
from rmx.checkpoints.shards import save_shards, structure_of
from rmx.errors import OutputError

if __name__ == "__main__":
    dist.init_process_group("gloo")
    first, folder = dist.get_rank() == 0, Path(sys.argv[1]) / "checkpoint-1"
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    whole = torch.arange(35.0).reshape(7, 5)
    weight, moment = (distribute_tensor(scale * whole, mesh, [Shard(0)]) for scale in (1, 2))
    if first:
        folder.mkdir()
    dist.barrier()
    try:  # as on a node that does not share the folder
        save_shards({"model.weight": weight}, folder if dist.get_rank() < 2 else folder / "elsewhere")
    except OutputError as error:
        print(error, flush=True)
    state = {"state": {0: {"exp_avg": moment, "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.5, "params": [0]}]}
    parts = structure_of(state, folder, "optimizer", write=first)
    save_shards({"model.weight": weight} | parts, folder)
    if first:
        (folder / "rmx_state.json").write_text("{}", encoding="utf-8")
        seal(folder, step=1, facts={})
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # all is written; torch's threads sometimes abort a busy process at its end
