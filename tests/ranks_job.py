"""One rank of a whole run, started by torchrun: `ranks_job.py FOLDER DEVICE_BATCH SIZE`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from workflows import make_workflow

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, device_batch, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    make_workflow(
        folder,
        size=size,
        max_steps=4,
        trainer_per_device_train_batch_size=device_batch,
        trainer_use_cpu=True,
        trainer_optim="sgd",  # linear in the gradient; Adam makes any rounding of a tiny one as large as a real step
        trainer_learning_rate=0.05,
    ).run()
