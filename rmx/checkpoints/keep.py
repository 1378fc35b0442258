"""The folder `checkpoints/` of a run: staging, choosing the newest valid one, setting damaged ones aside, rotation."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rmx.checkpoints.sealing import Manifest, seal, verify
from rmx.errors import CheckpointError
from rmx.files import fsync_folder, new_folder, remove_folder, remove_unfinished, require_room, writing

__all__ = ["STATE", "CheckpointFolder", "read_state"]

log = logging.getLogger(__name__)

STATE = "rmx_state.json"  # what rmx continues besides weights, optimizer and transformers' own state


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: `<run>/checkpoints`; made with the first save.
        facts: what the run is made with; stands in every manifest.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.facts = dict(facts or {})

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step stands."""
        return self.folder / f"checkpoint-{step}"

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, valid or not, in ascending order."""
        if not self.folder.is_dir():
            return []
        found = (re.fullmatch(r"checkpoint-(\d+)", entry.name) for entry in self.folder.iterdir() if entry.is_dir())
        return sorted(int(match[1]) for match in found if match)

    # --- Writing ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def staged(self, step: int, *, needed_bytes: int) -> Iterator[Path]:
        """Yield an empty folder to write into; it becomes `checkpoint-<step>` if the block ends without an error.

        Raises:
            OutputError: there is no room, or the disk refused a write; checkpoints made before are untouched.
        """
        final = self.path(step)
        with writing(final, needed_bytes):
            self.folder.mkdir(parents=True, exist_ok=True)
            require_room(final, needed_bytes)
            with new_folder(final) as stage:  # also for the same step again, after what was left to do at it
                yield stage
                seal(stage, step=step, facts=self.facts)

    def rotate(self, limit: int | None, *, keep: Collection[int] = ()) -> None:
        """Delete the oldest checkpoints, by step number, until `limit` are left; those in `keep` always stay.

        One that was made for a signal is deleted as soon as a newer one is there. With limit 1 and another one to
        keep, two stay (as in transformers): the newest must be there to resume from.
        """
        for step in self.steps()[:-1]:
            if step not in keep and self._made_for_a_signal(step):
                self.delete(step)
        steps = self.steps()
        if limit is None or limit < 1 or len(steps) <= limit:
            return
        kept = {steps[-1], *(step for step in keep if step in steps)}
        for step in reversed(steps):
            if len(kept) < limit:
                kept.add(step)
        for step in steps:
            if step not in kept:
                self.delete(step)

    def _made_for_a_signal(self, step: int) -> bool:
        try:
            return not read_state(self.path(step)).get("scheduled", True)
        except CheckpointError:  # damaged since: not ours to judge here
            return False

    def delete(self, step: int) -> None:
        """Delete a checkpoint; it has another name while it is incomplete."""
        remove_folder(self.path(step))

    # --- Choosing ---------------------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Remove what a killed run left half done, and put back a checkpoint that was about to be replaced."""
        remove_unfinished(self.folder)

    def newest_valid(self) -> tuple[Path, Manifest] | None:
        """Return the newest checkpoint whose files are what was written; newer, damaged ones are set aside.

        Raises:
            CheckpointError: there are checkpoints, but not one that can be used; they stay where they are.
        """
        self.tidy()
        damaged: list[tuple[int, CheckpointError]] = []
        for step in reversed(self.steps()):
            try:
                manifest = self.usable(self.path(step))
            except CheckpointError as error:
                damaged.append((step, error))
                continue
            for bad, reason in damaged:
                moved = self.set_aside(bad, "damaged")
                log.warning("%s. Set aside as %s; continuing from checkpoint-%d", reason, moved.name, step)
            return self.path(step), manifest
        if damaged:
            reasons = "\n".join(f"  {error}" for _, error in damaged)
            raise CheckpointError(
                f"{self.folder}: no checkpoint can be used:\n{reasons}\nStart from the beginning with resume=never"
            )
        return None

    def usable(self, checkpoint: Path) -> Manifest:
        """Verify a checkpoint and the best one that it refers to.

        Raises:
            CheckpointError: one of them is damaged.
        """
        manifest = verify(checkpoint)
        best = read_state(checkpoint).get("best_step")
        if best is not None and best != manifest.step:
            try:
                verify(checkpoint.parent / f"checkpoint-{best}")
            except CheckpointError as error:
                raise CheckpointError(f"{checkpoint}: the best checkpoint so far is needed with it: {error}") from error
        return manifest

    def set_aside(self, step: int, why: str) -> Path:
        """Rename a checkpoint to `<why>-<n>-checkpoint-<step>`, so that it is neither used nor in the way."""
        number = 1
        while (target := self.folder / f"{why}-{number}-checkpoint-{step}").exists():
            number += 1
        os.rename(self.path(step), target)
        fsync_folder(self.folder)
        return target

    def start_anew(self) -> None:
        """Set the whole folder aside: a run that starts at step 0 must not find it later."""
        if self.steps():
            number = 1
            while (target := self.folder.with_name(f"{self.folder.name}-before-{number}")).exists():
                number += 1
            os.rename(self.folder, target)
            log.warning("Starting anew; the checkpoints that were there are now in %s", target)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return rmx's own state of a (verified) checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    try:
        return dict(json.loads((checkpoint / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}: {STATE} cannot be read") from error
