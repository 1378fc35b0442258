"""Who started this process: one table from the variables of each launcher to rank, ranks, node and meeting point.

    python -m rmx                       alone
    rmx ... parallel.processes=2        rmx itself, through torch's elastic launcher
    torchrun ..., accelerate launch     RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT
    srun python -m rmx                  SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID, SLURM_STEP_NODELIST
    mpirun python -m rmx                OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE, OMPI_COMM_WORLD_LOCAL_RANK

`adopt` writes what it found as the variables of torch, so that everything after it reads one set of names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass

from rmx.errors import ConfigError

__all__ = ["PARENT_VARIABLE", "RANK_VARIABLE", "STORE_VARIABLE", "Origin", "adopt", "origin_of"]

STORE_VARIABLE = "RMX_RANKS_STORE"  # host:port of the store in the process that started the ranks, if that is rmx
PARENT_VARIABLE = "RMX_RANKS_PARENT"  # its process id
RANK_VARIABLE = "RMX_IS_RANK"  # set in a rank that a cluster runs, also in one that is alone: it starts no others
_PORTS = range(20_000, 40_000)  # below the ports that Linux gives to outgoing connections


@dataclass(frozen=True)
class Origin:
    """A process among its ranks.

    Args:
        launcher: who started it: alone, rmx, torchrun, accelerate, srun, mpirun, or hand.
        rank: its number among all processes, from 0.
        ranks: how many processes there are.
        local_rank: its number on this machine; the GPU it takes.
        local_ranks: how many processes this machine has.
        address: host of rank 0, or of the launcher's store.
        port: where the ranks meet there.
    """

    launcher: str
    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1
    address: str = ""
    port: int = 0


def origin_of(environ: Mapping[str, str]) -> Origin:
    """Return who started the process with these variables.

    Raises:
        ConfigError: a variable is missing, is not a number, or does not fit the others.

    >>> origin_of({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
    ...            "SLURM_NODEID": "1", "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "gpu[07-08]",
    ...            "SLURM_STEP_TASKS_PER_NODE": "2(x2)"})
    Origin(launcher='srun', rank=3, ranks=4, local_rank=1, local_ranks=2, address='gpu07', port=20077)
    >>> origin_of({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}).launcher  # the batch script itself, not a task of srun
    'alone'
    """
    for names, read in _TABLE:
        if all(environ.get(name) for name in names):
            found = read(environ)
            if found.ranks > 1 or found.launcher in ("rmx", "torchrun", "accelerate"):
                return _sound(found)
    if _number(environ, "WORLD_SIZE", 1) > 1:  # without RANK
        raise ConfigError(
            f"WORLD_SIZE={environ['WORLD_SIZE']} says that there are several processes, and RANK does not say which "
            "one this is; start all of them with torchrun, or unset WORLD_SIZE"
        )
    return Origin("alone")


def _sound(found: Origin) -> Origin:
    if not 0 <= found.rank < found.ranks:
        raise ConfigError(f"{found.launcher}: rank {found.rank} is not one of {found.ranks} processes")
    return found


def _by_torch(environ: Mapping[str, str]) -> Origin:
    """torchrun, accelerate and rmx itself write the same names; by hand, some may be missing."""
    launcher = "hand"
    if environ.get("TORCHELASTIC_RUN_ID"):
        started_by_accelerate = "ACCELERATE_MIXED_PRECISION" in environ and STORE_VARIABLE not in environ
        launcher = "accelerate" if started_by_accelerate else "torchrun"
    if environ.get(STORE_VARIABLE):
        launcher = "rmx"
    ranks = _number(environ, "WORLD_SIZE")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environ.get(name)] if ranks > 1 else []
    if missing:
        raise ConfigError(
            f"RANK={environ['RANK']} and WORLD_SIZE={ranks} are set, but not {' and '.join(missing)}: host and port "
            "of rank 0; set them, or start rmx with torchrun"
        )
    return Origin(
        launcher,
        _number(environ, "RANK"),
        ranks,
        _number(environ, "LOCAL_RANK", 0),
        _number(environ, "LOCAL_WORLD_SIZE", 1 if ranks == 1 else ranks),
        environ.get("MASTER_ADDR", ""),
        _number(environ, "MASTER_PORT", 0),
    )


def _by_slurm(environ: Mapping[str, str]) -> Origin:
    """A task of srun. In the batch script itself SLURM_PROCID is 0 too, but there is no step."""
    per_node = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    node, job = _number(environ, "SLURM_NODEID", 0), _number(environ, "SLURM_JOB_ID", 0)
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    return Origin(
        "srun",
        _number(environ, "SLURM_PROCID"),
        _number(environ, "SLURM_STEP_NUM_TASKS"),
        _number(environ, "SLURM_LOCALID"),
        per_node[min(node, len(per_node) - 1)],
        environ.get("MASTER_ADDR") or first_host(hosts),
        _number(environ, "MASTER_PORT", _port_of(job + _number(environ, "SLURM_STEP_ID", 0))),
    )


def _by_mpi(environ: Mapping[str, str]) -> Origin:
    """Open MPI does not say where rank 0 runs; on one machine that is here."""
    ranks, local = _number(environ, "OMPI_COMM_WORLD_SIZE"), _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE")
    address = environ.get("MASTER_ADDR") or ("127.0.0.1" if local == ranks else "")
    if not address:
        raise ConfigError(
            f"mpirun started {ranks} processes on several machines and does not say where rank 0 runs; pass it on: "
            "mpirun -x MASTER_ADDR=<host of rank 0> -x MASTER_PORT=<a free port there> ..."
        )
    job = re.sub(r"\D", "", environ.get("PMIX_NAMESPACE", "") or environ.get("OMPI_MCA_ess_base_jobid", "")) or "0"
    return Origin(
        "mpirun",
        _number(environ, "OMPI_COMM_WORLD_RANK"),
        ranks,
        _number(environ, "OMPI_COMM_WORLD_LOCAL_RANK"),
        local,
        address,
        _number(environ, "MASTER_PORT", _port_of(int(job))),
    )


# What has to be set, and who reads it. The first that fits is meant: torchrun may itself run inside a task of srun.
_TABLE: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, str]], Origin]], ...] = (
    (("RANK", "WORLD_SIZE"), _by_torch),
    (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), _by_mpi),
    (("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"), _by_slurm),
)


def adopt(environ: MutableMapping[str, str] | None = None) -> Origin:
    """Find out who started this process and write that as RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, ...

    Called again it finds what it wrote. Settings that a launcher passes on and that rmx does not act on are refused.

    Raises:
        ConfigError: the variables do not fit together, or accelerate was told to shard the model.

    >>> variables = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    ...              "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": "2081423361"}
    >>> adopt(variables).launcher, variables["RANK"], variables["MASTER_PORT"]
    ('mpirun', '1', '23361')
    """
    environ = os.environ if environ is None else environ
    found = origin_of(environ)
    for variable, instead in _NOT_PASSED_ON.items():
        if environ.get(variable, "").lower() in ("1", "true", "yes"):
            raise ConfigError(
                f"accelerate launch: its configuration asks for {variable.removeprefix('ACCELERATE_USE_')}, which rmx "
                f"does not take from there; use {instead}, and accelerate launch --multi_gpu"
            )
    if found.ranks > 1:
        environ.update({
            "RANK": str(found.rank),
            "WORLD_SIZE": str(found.ranks),
            "LOCAL_RANK": str(found.local_rank),
            "LOCAL_WORLD_SIZE": str(found.local_ranks),
            "MASTER_ADDR": found.address,
            "MASTER_PORT": str(found.port),
        })  # fmt: skip
    return found


_NOT_PASSED_ON = {
    "ACCELERATE_USE_FSDP": "parallel=fsdp",
    "ACCELERATE_USE_DEEPSPEED": "parallel=fsdp",
    "ACCELERATE_USE_MEGATRON_LM": "parallel=tp",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallel=fsdp",
}


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list.

    >>> first_host("gpu[07-08,11],login1"), first_host("a1"), first_host("rack2-n[3,5].site")
    ('gpu07', 'a1', 'rack2-n3.site')
    """
    host = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).partition(",")[0]
    if not host:
        raise ConfigError("srun: SLURM_STEP_NODELIST is empty; set MASTER_ADDR to the host of rank 0")
    return host


def _tasks_per_node(text: str) -> list[int]:
    """Read Slurm's short form.

    >>> _tasks_per_node("4(x2),1")
    [4, 4, 1]
    """
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if found is None:
            raise ConfigError(f"srun: SLURM_STEP_TASKS_PER_NODE={text!r} cannot be read; it looks like 8(x2),4")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def _port_of(job: int) -> int:
    """A port that all tasks of a job agree on without talking."""
    return _PORTS[job % len(_PORTS)]


def _number(environ: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = environ.get(name)
    if not text and otherwise is not None:
        return otherwise
    if not text:
        raise ConfigError(f"{name} is not set, though its launcher sets it; start rmx with torchrun, or set it")
    if not text.strip().isdigit():
        raise ConfigError(f"{name}={text!r} is not a whole number")
    return int(text)
