"""A Slurm of several nodes on one machine: slurmctld and a slurmd on each of `machines`, all with one munge key.

Nothing of a Slurm that is installed here is used besides its programs: configuration, key, spools and logs lie in one
folder, which is removed.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import machines
from machines import Machine, Network

__all__ = ["Slurm", "cluster", "why_not"]

NODE_IS_DOWN_AFTER_SECONDS = 10
_CONFIGURATION = """
ClusterName=several
SlurmctldHost=control(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout={down}
KillWait=10
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Return why no cluster can be made here; None where it can."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if missing := [
        tool for tool in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(tool, path=path) is None
    ]:
        return f"{', '.join(missing)} not installed (packages slurm-wlm and munge)"
    return machines.why_not()


@dataclass
class Slurm:
    """A cluster that runs.

    Args:
        network: its machines: `control`, where slurmctld runs and jobs are submitted, and the nodes.
        folder: its configuration and logs.
    """

    network: Network
    folder: Path

    @property
    def control(self) -> Machine:
        return self.network.machines["control"]

    def variables(self) -> dict[str, str]:
        """What a user of this cluster has to have in the environment besides PATH."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}

    def ask(self, *command: str, check: bool = True) -> str:
        """Run a command of Slurm's where jobs are submitted, and return what it prints."""
        environment = {**os.environ, **self.variables()}
        return self.control.run(*command, check=check, env=environment).stdout

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node, with the munged that it asks."""
        machine = self.network.machines[name]
        environment = {**os.environ, **self.variables()}
        machine.run("slurmd", env=environment)

    def state(self, job: str) -> str:
        """Return the job's state: PENDING, RUNNING, COMPLETED, ..."""
        return self.ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T", check=False).strip()

    def detail(self, job: str, key: str) -> str:
        """Return a value of `scontrol show job`."""
        (found,) = re.findall(rf"\b{key}=(\S*)", self.ask("scontrol", "show", "job", job))
        return found  # type: ignore[no-any-return]

    def until(self, job: str, states: Sequence[str], seconds: float) -> str:
        """Wait until the job is in one of these states, and return it."""
        end = time.monotonic() + seconds
        while (state := self.state(job)) not in states:
            assert time.monotonic() < end, f"job {job} is {state}, and not {', '.join(states)}: {self.logs()}"
            time.sleep(0.5)
        return state

    def until_nodes(self, state: str, *names: str, seconds: float = 60) -> None:
        """Wait until nodes are in a state: idle, down, ..."""
        end = time.monotonic() + seconds
        command = ["sinfo", "--noheader", "--Node", f"--nodes={','.join(names)}", "--format=%T"]
        while set(found := self.ask(*command).split()) != {state}:
            assert time.monotonic() < end, f"nodes {names} are {found}, and not {state}: {self.logs()}"
            time.sleep(0.5)

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"{log}\n{log.read_text()[-1500:]}" for log in sorted(self.folder.glob("*.log")))


@contextmanager
def cluster(nodes: int, cpus: int = 1) -> Iterator[Slurm]:
    """A Slurm with so many idle nodes, `node1` and up."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a munge socket's path has to be short
    names = [f"node{number}" for number in range(1, nodes + 1)]
    try:
        with machines.joined(folder, "control", *names) as network:
            slurm = Slurm(network, folder)
            lines = [f"NodeName={name} NodeAddr={network.machines[name].address} CPUs={cpus}" for name in names]
            text = _CONFIGURATION.format(folder=folder, down=NODE_IS_DOWN_AFTER_SECONDS)
            (folder / "slurm.conf").write_text(text + "\n".join(lines) + "\n")
            (folder / "state").mkdir()
            _start_munge(slurm)
            slurm.control.run("slurmctld", env={**os.environ, **slurm.variables()})
            for name in names:
                slurm.start_node(name)
            slurm.until_nodes("idle", *names)
            yield slurm
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start_munge(slurm: Slurm) -> None:
    """One munged for all: its socket lies in the file system that all machines share."""
    key = slurm.folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    own = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munged.seed"}
    own |= {"log-file": "munged.log"}
    options = [f"--{option}={slurm.folder / file}" for option, file in own.items()]
    slurm.control.run("munged", "--force", *options, env={**os.environ, **slurm.variables()})
