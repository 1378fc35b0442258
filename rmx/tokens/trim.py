"""The cache of encoded sets has a limit: what was not used for longest goes first, what may be in use stays."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from rmx.errors import ConfigError
from rmx.files import readable_bytes, remove_folder

__all__ = ["cache_limit_bytes", "mark_used", "trim"]

log = logging.getLogger(__name__)

LIMIT_GB = 50.0
IN_USE_SECONDS = 24 * 3600  # a set that was opened since then may be mapped by a run, whose workers open it again


def cache_limit_bytes() -> float:
    """Return what the encoded sets may take in all: `$RMX_CACHE_GB`, else 50 GB.

    Raises:
        ConfigError: it is no number from 0 up.
    """
    given = os.environ.get("RMX_CACHE_GB", str(LIMIT_GB))
    try:
        limit = float(given)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise ConfigError(f"RMX_CACHE_GB={given!r}: give gigabytes, 0 or more; RMX_CACHE=off keeps nothing at all")
    return limit * 1e9


def mark_used(folder: Path) -> None:
    """Note that a set was opened now."""
    try:
        os.utime(folder)
    except OSError as error:  # a cache that is shared read-only
        log.debug("%s cannot be marked as used: %s", folder, error)


def trim(folder: Path, limit_bytes: float, now: float | None = None) -> list[Path]:
    """Remove sets until the rest fit, the longest unused first, none that was opened in the last 24 hours.

    Args:
        folder: holds the sets, a folder each.
        limit_bytes: of all of them.
        now: seconds since the epoch.

    Returns:
        The sets that were removed.
    """
    now = time.time() if now is None else now
    sets = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    sizes = {entry: sum(file.stat().st_size for file in entry.iterdir()) for entry in sets}
    used = {entry: entry.stat().st_mtime for entry in sets}
    total, removed = sum(sizes.values()), []
    for entry in sorted(sets, key=used.__getitem__):
        if total <= limit_bytes or now - used[entry] < IN_USE_SECONDS:
            break
        remove_folder(entry)
        entry.with_name(f"{entry.name}.lock").unlink(missing_ok=True)
        total -= sizes[entry]
        removed.append(entry)
    if removed:
        log.info(
            "%s: removed %d encoded sets that were not used for longest (RMX_CACHE_GB=%g; %s are left)",
            folder,
            len(removed),
            limit_bytes / 1e9,
            readable_bytes(total),
        )
    return removed
