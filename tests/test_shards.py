"""Parts of tensors: written by several processes, read by fewer, more, or one; refused where they do not fit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rmx.checkpoints import CheckpointFolder, verify
from rmx.checkpoints.shards import has_shards, load_sharded_state, load_shards, shard_names
from rmx.errors import CheckpointError

TESTS = Path(__file__).parent
WHOLE = torch.arange(35.0).reshape(7, 5)  # 7 rows in 3 parts: 3, 3 and 1


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed checkpoint of three processes; a fourth of no rows would be one more."""
    parent = tmp_path_factory.mktemp("shards")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "GLOO_SOCKET_IFNAME": "lo"}
    command = [*launch, str(TESTS / "shards_job.py"), str(parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("process 2 does not see") == 3  # each of them is told of the folder that one cannot see
    return parent / "checkpoint-1"


def empty(name: str, size: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(size, dtype=dtype)


def test_one_process_reads_what_three_wrote(written: Path) -> None:
    assert verify(written).step == 1
    assert sorted(path.name[:11] for path in (written / "shards").iterdir()) == [f"shard-{n:05d}" for n in (1, 2, 3)]
    assert has_shards(written) and shard_names(written, "model.") == {"weight"}
    target = {"model.weight": torch.zeros_like(WHOLE)}
    load_shards(target, written)
    assert torch.equal(target["model.weight"], WHOLE)
    state = load_sharded_state(written, "optimizer", empty)
    assert torch.equal(state["state"][0]["exp_avg"], 2 * WHOLE)
    assert state["state"][0]["step"] == 3 and state["param_groups"] == [{"lr": 0.5, "params": [0]}]


@pytest.mark.parametrize(
    ("target", "text"),
    [({"model.weight": torch.zeros(7, 6)}, "Size mismatch"), ({"model.bias": torch.zeros(5)}, "Missing key")],
)
def test_what_does_not_fit_is_refused(target: dict[str, torch.Tensor], text: str, written: Path) -> None:
    with pytest.raises(CheckpointError, match=f"its parts do not fit this model: .*{text}"):
        load_shards(target, written)


@pytest.mark.parametrize("fault", ["missing", "flipped"])
def test_a_lost_or_damaged_part_is_noticed_and_the_checkpoint_before_is_used(
    fault: str, written: Path, tmp_path: Path
) -> None:
    folder = CheckpointFolder(tmp_path)
    shutil.copytree(written, folder.path(1))
    assert folder.newest_valid() is not None
    part = sorted((folder.path(1) / "shards").iterdir())[1]
    if fault == "missing":
        part.unlink()
    else:
        content = bytearray(part.read_bytes())
        content[-1] ^= 1
        part.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"shards/{part.name} is (missing|damaged)"):
        folder.newest_valid()
