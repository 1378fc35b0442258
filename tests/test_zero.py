"""Two processes that divide a small net by DeepSpeed move as one process does, and stop where DeepSpeed would not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from zero_job import Net

from rmx.errors import ModelError
from rmx.training.zero import refuse_model

TESTS = Path(__file__).parent


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "GLOO_SOCKET_IFNAME": "lo"}
    environment["OMP_NUM_THREADS"] = "1"
    command = [*launch, str(TESTS / "zero_job.py"), str(request.param)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    return json.loads(line.removeprefix("FOUND")) | {"stage": request.param}


def test_a_step_of_two_micro_batches_is_that_of_one_process(found: dict[str, Any]) -> None:
    """Process 0 sees ones twice, process 1 twos twice; the mean over both is the gradient of their sum.

    Adam's first step moves every weight by the learning rate, 0.1, against the sign of its gradient.
    """
    net = Net()
    names = dict(net.named_parameters())
    for name, values in found["start"].items():
        names[name].data = torch.tensor(values).reshape(names[name].shape)
    for value in (1.0, 2.0):
        net(torch.full((1, 5), value)).backward()
    gradients = [p.grad for p in names.values() if p.grad is not None]
    assert found["norm"] == pytest.approx(float(nn.utils.get_total_norm(gradients)), rel=1e-6)
    for name, parameter in names.items():
        assert parameter.grad is not None
        moved = parameter.data - 0.1 * parameter.grad.sign()
        assert found["moved"][name] == pytest.approx(moved.flatten().tolist(), abs=1e-6)


def test_a_gradient_that_is_not_finite_is_seen_before_anything_moves(found: dict[str, Any]) -> None:
    assert found["not finite"] is False and found["then"] == found["moved"]


def test_what_is_put_back_is_what_the_optimizer_moves_too(found: dict[str, Any]) -> None:
    assert found["put back"] == found["start"]
    for name, values in found["sent again"].items():
        assert values == pytest.approx(found["start"][name], abs=1e-7)


def test_each_process_holds_what_was_planned(found: dict[str, Any]) -> None:
    """Of 42 weights: all in float32 and 22 once more (stage 2), or twice 24 (halves of 15, 3, 9, 3, 9 and 3).

    DeepSpeed fills up the run of each of the two parameter groups, and counts steps in each.
    """
    assert found["planned"][:2] == ([4 * (42 + 22), 4 * 22] if found["stage"] == 2 else [4 * 48, 4 * 24])
    for held, planned in zip(found["held"], found["planned"], strict=True):
        assert 0 <= held - planned <= 20


def test_a_weight_without_a_gradient_stops_the_run(found: dict[str, Any]) -> None:
    assert f"parallel=zero{found['stage']}: sometimes.weight got no gradient in a step" in found["left out"]


def test_experts_of_their_own_are_refused() -> None:
    mixture = nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
    with pytest.raises(ModelError, match="DeepSpeed needs a gradient for every weight in every process"):
        refuse_model(mixture)
    refuse_model(nn.Linear(2, 2))
