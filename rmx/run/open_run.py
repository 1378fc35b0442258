"""One run in progress: its folder, its lock, its screen, its signals and its trackers, open for as long as it works."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

import yaml

from rmx.errors import RmxError
from rmx.files import FolderLock
from rmx.run.folder import shared_folder, write_results, write_setup
from rmx.run.screen import Screen
from rmx.run.signals import StopSignals
from rmx.trackers import Recorder, make_trackers

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from rmx.workflow import Workflow

__all__ = ["OpenRun"]


class OpenRun:
    """A context manager: what is opened here is closed at its end, whatever happens in between.

    Args:
        workflow: says where the run goes and how it is shown.
        folder: of an earlier verb of the same workflow, which this one continues in; None opens `output_dir`.

    Raises:
        OutputError: the folder cannot be written to, or another run is open in it.
    """

    def __init__(self, workflow: Workflow, folder: str | None = None) -> None:
        process, self.processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        sizes = workflow.parallel.sizes(self.processes)
        self.ranks = self.processes if sizes is None else sizes.data  # that see rows of their own
        self.is_main = process == 0
        names = workflow.model.name, workflow.data.source
        self.folder = shared_folder(folder or workflow.output_dir, *names, process, self.processes)
        self.lock = FolderLock(self.folder) if self.is_main else None
        self.signals = StopSignals()
        self.recorder = Recorder()
        log_file = self.folder / "run.log" if self.is_main else None
        self.screen = Screen(verbose=workflow.verbose and self.is_main, log_file=log_file)
        if self.is_main and not (self.folder / "checkpoints").is_dir():  # else: once it is known to be the same run
            write_setup(self.folder, workflow.config)

    def __enter__(self) -> OpenRun:
        self.screen.__enter__()
        self.signals.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        code = 0 if error is None else error.exit_code if isinstance(error, RmxError) else 1
        if code == 1 and not isinstance(error, RmxError) and self.screen.log_file is not None:
            logging.getLogger("rmx.crash").error("crash", exc_info=error)
        try:
            self.recorder.close(code)
        finally:
            self.screen.__exit__()
            if self.lock is not None:
                self.lock.release()
            self.signals.__exit__(kind, error, None)

    def start_trackers(self, workflow: Workflow, args: TrainingArguments) -> None:
        """Open metrics.jsonl and the trackers; only the first rank has any."""
        if self.is_main:
            trackers = make_trackers(
                workflow.trackers,
                self.folder,
                args=args,
                project=workflow.project,
                group=workflow.group,
                tags=workflow.tags,
                config=yaml.safe_load(workflow.config) if workflow.config else {},
            )
            self.recorder = Recorder(trackers)

    def write(self, phase: str, metrics: Mapping[str, float]) -> None:
        """Write a phase's result files."""
        if self.is_main:
            write_results(self.folder, phase, metrics)
