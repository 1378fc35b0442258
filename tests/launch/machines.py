"""Several machines in one: Linux namespaces with a network, host name, processes and /etc/hosts of their own.

A machine is a process that does nothing, the number 1 of its namespaces. Commands are run inside with `nsenter`; when
the process is killed, so is everything in there, and nothing is left on the real machine: no interface, no mount. The
machines are joined by a bridge, on which every cable can be pulled. They share the file system, as nodes of a cluster
share one. Needs root, and `ip`, `unshare` and `nsenter`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Machine", "Network", "joined", "why_not"]

_NEW = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
# Number 1 of a machine ends with the tests, whose pipe it reads; the kernel reaps what it inherits: Slurm takes a
# process that nobody has reaped for one that still runs.
_INIT = "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('on', flush=True); sys.stdin.read()"


def why_not() -> str | None:
    """Return why no machines can be made here; None where they can."""
    if os.geteuid() != 0:
        return "namespaces of machines need root"
    if missing := [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]:
        return f"{', '.join(missing)} not installed (iproute2, util-linux)"
    tried = subprocess.run([*_NEW, "ip", "link", "add", "type", "veth"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


@dataclass
class Machine:
    """One of them.

    Args:
        name: its host name.
        address: its only address besides the loopback's.
        hosts: file that it has in place of /etc/hosts.
    """

    name: str
    address: str
    hosts: Path
    init: int = 0  # process that holds its namespaces, as the real machine numbers it

    def on(self) -> None:
        """Make the namespaces."""
        pipe = subprocess.PIPE
        self.holder = subprocess.Popen(
            [*_NEW, sys.executable, "-c", _INIT], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline(), self.holder.communicate()[1]
        (self.init,) = _children(self.holder.pid)
        self.run("mount", "--bind", str(self.hosts), "/etc/hosts")
        self.run("hostname", self.name)
        self.run("ip", "link", "set", "lo", "up")

    def off(self) -> None:
        """Kill everything at once. Connections of its processes are closed, unless the cable was pulled before."""
        if self.init:
            os.kill(self.init, signal.SIGKILL)
            self.holder.communicate()
            self.init = 0

    def inside(self, command: Sequence[str], folder: Path | str = "/") -> list[str]:
        """Return the command as it is run in a folder of this machine from the real one."""
        enter = ["nsenter", f"--target={self.init}", "--net", "--uts", "--mount", "--pid"]
        return [*enter, "env", f"--chdir={folder}", *command]

    def run(self, *command: str, folder: Path | str = "/", **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; it has to succeed, unless `check` says otherwise."""
        given = {"capture_output": True, "text": True, "check": True, **options}
        return subprocess.run(self.inside(command, folder), **given)  # type: ignore[no-any-return]

    def start(self, *command: str, folder: Path | str = "/", **options: Any) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(self.inside(command, folder), text=True, **options)

    def processes(self, words: str) -> list[int]:
        """The processes whose command line has these words, as the machine itself numbers them."""
        found = self.run("pgrep", "--full", words, check=False).stdout
        return [int(line) for line in found.split()]


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass
class Network:
    """A bridge, inside the first machine, and a cable from it to each of the others."""

    machines: Mapping[str, Machine]

    @property
    def first(self) -> Machine:
        return next(iter(self.machines.values()))

    def plug(self, machine: Machine) -> None:
        """Connect a machine that has just been switched on."""
        end = f"to-{machine.name}"
        self.first.run("ip", "link", "delete", end, check=False)  # of its last time on: the kernel may keep it a while
        made = ["link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", str(machine.init)]
        # From the real machine's process numbers, and therefore not with `run`
        enter = ["nsenter", f"--target={self.first.init}", "--net"]
        subprocess.run([*enter, "ip", *made], check=True, capture_output=True)
        self.first.run("ip", "link", "set", end, "master", "bridge", "up")
        machine.run("ip", "address", "add", f"{machine.address}/24", "dev", "eth0")
        machine.run("ip", "link", "set", "eth0", "up")

    def pull(self, machine: Machine) -> None:
        """Pull its cable: from now on nothing arrives from there, not even that a connection is closed."""
        self.first.run("ip", "link", "set", f"to-{machine.name}", "down")

    def restart(self, machine: Machine) -> None:
        """Switch a machine on that was off, on a new cable."""
        machine.on()
        self.plug(machine)


@contextmanager
def joined(folder: Path, *names: str) -> Iterator[Network]:
    """Machines with these names on one network, 10.77.0.1 and up; all are gone afterwards."""
    addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 1)}
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{where} {name}\n" for name, where in addresses.items()))
    network = Network({name: Machine(name, where, hosts) for name, where in addresses.items()})
    try:
        for machine in network.machines.values():
            machine.on()
        first = network.first
        first.run("ip", "link", "add", "bridge", "type", "bridge")
        first.run("ip", "address", "add", f"{first.address}/24", "dev", "bridge")
        first.run("ip", "link", "set", "bridge", "up")
        for machine in list(network.machines.values())[1:]:
            network.plug(machine)
        yield network
    finally:
        for machine in network.machines.values():
            machine.off()
