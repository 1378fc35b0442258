"""The run folder: where it is, and what it holds besides the model."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rmx.errors import OutputError
from rmx.files import write_json, write_lines
from rmx.redact import redact_command

__all__ = [
    "environment",
    "flat_results",
    "open_folder",
    "shared_folder",
    "write_results",
    "write_setup",
]

SHOWN_VERSIONS = (
    "rmx", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "hydra-core", "omegaconf", "wandb",
    "tokenizers", "safetensors", "numpy",
)  # fmt: skip


def open_folder(asked: str | None, model: str, data: str, *, root: Path = Path("outputs")) -> Path:
    """Return the run's folder, made and proven writable before anything heavy is loaded.

    Without `output_dir` it is `outputs/<model>-<data>/<date>-<time>`, with `-2`, `-3`, ... when two runs start in
    one second: creating the folder is what claims the name, so two processes cannot get the same.

    Raises:
        OutputError: the folder cannot be made or written to.
    """
    try:
        if asked is not None:
            folder = Path(asked).expanduser().absolute()
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = _claim((root / f"{_slug(model)}-{_slug(data)}").absolute())
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"rmx")
    except OSError as error:
        place = asked or str(root)
        raise OutputError(
            f"output_dir: {place!r} cannot be written to ({error.strerror or error}); "
            "choose another folder with output_dir=<folder>, or free space"
        ) from error
    return folder


def shared_folder(asked: str | None, model: str, data: str, rank: int, ranks: int) -> Path:
    """Return the same folder on all ranks: their clocks differ, so the first one names it."""
    if ranks == 1:
        return open_folder(asked, model, data)
    import torch.distributed as dist

    named = [str(open_folder(asked, model, data)) if rank == 0 else None]
    dist.broadcast_object_list(named)
    return Path(str(named[0]))


def _claim(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    number = 1
    while True:
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def _slug(name: str) -> str:
    """Make a name safe as one folder name.

    >>> _slug("org/My model:v1")
    'org_My_model_v1'
    """
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", name).strip("._")[:80] or "unnamed"


def write_results(folder: Path, phase: str, metrics: Mapping[str, float]) -> None:
    """Write `<phase>_results.json` and merge it into `all_results.json` (LLaMA-Factory's names)."""
    write_json(folder / f"{phase}_results.json", dict(sorted(metrics.items())))
    merged_path = folder / "all_results.json"
    merged = json.loads(merged_path.read_text(encoding="utf-8")) if merged_path.exists() else {}
    write_json(merged_path, dict(sorted({**merged, **metrics}.items())))


def flat_results(metrics: Mapping[str, Mapping[str, float]], phase: str, epoch: float | None) -> dict[str, float]:
    """Name an evaluation's metrics as LLaMA-Factory does: `eval_loss`, `predict_accuracy`, `eval_<set>_runtime`, ...

    >>> flat_results({"eval": {"loss": 0.5, "seconds": 2.0, "pairs_per_second": 8.0}}, "predict", None)
    {'predict_loss': 0.5, 'predict_pairs_per_second': 8.0, 'predict_runtime': 2.0, 'predict_samples_per_second': 8.0}
    """
    flat: dict[str, float] = {}
    for name, values in metrics.items():
        prefix = name.replace("eval", phase, 1)
        flat |= {f"{prefix}_{key}": value for key, value in values.items() if key != "seconds"}
        flat[f"{prefix}_runtime"] = values["seconds"]
        flat[f"{prefix}_samples_per_second"] = values["pairs_per_second"]
    return flat if epoch is None else {**flat, "epoch": epoch}


def write_setup(folder: Path, config: str | None) -> None:
    """Write what the run is: environment.json, and run.yaml where there is a configuration."""
    write_json(folder / "environment.json", environment())
    if config is not None:
        write_lines(folder / "run.yaml", [config.rstrip("\n")])


def environment() -> dict[str, Any]:
    """Return what the run ran on: versions, machine, git commit and the command line, without secrets."""
    versions = {}
    for name in SHOWN_VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "command": shlex.join(redact_command([*_program(), *sys.argv[1:]])),
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "git_commit": _git_commit(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _program() -> list[str]:
    """How this program was started, in a form that works in any folder."""
    started = Path(sys.argv[0])
    return ["python", "-m", "rmx"] if started.name == "__main__.py" else [started.name]


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True, cwd=Path.cwd()
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
