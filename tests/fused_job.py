"""Rewards and gradients with and without Liger's kernels: `fused_job.py FAMILY none|adapter` prints distances (JSON).

Run with TRITON_INTERPRET=1: Triton then runs kernels on tensors of the CPU, operation by operation in numpy.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from peft import LoraConfig, get_peft_model
from tiny_models import CONFIGS
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, TrainingArguments
from triton.runtime import interpreter

from rmx.engine import Engine
from rmx.models import fused, unwrap
from rmx.parallel import MeshSizes
from rmx.records import EncodedComparison, Pair
from rmx.training.sharded import ShardedWeights

# --- What the interpreter of Triton 3.9 lacks -------------------------------------------------------------------------

_convert = interpreter._implicit_cvt


def convert(argument: Any) -> Any:
    """Numbers come to a kernel as tensors, as they do on a GPU; the interpreter leaves floats as they are."""
    if isinstance(argument, float):
        handle = interpreter.TensorHandle(np.array([argument], dtype=np.float32), tl.float32)
        return tl.tensor(handle, tl.float32)
    return _convert(argument)


@triton.jit
def rsqrt(x):
    """In place of libdevice's, which is code for a GPU."""
    return tl.rsqrt(x)


@triton.jit
def tanh(x):
    """In place of libdevice's: tanh x = 2 / (1 + exp(-2x)) - 1."""
    return 2 * tl.sigmoid(2 * x) - 1


def prepare() -> None:
    import liger_kernel.ops.geglu
    import liger_kernel.ops.rms_norm

    interpreter._implicit_cvt = convert
    liger_kernel.ops.rms_norm.rsqrt = rsqrt
    liger_kernel.ops.geglu.tanh = tanh
    fused.DEVICES = ("cpu",)


# --- The comparison ---------------------------------------------------------------------------------------------------


def model_of(family: str, adapter: bool) -> Any:
    torch.manual_seed(0)
    values = {**CONFIGS[family], "num_labels": 1, "pad_token_id": 0, "initializer_range": 0.1}
    model = AutoModelForSequenceClassification.from_config(CONFIG_MAPPING[family](**values))
    if not adapter:
        return model
    torch.manual_seed(1)
    return get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="SEQ_CLS")
    )


def rows() -> list[EncodedComparison]:
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 200, (count,), generator=generator).tolist()

    shapes = [(6, (2, 4)), (1, (1, 5, 2))]
    return [EncodedComparison("", "", ids(p), tuple(map(ids, s)), (Pair(0, 1),)) for p, s in shapes]


LAST_MLP: list[str] = []  # the module whose forward the last MLP ran


def results(model: Any, encoding: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards, and all gradients of a loss that weighs every reward differently."""
    engine = Engine(model.eval(), encoding=encoding)
    assert engine.encoding == {"auto": "shared", "separate": "flat"}[encoding], engine.reason
    model.zero_grad()
    rewards = engine.rewards(engine.collate(rows()))
    (rewards * torch.linspace(-1, 1.5, len(rewards))).sum().backward()
    LAST_MLP[:] = [vars(engine.model.base_model.layers[-1].mlp)["forward"].__module__]
    engine.detach()
    return rewards.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def main(family: str, adapter: bool) -> dict[str, Any]:
    prepare()
    model = model_of(family, adapter)
    plain = {encoding: results(model, encoding) for encoding in ("auto", "separate")}
    words = fused.fuse(model)
    said: dict[str, Any] = {"words": words}
    calls = counted_rotary()
    for encoding, expected in plain.items():
        found = results(model, encoding)
        said[encoding] = [distance(a, b) for a, b in zip(found, expected, strict=True)]
    said["rotary"] = len(calls)
    last = unwrap(model).base_model.layers[-1].mlp
    said["narrow"], said["detached"] = LAST_MLP[0], vars(last)["forward"].__module__
    said["new"] = sorted({type(m).__name__ for m in model_of(family, False).modules() if "Norm" in type(m).__name__})
    return said


def counted_rotary() -> list[None]:
    """Count the calls of Liger's rotary embedding."""
    from liger_kernel.ops import rope

    calls: list[None] = []
    forward = rope.rope_forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return forward(*args, **kwargs)

    rope.rope_forward = counting
    return calls


def divided(folder: str) -> None:
    """One of two processes: kernels put in place, weights divided, against the whole model without kernels."""
    prepare()
    torch.distributed.init_process_group("gloo")
    model = model_of("llama", False)
    expected = results(model, "auto")
    assert fused.fuse(model)
    args = TrainingArguments(folder, use_cpu=True, report_to="none")
    ShardedWeights(args, MeshSizes(replicate=1, shard=2, tensor=1)).divide(model, {})
    engine = Engine(model.eval())
    model.zero_grad()
    rewards = engine.rewards(engine.collate(rows()))
    (rewards * torch.linspace(-1, 1.5, len(rewards))).sum().backward()  # the same rows twice: the mean is the whole
    gradients = torch.cat([p.grad.full_tensor().flatten() for p in model.parameters() if p.grad is not None])
    if torch.distributed.get_rank() == 0:
        print(json.dumps([distance(rewards.detach(), expected[0]), distance(gradients, expected[1])]))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1] == "divided":
        divided(sys.argv[2])
    else:
        print(json.dumps(main(sys.argv[1], sys.argv[2] == "adapter")))
