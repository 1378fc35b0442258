"""One run per folder: two that write into the same one would take each other's checkpoints away."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from rmx.errors import OutputError
from rmx.run.folder import remove_unfinished

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderLock"]


class FolderLock:
    """Holds a run folder for this process; the system lets it go when the process ends, however it ends.

    What a killed run left unfinished in it is removed.

    Raises:
        OutputError: another process writes into the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        if fcntl is None:
            return
        # Record locks, since data workers inherit the other kind and may outlive a killed run by a moment.
        self._descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise OutputError(
                    f"output_dir: another process is running in {folder}; wait for its end, or choose another folder"
                ) from error
            # else: a file system without locks
        remove_unfinished(folder)

    def release(self) -> None:
        """Let the folder go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
