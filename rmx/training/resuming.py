"""Whether a run continues, and from which checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rmx.checkpoints.keep import CheckpointFolder, read_state
from rmx.errors import CheckpointError
from rmx.trackers import Recorder
from rmx.training.drift import refuse_drift

__all__ = ["Start", "choose", "rewind"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A checkpoint to continue from."""

    checkpoint: Path
    best_holds: bool = True  # the best checkpoint so far was chosen by this run's metric, on this run's rows


def choose(checkpoints: CheckpointFolder, resume: str, allow: Sequence[str]) -> Start | None:
    """Return the checkpoint to continue from, verified and made with the same settings; None to start at step 0.

    Args:
        checkpoints: the run's folder; its `facts` say what this run is made with.
        resume: `auto` for the newest valid one, `never`, or the path or name of one.
        allow: keys that may differ.

    Raises:
        CheckpointError: none can be used, or the one to use was made with other settings, or holds weights alone.
    """
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
    if "optimizer.json" not in manifest.files:
        raise CheckpointError(
            f"{path}: it was made with trainer.save_only_model=true and holds no optimizer, so it cannot be continued; "
            "start from the beginning with resume=never, or from its weights with resume=never and model.path="
            f"{path}"
        )
    notes, best_holds = refuse_drift(path, manifest.facts, checkpoints.facts, allow)
    if not best_holds:
        log.warning("The metric or the evaluation rows are others than before: the best so far counts no more")
    if notes:
        log.warning("Continuing on another setup, so results may differ in the last bits: %s", "; ".join(notes))
    if path.parent == checkpoints.folder:
        for newer in [step for step in checkpoints.steps() if step > manifest.step]:
            moved = checkpoints.set_aside(newer, "superseded")
            log.warning("checkpoint-%d is newer than the one to continue from; set aside as %s", newer, moved.name)
    log.info("Continuing from %s", path)
    return Start(path, best_holds)


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


def rewind(recorder: Recorder, start: Start | None) -> None:
    """Cut metrics.jsonl back to where it was at the checkpoint, so that no step is logged twice."""
    recorder.rewind(0 if start is None else int(read_state(start.checkpoint)["metrics_bytes"]))
