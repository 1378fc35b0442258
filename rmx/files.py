"""Files: written whole or not at all, durable, locked, and with room on the disk. Everyone who writes uses this.

write_text(path, text)         a file that holds the old content or the new, never half of it
write_lines(path, lines)       the same, line by line, for content larger than memory
write_bytes(path, content)     the same, of bytes
write_json(path, value)        JSON that is valid everywhere
new_folder(final)              the same for a folder
FolderLock(folder)             one process at a time
require_room, writing          what to say before, and when, the disk refuses
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rmx.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "FolderLock",
    "fsync_folder",
    "new_folder",
    "readable_bytes",
    "remove_folder",
    "remove_unfinished",
    "require_room",
    "write_bytes",
    "write_json",
    "write_lines",
    "write_text",
    "writing",
]

_UNFINISHED = ".unfinished"  # ends the name of a file or folder that is being written
_REPLACED = ".replaced"  # ends the name of a folder that is moved aside while the new one takes its name
_SAFETY_BYTES = 16 << 20  # for the small files, and for what else the run writes until the next save
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK_ERRORS = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


# --- Files, whole -----------------------------------------------------------------------------------------------------


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Write lines into a temporary file beside `path`, and rename it over `path` once it has reached the disk.

    Raises:
        OutputError: the file cannot be written; what stood there before is untouched.
    """
    return write_text(path, (line + "\n" for line in lines))


def write_text(path: Path, text: str | Iterable[str]) -> Path:
    """Write a text, or its parts one after the other, so that a reader or a crash sees all of it or none.

    Raises:
        OutputError: the file cannot be written; what stood there before is untouched.
    """
    return write_bytes(path, (part.encode("utf-8") for part in ([text] if isinstance(text, str) else text)))


def write_bytes(path: Path, content: bytes | Iterable[bytes]) -> Path:
    """Write bytes, or parts one after the other, so that a reader or a crash sees all of it or none.

    Raises:
        OutputError: the file cannot be written; what stood there before is untouched.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp makes it private
            os.replace(temporary, path)
        except BaseException:  # a kill by Ctrl-C, too, leaves no half-written file behind
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); free space and run again") from error
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write JSON that is valid everywhere: NaN and infinity become null.

    Raises:
        OutputError: as `write_text`.
    """
    return write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what a process that was killed while it wrote has left, and put back a folder that it had moved aside.

    Call when no other process writes here, or none writes the file or folder `name`.
    """
    for replaced in folder.glob(f".{name}{_REPLACED}"):
        final = folder / replaced.name.removeprefix(".").removesuffix(_REPLACED)
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(final)
    for unfinished in folder.glob(f".{name}.*{_UNFINISHED}"):
        if unfinished.is_dir() and not unfinished.is_symlink():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder that readers take for whole: it loses its name first, and a kill leaves it unfinished.

    Raises:
        OSError: it is not there, or cannot be renamed.
    """
    going = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{_UNFINISHED}")
    folder.rename(going)
    shutil.rmtree(going, ignore_errors=True)


# --- Folders, whole ---------------------------------------------------------------------------------------------------


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Make everything in a folder durable: contents first, then names."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() or path.is_dir():
            fsync_folder(path)  # opening for reading is enough, for files and folders alike
    fsync_folder(folder)


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder to write into; it becomes `final`, durably, if the block ends without an error.

    Where the system can exchange two names in one step (Linux), there is a folder `final` at every instant once there
    has been one; elsewhere the old one is moved aside for the moment between two renames. What a kill leaves is
    cleared, or put back, by `remove_unfinished`.

    Raises:
        OSError: the disk refused; `final` is as it was.
    """
    made = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.", suffix=_UNFINISHED))
    try:
        yield made
        fsync_tree(made)
        os.chmod(made, 0o755)  # mkdtemp makes it private
        if not final.exists():
            made.rename(final)
        elif not _exchange(made, final):
            aside = final.with_name(f".{final.name}{_REPLACED}")
            shutil.rmtree(aside, ignore_errors=True)
            final.rename(aside)
            try:
                made.rename(final)
            except OSError:
                aside.rename(final)
                raise
            made = aside
        fsync_folder(final.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step by renameat2(2); False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


# --- One at a time ----------------------------------------------------------------------------------------------------


class FolderLock:
    """Holds a folder for this process and this object; the system lets it go when the process ends, however it ends.

    Two runs that write into one folder would take each other's checkpoints away. What a killed run left unfinished
    in it is removed.

    Raises:
        OutputError: another run writes into the folder, of another process or of this one.
    """

    _held: set[tuple[int, Path]] = set()  # noqa: RUF012 - shared on purpose: record locks do not keep one process out twice

    def __init__(self, folder: Path, key: str = "output_dir") -> None:
        self._descriptor: int | None = None
        self._name = os.getpid(), folder.resolve()
        if self._name in self._held:
            raise OutputError(
                f"{key}: another run of this process is open in {folder}; close it, or choose another folder"
            )
        if fcntl is not None:
            # Record locks, since data workers inherit the other kind and may outlive a killed run by a moment.
            self._descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._descriptor)
                self._descriptor = None
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise OutputError(
                        f"{key}: another process is running in {folder}; wait for its end, or choose another folder"
                    ) from error
                # else: a file system without locks
        self._held.add(self._name)
        remove_unfinished(folder)

    def release(self) -> None:
        """Let the folder go."""
        self._held.discard(self._name)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


# --- Room -------------------------------------------------------------------------------------------------------------


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
