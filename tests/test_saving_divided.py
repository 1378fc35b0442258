"""The artefact of divided weights: the folder that one process would save, in the memory that a process has.

A second folder is saved in the same run from a whole model, and compared byte by byte.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_base

from rmx.errors import ModelError
from rmx.training.sharded import ShardedWeights

TESTS = Path(__file__).parent
HEAD_BYTES = 4 * 128  # of the embedded model, the widest here: fetched once more, for its name in the contract


def saved(folder: Path, strategy: str, processes: int, /, **changes: Any) -> list[dict[str, Any]]:
    """Train two steps, and return what each process found out while it saved."""
    job = [str(TESTS / "saving_job.py"), str(folder), strategy, json.dumps({"max_steps": 2, **changes})]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}
    environment["GLOO_SOCKET_IFNAME"] = "lo"
    done = subprocess.run([*launch, *job], env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    return [json.loads((folder / f"saving-{rank}.json").read_text()) for rank in range(processes)]


def files(folder: Path) -> dict[str, bytes]:
    """Every file but the card, which is written at the end of the run."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "README.md"
    }


def assert_as_one_process(
    run: Path, found: list[dict[str, Any]], *, lora: bool = False, kind: str | None = None, **others: Any
) -> None:
    """The same bytes; a tensor at a time; the check held parts, beside no optimizer and no gradient."""
    here, there = files(run / "model"), files(run / "model-whole")
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []
    for process in found:
        assert process["gathers"] > 3
        # On a CPU, the first process has the gathered tensor itself, the others let go of it at once; the head's is
        # hashed beside, and an adapter is held while its base is written.
        adapter = found[0]["trained_bytes"] if lora else 0
        assert process["most_bytes"] <= found[0]["largest_bytes"] + adapter + HEAD_BYTES
        assert process["checked_in_parts"] and process["checked_parts"] > 0
        assert process["optimizers"] == process["gradients"] == 0
        if kind != "pissa":  # whose saved adapter is twice as large, on another base
            assert 0 < process["checked_bytes"] == process["trained_parts_bytes"]


@pytest.mark.parametrize(
    ("strategy", "processes", "changes"),
    [("fsdp", 2, {"shard_size": "50KB"}),
     *(pytest.param(*cell, marks=pytest.mark.slow) for cell in (
         ("fsdp", 2, {}), ("hsdp", 4, {}), ("tp", 2, {}), ("tp", 2, {"shard_size": "50KB"}), ("fsdp_tp", 4, {}),
         ("offload", 2, {"shard_size": "50KB"}), ("fsdp", 4, {}), ("fsdp", 2, {"lora": True}),
         ("hsdp", 4, {"lora": True}), ("fsdp", 2, {"lora": True, "kind": "dora"})))],
    ids=str,
)  # fmt: skip
def test_the_folder_is_that_of_a_whole_model(
    strategy: str, processes: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    """The embedded model, whose base is saved below an adapter."""
    found = saved(tmp_path / "run", strategy, processes, **changes)
    assert_as_one_process(tmp_path / "run", found, **changes)
    indices = list((tmp_path / "run" / "model").rglob("model.safetensors.index.json"))
    assert len(indices) == ("shard_size" in changes)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "changes", [{}, {"lora": True}, {"lora": True, "kind": "pissa"}, {"lora": True, "kind": "rslora"}], ids=str
)
def test_of_a_checkpoint(changes: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    """An adapter is gathered with its head, and nothing of its base is."""
    base = str(save_base("llama", tmp_path, dtype=dtype))
    found = saved(tmp_path / "run", "fsdp", 2, path=base, **changes)
    assert_as_one_process(tmp_path / "run", found, **changes)
    if changes:
        assert found[0]["gathered_bytes"] <= found[0]["trained_bytes"] + HEAD_BYTES


@pytest.mark.slow
def test_what_cannot_be_read_in_parts_is_checked_by_the_first_process(tmp_path: Path) -> None:
    """An encoder: saved one tensor at a time as well, and said to be loaded whole."""
    base = str(save_base("bert", tmp_path))
    found = saved(tmp_path / "run", "fsdp", 2, path=base, template="plain")
    assert files(tmp_path / "run" / "model") == files(tmp_path / "run" / "model-whole")
    assert found[0]["most_bytes"] <= found[0]["largest_bytes"]
    assert found[0]["checked_in_parts"] is False and "checked_in_parts" not in found[1]
    assert "loads the whole of" in (log := (tmp_path / "run" / "run.log").read_text())
    assert "it is an encoder" in log and "loaded afresh it scores" in log


def test_a_model_that_was_not_divided_is_not_placed() -> None:
    strategy = object.__new__(ShardedWeights)
    strategy.skeleton = None
    with pytest.raises(ModelError, match="the model was not divided among the processes before training"):
        strategy.place(torch.nn.Linear(2, 2), lambda: None)
