"""What sealing a checkpoint costs: hashing, syncing and verifying 300 MB, against writing the same file plainly.

python -m benchmarks.checkpoints [MEGABYTES] [FOLDER]
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from rmx.checkpoints import CheckpointFolder, verify
from rmx.checkpoints.keep import STATE
from rmx.checkpoints.sealing import hash_file


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(megabytes: int, root: Path, rounds: int = 5) -> dict[str, float]:
    """Return the median seconds of each part; the state is a third weights, two thirds optimizer, as with Adam."""
    weights = torch.randn(megabytes * 1_000_000 // 12)
    parts = {"model": {"w": weights}, "optimizer": {"m": weights.clone(), "v": weights.clone()}}
    taken: dict[str, list[float]] = {"plain write": [], "sealed write": [], "of it hashing": [], "verify": []}
    for number in range(1, rounds + 1):
        plain = root / f"plain-{number}"
        plain.mkdir()
        taken["plain write"].append(
            seconds(lambda: [save_file(tensors, plain / f"{name}.safetensors") for name, tensors in parts.items()])  # noqa: B023
        )
        for path in plain.iterdir():
            path.unlink()
        folder = CheckpointFolder(root / "checkpoints")

        def sealed(step: int = number, folder: CheckpointFolder = folder) -> None:
            with folder.staged(step, needed_bytes=megabytes * 1_000_000) as stage:
                for name, tensors in parts.items():
                    save_file(tensors, stage / f"{name}.safetensors")
                (stage / STATE).write_text(json.dumps({}))

        taken["sealed write"].append(seconds(sealed))
        final = folder.path(number)
        taken["of it hashing"].append(seconds(lambda: [hash_file(path) for path in final.iterdir()]))  # noqa: B023
        taken["verify"].append(seconds(lambda: verify(final)))  # noqa: B023
        folder.delete(number)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        result = measure(megabytes, Path(folder))
    result["added by sealing"] = result["sealed write"] - result["plain write"]
    for name, value in result.items():
        print(f"{name:18} {value:7.3f} s")


if __name__ == "__main__":
    main()
