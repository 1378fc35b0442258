"""One process of a whole run: `parallel_job.py FOLDER STRATEGY CHANGES` (JSON); started by torchrun or alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from workflows import make_workflow

from rmx.data import SyntheticData
from rmx.models import Adapter, RewardModelSource
from rmx.parallel import NoParallel, Replicated, Sharded, Zero
from rmx.templates import Template

STRATEGIES: dict[str, NoParallel] = {
    "none": NoParallel(),
    "ddp": Replicated(),
    "fsdp": Sharded(),
    "hsdp": Sharded(shard=2, replicate="auto"),
    "tp": Sharded(shard=1, tensor="auto"),
    "fsdp_tp": Sharded(tensor=2),
    "offload": Sharded(cpu_offload=True),
    "zero2": Zero(stage=2),
    "zero3": Zero(stage=3),
}


def main(folder: Path, strategy: str, changes: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    if changes.pop("lora", False):
        changes["peft"] = Adapter(kind=changes.pop("kind", "lora"), r=4, alpha=8)
    if "path" in changes:
        source = {name: changes.pop(name) for name in ("path", "dtype", "quantization") if name in changes}
        changes["model"] = RewardModelSource(name="m", **source)
    if "template" in changes:
        changes["template"] = Template(changes.pop("template"))
    if "responses" in changes:
        changes["data"] = SyntheticData(size=40, responses=changes.pop("responses"))
    settings: dict[str, Any] = {
        "size": 46,  # 34 comparisons to train on: the last step of an epoch has 2
        "max_steps": 10,
        "trainer_eval_steps": 5,
        "trainer_save_steps": 5,
        "trainer_comparisons_per_step": 8,
        "trainer_per_device_train_batch_size": 8,
        "trainer_max_tokens_per_micro_batch": 400,  # several micro-batches, another number in each process
        "trainer_use_cpu": True,
        "trainer_optim": "sgd",  # linear in the gradient; Adam makes rounding of a tiny one as large as a real step
        "trainer_learning_rate": 0.01,
        "parallel": STRATEGIES[strategy],
    }
    make_workflow(folder, **(settings | changes)).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
