"""One folder, complete or absent: how a checkpoint becomes visible, and how it is told from a damaged one.

    new folder ──hash every file──▶ manifest ──fsync all──▶ rename ──fsync parent──▶ checkpoint-N

A process that is killed, or a machine that loses power, at any point of this line leaves either a hidden folder
that the next run removes, or a whole checkpoint (`rmx.files.new_folder`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from rmx.errors import CheckpointError

__all__ = ["MANIFEST", "Manifest", "hash_file", "read_manifest", "seal", "verify"]

MANIFEST = "manifest.json"
_FORMAT = 1
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz")
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds (`files`: relative path → bytes and xxh3_128) and what it was made with (`facts`)."""

    step: int
    files: dict[str, dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return manifest.json's content; it carries a hash of itself, so that a flipped bit in it is noticed too."""
        content = {"format": _FORMAT, "step": self.step, "files": self.files, "facts": self.facts}
        return json.dumps({**content, "self": _hash_of(content)}, indent=1, sort_keys=True) + "\n"


def _hash_of(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the xxh3_128 of a file."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _files_of(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path != folder / MANIFEST:
            yield path


def seal(folder: Path, *, step: int, facts: Mapping[str, Any]) -> Manifest:
    """Write the manifest of a folder whose other files are written.

    Raises:
        OSError: the disk is full or went away.
    """
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "xxh3_128": hash_file(path)}
        for path in _files_of(folder)
    }
    manifest = Manifest(step, files, dict(facts))
    (folder / MANIFEST).write_text(manifest.text(), encoding="utf-8")
    return manifest


def read_manifest(checkpoint: Path) -> Manifest:
    """Return a checkpoint's manifest.

    Raises:
        CheckpointError: it is missing, unreadable or not what was written.
    """
    try:
        content = json.loads((checkpoint / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{checkpoint}: no {MANIFEST}: not a checkpoint of rmx, or not a whole one") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}: {MANIFEST} cannot be read") from error
    if not isinstance(content, dict) or content.pop("self", None) != _hash_of(content):
        raise CheckpointError(f"{checkpoint}: {MANIFEST} is damaged")
    if content.get("format") != _FORMAT:
        raise CheckpointError(f"{checkpoint}: written by another version of rmx (format {content.get('format')})")
    manifest = Manifest(content["step"], content["files"], content["facts"])
    listed = manifest.files.values() if isinstance(manifest.files, dict) else [None]
    if not all(isinstance(entry, dict) and {"bytes", "xxh3_128"} <= set(entry) for entry in listed):
        raise CheckpointError(f"{checkpoint}: {MANIFEST} is not a manifest")
    return manifest


def verify(checkpoint: Path) -> Manifest:
    """Compare every file with the manifest and return it.

    Raises:
        CheckpointError: a file is missing, has another size or content, stands there unlisted, or may be a pickle.
    """
    manifest = read_manifest(checkpoint)
    if checkpoint.name.startswith("checkpoint-") and checkpoint.name != f"checkpoint-{manifest.step}":
        raise CheckpointError(f"{checkpoint}: its manifest is that of step {manifest.step}")
    for path in _files_of(checkpoint):
        if path.suffix in PICKLES:
            raise CheckpointError(f"{checkpoint}: {path.name} may run code when it is read; rmx writes no such files")
    present = {path.relative_to(checkpoint).as_posix(): path for path in _files_of(checkpoint)}
    for name, facts in manifest.files.items():
        if name not in present:
            raise CheckpointError(f"{checkpoint}: {name} is missing")
        if (size := present[name].stat().st_size) != facts["bytes"]:
            raise CheckpointError(f"{checkpoint}: {name} has {size:,} bytes instead of {facts['bytes']:,}")
    if extra := [
        name for name in present if name not in manifest.files and not name.rsplit("/", 1)[-1].startswith(".")
    ]:
        raise CheckpointError(f"{checkpoint}: {extra[0]} was added after the checkpoint was made; take it out")
    for name, facts in manifest.files.items():
        if hash_file(present[name]) != facts["xxh3_128"]:
            raise CheckpointError(f"{checkpoint}: {name} is damaged (its hash differs)")
    return manifest
