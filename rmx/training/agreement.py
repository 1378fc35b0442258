"""Whether all ranks were given the same run: the same configuration, and the same rows in the same order.

Ranks that read other files would each take their own share of other steps, and nothing would fail.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
import yaml

from rmx.errors import ConfigError, DataError
from rmx.training.drift import differences, environment_facts

__all__ = ["refuse_other_runs"]

log = logging.getLogger(__name__)


def refuse_other_runs(config: str | None, rows: Mapping[str, Any], device: Any) -> None:
    """Compare configuration, rows and versions over all ranks; a process that is alone has nobody to differ from.

    Args:
        config: the resolved configuration as YAML text, where there is one.
        rows: number and fingerprint of each set's rows.
        device: where the model of this rank runs.

    Raises:
        ConfigError: two ranks were started with other values.
        DataError: two ranks have read other rows.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    versions = {name: value for name, value in environment_facts(device).items() if name != "threads"}
    mine = {"host": socket.gethostname(), "config": yaml.safe_load(config or "{}"), "rows": rows, "made with": versions}
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    first = everyone[0]
    for rank, other in enumerate(everyone):
        where = f"rank 0 on {first['host']} and rank {rank} on {other['host']}"
        if found := differences(first["config"], other["config"]):
            lines = [
                f"{key}: {old} in {where.split(' and ')[0]}, {new} in rank {rank}" for key, (old, new) in found.items()
            ]
            raise ConfigError("\n".join([*lines, "all ranks have to be started with the same values"][:9]))
        if first["rows"] != other["rows"]:
            raise DataError(_rows_differ(first["rows"], other["rows"], where))
        for key, (old, new) in differences(first["made with"], other["made with"]).items():
            if dist.get_rank() == 0:
                log.warning("%s: %s is %s there and %s here; results may differ", where, key, old, new)


def _rows_differ(first: Mapping[str, Any], other: Mapping[str, Any], where: str) -> str:
    """Name the first set that differs.

    >>> _rows_differ({"train": {"comparisons": 8, "content": "ab"}}, {"train": {"comparisons": 7, "content": "cd"}},
    ...              "rank 0 on a and rank 1 on b").partition(";")[0]
    'data: rank 0 on a and rank 1 on b have read other rows: train has 8 comparisons (ab) and 7 (cd)'
    """
    name = next(name for name in [*first, *other] if first.get(name) != other.get(name))
    one, two = ({"comparisons": 0, "content": "none", **rows.get(name, {})} for rows in (first, other))
    return (
        f"data: {where} have read other rows: {name} has {one['comparisons']} comparisons ({one['content'][:8]}) and "
        f"{two['comparisons']} ({two['content'][:8]}); give all nodes the same files, or a path that they share"
    )
