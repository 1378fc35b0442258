"""Who started this process: the variables that each launcher sets, as its documentation lists them."""

from __future__ import annotations

from typing import Any

import pytest

from rmx.errors import ConfigError
from rmx.launch import Origin, adopt, origin_of

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a1",
    "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "41", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "gpu[3,9]", "SLURM_STEP_NODELIST": "gpu[3,9]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}  # fmt: skip
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": "66301953",
}  # fmt: skip
BATCH_SCRIPT = {"SLURM_JOB_ID": "41", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Origin("alone")),
        ({"WORLD_SIZE": "1"}, Origin("alone")),
        (TORCHRUN, Origin("torchrun", 3, 4, 1, 2, "a1", 29500)),
        (TORCHRUN | {"ACCELERATE_MIXED_PRECISION": "no"}, Origin("accelerate", 3, 4, 1, 2, "a1", 29500)),
        (TORCHRUN | {"RMX_RANKS_STORE": "127.0.0.1:5"}, Origin("rmx", 3, 4, 1, 2, "a1", 29500)),
        (SRUN, Origin("srun", 2, 4, 0, 2, "gpu3", 20043)),  # port: 20000 + job 41 + step 2
        (SRUN | {"MASTER_ADDR": "x", "MASTER_PORT": "7"}, Origin("srun", 2, 4, 0, 2, "x", 7)),
        (SRUN | TORCHRUN, Origin("torchrun", 3, 4, 1, 2, "a1", 29500)),  # torchrun inside a task of srun
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Origin("alone")),  # one task, as submitit starts it
        (BATCH_SCRIPT, Origin("alone")),
        (MPIRUN, Origin("mpirun", 1, 2, 1, 2, "127.0.0.1", 21953)),  # 20000 + 66301953 mod 20000
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, Origin("alone")),  # accelerate launch --num_processes 1
    ],
)
def test_the_table(environ: dict[str, str], expected: Origin) -> None:
    assert origin_of(environ) == expected


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 .* RANK does not say"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "not MASTER_PORT:"),
        ({"RANK": "one", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK='one' is not a whole"),
        (TORCHRUN | {"RANK": "4"}, "torchrun: rank 4 is not one of 4"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "two"}, "SLURM_STEP_TASKS_PER_NODE='two'"),
        ({k: v for k, v in SRUN.items() if k != "SLURM_LOCALID"}, "SLURM_LOCALID is not set"),
        (MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "mpirun -x MASTER_ADDR="),
    ],
)
def test_what_does_not_fit_together_is_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        origin_of(environ)


def test_adopting_writes_torchs_variables_and_is_stable() -> None:
    environ: dict[str, str] = dict(SRUN)
    first = adopt(environ)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [environ[name] for name in names] == ["2", "4", "0", "2", "gpu3", "20043"]
    again: Any = adopt(environ)
    assert (again.rank, again.ranks, again.address, again.port) == (
        first.rank, first.ranks, first.address, first.port,
    )  # fmt: skip


def test_a_process_that_is_alone_gets_no_variables() -> None:
    environ: dict[str, str] = {}
    assert adopt(environ).launcher == "alone"
    assert environ == {}


def test_sharding_that_accelerate_was_configured_for_is_refused_with_the_remedy() -> None:
    """accelerate launch passes it on in the environment, where rmx would not act on it."""
    with pytest.raises(ConfigError, match=r"asks for FSDP.* use parallel=fsdp"):
        adopt(TORCHRUN | {"ACCELERATE_USE_FSDP": "true"})
