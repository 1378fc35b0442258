"""Whether a run continues, and from which checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from rmx.checkpoints.drift import refuse_drift
from rmx.checkpoints.folder import CheckpointFolder, read_state
from rmx.errors import CheckpointError, RmxError
from rmx.trackers import Recorder

__all__ = ["choose", "rewind"]

log = logging.getLogger(__name__)


def choose(
    checkpoints: CheckpointFolder, resume: str, allow: Sequence[str], *, rank: int = 0, ranks: int = 1
) -> Path | None:
    """Return the checkpoint to continue from, verified and made with the same settings; None to start at step 0.

    Args:
        checkpoints: the run's folder; its `facts` say what this run is made with.
        resume: `auto` for the newest valid one, `never`, or the path or name of one.
        allow: keys that may differ.
        rank: the first rank decides for all.
        ranks: how many there are.

    Raises:
        CheckpointError: none can be used, or the one to use was made with other settings.
    """
    if ranks == 1:
        return _choose(checkpoints, resume, allow)
    answer: list[Any] = [None]
    if rank == 0:
        try:
            answer = [_choose(checkpoints, resume, allow)]
        except RmxError as error:
            answer = [error]
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], RmxError):
        raise answer[0]
    return answer[0]


def _choose(checkpoints: CheckpointFolder, resume: str, allow: Sequence[str]) -> Path | None:
    if resume == "never":
        checkpoints.tidy()
        checkpoints.start_anew()
        return None
    if resume == "auto":
        found = checkpoints.newest_valid()
        if found is None:
            return None
        path, manifest = found
    else:
        path = named(checkpoints, resume)
        manifest = checkpoints.usable(path)
    notes = refuse_drift(path, manifest.facts, checkpoints.facts, allow)
    if notes:
        log.warning("Continuing on another setup, so results may differ in the last bits: %s", "; ".join(notes))
    if path.parent == checkpoints.folder:
        for newer in [step for step in checkpoints.steps() if step > manifest.step]:
            moved = checkpoints.set_aside(newer, "superseded")
            log.warning("checkpoint-%d is newer than the one to continue from; set aside as %s", newer, moved.name)
    log.info("Continuing from %s", path)
    return path


def named(checkpoints: CheckpointFolder, resume: str) -> Path:
    """Return the checkpoint that `resume` names: a path, or the name of one in this run's folder.

    Raises:
        CheckpointError: there is no such folder.
    """
    checkpoints.tidy()
    for path in (checkpoints.folder / resume, Path(resume).expanduser().absolute()):
        if path.is_dir():
            return path
    there = ", ".join(f"checkpoint-{step}" for step in checkpoints.steps()) or "none"
    raise CheckpointError(
        f"resume: {resume!r} is neither a checkpoint nor auto nor never; checkpoints in {checkpoints.folder}: {there}"
    )


def rewind(recorder: Recorder, checkpoint: Path | None) -> None:
    """Cut metrics.jsonl back to where it was at the checkpoint, so that no step is logged twice."""
    recorder.rewind(0 if checkpoint is None else int(read_state(checkpoint)["metrics_bytes"]))
