"""Room on the disk, and what to say when it refuses a write."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from rmx.errors import OutputError

__all__ = ["readable_bytes", "require_room", "writing"]

_SAFETY_BYTES = 16 << 20  # for the small files, and for what else the run writes until the next save
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK_ERRORS = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


def readable_bytes(count: float) -> str:
    """Write a number of bytes.

    >>> readable_bytes(300_000_000), readable_bytes(812)
    ('300.0 MB', '812 bytes')
    """
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def require_room(path: Path, needed_bytes: int) -> None:
    """Refuse to start a write that cannot end well.

    Raises:
        OutputError: less room than `needed_bytes` and a reserve.
    """
    free = free_bytes(path)
    if free < needed_bytes + _SAFETY_BYTES:
        raise OutputError(_no_room(path, needed_bytes, "not enough room"))


def free_bytes(path: Path) -> int:
    """Return the bytes that this user can still write where `path` stands."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _no_room(path: Path, needed_bytes: int | None, why: str) -> str:
    free = readable_bytes(free_bytes(path))
    needed = "" if needed_bytes is None else f"it needs {readable_bytes(needed_bytes)} and "
    return (
        f"{path}: cannot be written ({why}): {needed}{free} are free. "
        "What was saved before is untouched; free space, or lower trainer.save_total_limit, and run again"
    )


@contextlib.contextmanager
def writing(path: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn a disk's refusal, from Python or from native code, into one line.

    Raises:
        OutputError: the disk is full, over quota, read-only or gone.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise OutputError(_no_room(path, needed_bytes, os.strerror(error.errno or 0))) from error
    except Exception as error:
        # Libraries written in Rust (safetensors, tokenizers) have exceptions of their own for what the system said.
        if match := re.search(r"\(os error (\d+)\)", str(error)):
            raise OutputError(_no_room(path, needed_bytes, os.strerror(int(match[1])))) from error
        raise
