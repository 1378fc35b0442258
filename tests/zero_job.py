"""One of two processes that divide a small net by DeepSpeed: `zero_job.py STAGE`; prints what it saw as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainingArguments

from rmx.errors import ModelError
from rmx.training.optimizers import make_optimizer
from rmx.training.zero import ZeroPartitions, gathered
from rmx.training.zero_memory import held_by_zero


class Net(nn.Module):
    """Two layers, and one that only some steps use; 5 and 3 do not divide by 2."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 3), nn.Linear(3, 3)])
        self.sometimes = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, all_of_it: bool = True) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return (self.sometimes(x) if all_of_it else x).sum()


def weights(model: nn.Module) -> dict[str, list[float]]:
    found = {}
    for name, parameter in model.named_parameters():
        with gathered(parameter):
            found[name] = parameter.detach().flatten().tolist()
    return found


def main(stage: int) -> dict[str, Any]:
    torch.manual_seed(0)
    args = TrainingArguments("run", optim="adamw_torch", learning_rate=0.1, use_cpu=True, report_to="none")
    strategy, model = ZeroPartitions(args, stage), Net()
    planned = held_by_zero(model, args, stage, 2)
    if strategy.divided:
        strategy.divide(model, {})
    module, optimizer = strategy.joined(
        strategy.place(model, lambda module: module(torch.ones(1, 5)).backward()), make_optimizer(model, args)
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    x = torch.full((1, 5), 1.0 + strategy.rank, requires_grad=True)
    found: dict[str, Any] = {"planned": planned, "start": weights(model)}

    with strategy.local_gradients():
        module(x).backward()
    module(x).backward()
    found["norm"] = float(strategy.clip(trained, 0.0))
    optimizer.step()
    found["held"], found["moved"] = strategy.held(model, optimizer), weights(model)

    module(x * torch.inf).backward()
    found["not finite"] = bool(torch.isfinite(strategy.clip(trained, 0.0)))
    found["then"] = weights(model)
    module.zero_grad()

    for parameter, value in zip(trained, found["start"].values(), strict=True):
        with gathered(parameter):
            shape = parameter.shape
        strategy.put(parameter, torch.tensor(value).reshape(shape))
    found["put back"] = weights(model)
    with optimizer.standing():  # sends the parts that the optimizer moves: they were put back as well
        module(x).backward()
        optimizer.step()
    found["sent again"] = weights(model)
    strategy.reached.clear()

    module(x, all_of_it=False).backward()
    try:
        strategy.clip(trained, 0.0)
    except ModelError as error:
        found["left out"] = str(error)
    return found


if __name__ == "__main__":
    dist.init_process_group("gloo")
    result = main(int(sys.argv[1]))
    if dist.get_rank() == 0:
        print("FOUND" + json.dumps(result))
    dist.destroy_process_group()
