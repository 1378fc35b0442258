"""Liger's kernels: refused before anything is loaded, looked at once they are in place, and equal in what they compute.

Triton compiles for GPUs only. Its interpreter runs the same kernels on a CPU, where the rest of these tests is at home.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, LlamaConfig
from workflows import make_workflow

from rmx.errors import ConfigError, ModelError
from rmx.models import fused
from rmx.models.fused import _chosen, _function, fuse, require_fusable
from rmx.parallel import Sharded
from rmx.run.inputs import refuse_divided_layers

TESTS = Path(__file__).resolve().parents[1]
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
FLOAT32 = 5e-6  # of the norm; found: up to 1.2e-6


def tiny() -> Any:
    return AutoModelForSequenceClassification.from_config(
        LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    )


# --- Refused ----------------------------------------------------------------------------------------------------------


def test_a_machine_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "find_spec", lambda name: SimpleNamespace())
    text = (
        "trainer.use_liger_kernel: its kernels (rmx[liger]) run on a CUDA or XPU device, and this run's device is cpu"
    )
    with pytest.raises(ConfigError, match=re.escape(text)):
        require_fusable(None, CPU, "llama")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape("needs the package liger_kernel; pip install 'rmx[liger]'")):
        require_fusable(None, CUDA, "llama")


@pytest.mark.parametrize(
    ("model_type", "config", "text"),
    [
        ("gpt2", None, "Liger has no kernels for gpt2 models; it knows deepseek_v2, .*llama, .*qwen3"),
        ("llama", {"cross_entropy": True}, "liger_kernel_config.cross_entropy: is a loss of language models"),
        ("llama", {"fused_linear_cross_entropy": True}, "fused_linear_cross_entropy: is a loss of language models"),
        (
            "llama",
            {"geglu": True},
            "liger_kernel_config.geglu: llama has no such kernel; it has rope, rms_norm, swiglu",
        ),
        ("llama", {"rope": "no"}, "liger_kernel_config.rope: 'no' is not true or false"),
        ("gemma3_text", {"rope": False, "rms_norm": False, "geglu": False}, "leaves every kernel out"),
    ],
)
def test_what_liger_would_pass_over_is_refused(model_type: str, config: Any, text: str) -> None:
    pytest.importorskip("liger_kernel")
    with pytest.raises(ConfigError, match=text):
        require_fusable(config, CUDA, model_type)


def test_losses_that_are_off_are_no_mistake() -> None:
    pytest.importorskip("liger_kernel")
    chosen = _chosen(_function("qwen3"), {"cross_entropy": False, "rope": False}, "qwen3")
    assert chosen == {"rope": False, "rms_norm": True, "swiglu": True}


def test_a_run_without_a_gpu_ends_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("liger_kernel")
    monkeypatch.setattr("rmx.models.load.load_model", None)
    with pytest.raises(ConfigError, match="this run's device is cpu"):
        make_workflow(tmp_path / "run", trainer_use_liger_kernel=True, trainer_use_cpu=True).run()


def test_divided_layers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = make_workflow(tmp_path, trainer_use_liger_kernel=True, parallel=Sharded(shard=1, tensor=2))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"trainer\.use_liger_kernel: .*parallel\.tensor=2.*use parallel=fsdp"):
        refuse_divided_layers(workflow)


# --- In place ---------------------------------------------------------------------------------------------------------


def test_modules_are_replaced_and_files_of_transformers_are_not() -> None:
    """On a CPU nothing is probed or run. A model that is built afterwards is one of transformers' own."""
    pytest.importorskip("liger_kernel")
    from transformers.models.llama import modeling_llama

    own = modeling_llama.apply_rotary_pos_emb
    model = tiny()
    try:
        assert fuse(model, {"rope": False}) == "3 LigerRMSNorm, 1 LigerSwiGLUMLP"
        assert modeling_llama.apply_rotary_pos_emb is own
        assert fuse(model) == "3 LigerRMSNorm, 1 LigerSwiGLUMLP, rotary embedding"
        assert modeling_llama.apply_rotary_pos_emb is not own
        assert {type(m).__name__ for m in tiny().modules() if "Norm" in type(m).__name__} == {"LlamaRMSNorm"}
        ids = torch.arange(8).reshape(1, 8)
        assert tiny()(input_ids=ids).logits.shape == (1, 2)  # on a CPU, its own rotary embedding
    finally:
        modeling_llama.apply_rotary_pos_emb = own


def test_a_kernel_that_was_not_put_in_place_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    liger = pytest.importorskip("liger_kernel.transformers")

    def apply(rms_norm: bool = True, model: Any = None) -> None:
        """As for a model whose norms Liger does not find."""

    monkeypatch.setattr(liger, "apply_liger_kernel_to_llama", apply)
    with pytest.raises(ModelError, match=r"rms_norm of llama was not replaced; give .*rms_norm: false"):
        fuse(tiny())


def test_a_kernel_that_computes_something_else_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    liger = pytest.importorskip("liger_kernel.transformers")

    class LigerRMSNorm(nn.Module):
        """Forgets its weight, which is not 1."""

        __module__ = "liger_kernel.wrong"

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return states * states.square().mean(-1, keepdim=True).rsqrt()

    LigerRMSNorm.forward.__module__, LigerRMSNorm.forward.__qualname__ = "liger_kernel.wrong", "LigerRMSNorm.forward"

    def apply(rms_norm: bool = True, model: Any = None) -> None:
        model.norm.forward = LigerRMSNorm.forward.__get__(model.norm)

    monkeypatch.setattr(liger, "apply_liger_kernel_to_llama", apply)
    monkeypatch.setattr(fused, "DEVICES", ("cpu",))
    model = tiny()
    nn.init.normal_(model.model.norm.weight)
    with pytest.raises(ModelError, match="its kernels change the states of a probe by"):
        fuse(model)


# --- Equal ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "adapter"), [("llama", "none"), ("qwen3", "none"), ("qwen3", "adapter"), ("gemma3_text", "none")]
)
def test_rewards_and_gradients_are_those_of_the_models_own_code(family: str, adapter: str) -> None:
    """Prompts shared and not, all weights and an adapter, in float32; the last layer stays narrowed."""
    pytest.importorskip("liger_kernel")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    command = [sys.executable, str(TESTS / "fused_job.py"), family, adapter]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    mlp, norms = {"llama": ("LigerSwiGLUMLP", 5), "qwen3": ("LigerSwiGLUMLP", 9), "gemma3_text": ("LigerGEGLUMLP", 13)}[
        family
    ]
    assert {f"2 {mlp}", f"{norms} LigerRMSNorm", "rotary embedding"} == set(said["words"].split(", "))
    for encoding in ("auto", "separate"):
        rewards, gradients = said[encoding]
        assert rewards <= FLOAT32 and gradients <= FLOAT32, (encoding, rewards, gradients)
    assert said["rotary"] > 0
    assert said["narrow"] == "rmx.engine.last" and said["detached"].startswith("liger_kernel.")
    assert not any(name.startswith("Liger") for name in said["new"])


@pytest.mark.slow
def test_divided_weights_run_the_same_kernels(tmp_path: Path) -> None:
    """Two processes with a part of every weight each; a gathered layer hands its whole weights to the kernels."""
    pytest.importorskip("liger_kernel")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, str(TESTS / "fused_job.py"), "divided", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    rewards, gradients = json.loads(done.stdout.splitlines()[-1])
    assert rewards <= FLOAT32 and gradients <= FLOAT32
