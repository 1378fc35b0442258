"""launch=ray: rmx starts its ranks as actors of a Ray cluster, placed together, and waits for them.

Ray gives each rank its GPU and CPU cores; the ranks meet by themselves, at the machine of the first one.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmx.errors import ConfigError, Interrupted, counted
from rmx.launch.began import BEGAN_VARIABLE
from rmx.launch.rank_command import RankCommand, RankEnd, RanksEnded, raise_end_of
from rmx.values import AtLeastZero, Count, Whole, refuse_wrong_fields

__all__ = ["RayRanks"]


class _Rank:
    """An actor: one rank's place in the cluster, and its process there."""

    def __init__(self, command: RankCommand) -> None:
        self.command = command

    def place(self) -> tuple[str, int]:
        """Return the address of this machine and a free port on it."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return str(ray.util.get_node_ip_address()), int(probe.getsockname()[1])

    def run(self, variables: Mapping[str, str]) -> RankEnd:
        """Run the rank to its end."""
        return self.command(variables)

    def stop(self) -> None:
        """Ask it to save and end."""
        self.command.stop()


@dataclass(frozen=True)
class RayRanks:
    """Ranks as actors of Ray; `parallel.processes` says how many, auto one for each GPU of the cluster.

    Args:
        address: of the cluster, such as auto or ray://host:10001; null starts one on this machine for the run.
        cpus_per_process: CPU cores of each process.
        gpus_per_process: 1, or 0 to train on CPUs.
        wait_minutes: how long to wait for the cluster to have room for all processes at once.
        grace_seconds: time for a checkpoint when the run is stopped.

    >>> RayRanks(gpus_per_process=0).processes(4)
    4
    """

    address: str | None = None
    cpus_per_process: Count = 1
    gpus_per_process: Whole = 1
    wait_minutes: AtLeastZero = 30.0
    grace_seconds: AtLeastZero = 60.0

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "launch")

    def processes(self, asked: int | str | None) -> int:
        """Return how many ranks `parallel.processes` means.

        Raises:
            ConfigError: auto, and there is no GPU to count.
        """
        if asked != "auto":
            return 1 if asked is None else int(asked)
        if not self.gpus_per_process:
            raise ConfigError("parallel.processes=auto: counts GPUs, and launch.gpus_per_process is 0; give a number")
        gpus = int(self._connected().cluster_resources().get("GPU", 0))
        if gpus < self.gpus_per_process:
            raise ConfigError(
                "parallel.processes=auto: the Ray cluster has no GPU; give a number and launch.gpus_per_process=0"
            )
        return gpus // self.gpus_per_process

    def starts(self, processes: int) -> bool:
        """Whether ranks are started elsewhere: always."""
        return True

    def start(self, words: Sequence[str], processes: int) -> None:
        """Run `python -m rmx WORDS` in so many actors and wait for their end.

        Raises:
            ConfigError: the cluster has no room for them in `wait_minutes`.
            RanksEnded: a rank has ended without success.
            Interrupted: Ctrl-C, before a rank was at work.
        """
        ray = self._connected()
        began = time.time()
        group = self._room(ray, processes)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the ranks save first
        try:
            ranks = self._ranks(ray, group, RankCommand(words, os.getcwd()), processes)
            places = ray.get([rank.place.remote() for rank in ranks])
            running = [
                rank.run.remote(variables) for rank, variables in zip(ranks, _variables(places, began), strict=True)
            ]
            self._wait(ray, ranks, running)
        except KeyboardInterrupt:
            raise Interrupted(signal.SIGINT) from None
        finally:
            signal.signal(signal.SIGTERM, before)
            ray.util.remove_placement_group(group)
            ray.shutdown()

    def _connected(self) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise ConfigError("launch=ray needs ray: pip install 'rmx[ray]'") from error
        if not ray.is_initialized():
            options: dict[str, Any] = {} if self.address else {"include_dashboard": False}
            try:
                ray.init(address=self.address, **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigError(f"launch.address: {self.address}: Ray cannot be reached: {error}") from error
        return ray

    def _room(self, ray: Any, processes: int) -> Any:
        """Reserve the room of all ranks at once: half of them would wait for the others for ever."""
        bundle = {"CPU": self.cpus_per_process} | ({"GPU": self.gpus_per_process} if self.gpus_per_process else {})
        group = ray.util.placement_group([bundle] * processes, strategy="PACK")
        minutes = self.wait_minutes if self.address else 0.1  # a cluster of this machine alone does not grow
        if group.wait(60 * minutes):
            return group
        has = {name: ray.cluster_resources().get(name, 0) for name in bundle}
        ray.util.remove_placement_group(group)
        ray.shutdown()
        raise ConfigError(
            f"launch=ray: {counted(processes, 'process', 'processes')} of {bundle} did not find room in "
            f"{minutes:g} minutes; the cluster has {has} in all; give fewer "
            "parallel.processes, other launch.gpus_per_process or "
            "launch.cpus_per_process, or with launch.address a larger launch.wait_minutes"
        )

    def _ranks(self, ray: Any, group: Any, command: RankCommand, processes: int) -> list[Any]:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        actor = ray.remote(_Rank)
        return [
            actor.options(
                num_cpus=self.cpus_per_process,
                num_gpus=self.gpus_per_process,
                max_concurrency=2,  # a rank at work can be asked to stop
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
            ).remote(command)
            for index in range(processes)
        ]

    def _wait(self, ray: Any, ranks: list[Any], running: list[Any]) -> None:
        try:
            ends = ray.get(running)
        except KeyboardInterrupt:
            sys.stderr.write("rmx: stopping the ranks after their checkpoint\n")
            ray.get([rank.stop.remote() for rank in ranks])
            ray.wait(running, num_returns=len(running), timeout=self.grace_seconds)
            raise
        except ray.exceptions.RayError as error:
            raise RanksEnded(
                f"launch=ray: a rank's machine or actor was lost ({type(error).__name__}); the same command in this "
                "folder continues from the last checkpoint",
                1,
                by_accident=True,
            ) from error
        raise_end_of(ends)


def _variables(places: Sequence[tuple[str, int]], began: float) -> list[dict[str, str]]:
    """Return the variables of each rank, from the address and free port of each.

    >>> rows = _variables([("10.0.0.1", 4001), ("10.0.0.2", 4002), ("10.0.0.1", 4003)], 5.0)
    >>> [(row["RANK"], row["LOCAL_RANK"], row["LOCAL_WORLD_SIZE"], row["MASTER_PORT"]) for row in rows]
    [('0', '0', '2', '4001'), ('1', '0', '1', '4001'), ('2', '1', '2', '4001')]
    """
    on, seen = Counter(host for host, _ in places), Counter[str]()
    address, port = places[0]
    rows = []
    for rank, (host, _) in enumerate(places):
        values = {
            "RANK": rank,
            "WORLD_SIZE": len(places),
            "LOCAL_RANK": seen[host],
            "LOCAL_WORLD_SIZE": on[host],
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
            BEGAN_VARIABLE: began,
        }
        rows.append({name: str(value) for name, value in values.items()})
        seen[host] += 1
    return rows
