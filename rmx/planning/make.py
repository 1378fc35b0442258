"""phases=[plan]: no weights are read, no process is started, nothing is trained."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import TYPE_CHECKING, Any

from rmx.data.read.kinds import is_local
from rmx.errors import ConfigError, InputError, counted, first_line
from rmx.files import write_json
from rmx.parallel import NoParallel
from rmx.planning.estimate import Planner
from rmx.planning.telling import plan_as_dict, show_plan
from rmx.planning.work import Rows, rows_of_lengths
from rmx.run.inputs import prepare
from rmx.run.open_run import OpenRun

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from rmx.workflow import Workflow

__all__ = ["make_plan"]

log = logging.getLogger(__name__)


def make_plan(workflow: Workflow, folder: str | None = None) -> dict[str, Any]:
    """Plan a run, show it, and write plan.json into the run folder; returns plan.json's content and `output_dir`.

    Raises:
        ModelError: the model's shape is not known here.
        ConfigError: the strategy does not fit the processes, or several processes were started for the plan.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("phases=[plan]: a plan is made by one process; give the number as plan.processes")
    alone = dataclasses.replace(workflow, parallel=NoParallel())
    with OpenRun(alone, folder) as run:
        args = workflow.trainer.training_arguments(run.folder, workflow.seed, evaluates=True)
        estimate = Planner(workflow, args, _rows(workflow, run, args)).estimate()
        found = plan_as_dict(workflow, estimate)
        write_json(run.folder / "plan.json", found)
        show_plan(run.screen, workflow, estimate)
        run.screen.done(run.folder, ["plan.json"])
    return {**found, "output_dir": str(run.folder)}


def _rows(workflow: Workflow, run: OpenRun, args: TrainingArguments) -> Rows | str:
    """The rows to train on: as `plan.*` say, or from the data; else why they are not known."""
    asked = workflow.plan
    lengths, most = (asked.prompt_tokens, asked.response_tokens), workflow.data.max_tokens
    if (lengths[0] is None) != (lengths[1] is None):
        raise ConfigError("plan.prompt_tokens, plan.response_tokens: give both of them, or neither")
    keys = "plan.comparisons, plan.prompt_tokens and plan.response_tokens"
    if asked.comparisons is not None and lengths[0] is not None and lengths[1] is not None:
        _compare_with_data(workflow, run)
        return rows_of_lengths(asked.comparisons, lengths[0], lengths[1], most)
    try:
        splits = workflow.data.read(run.folder)
        comparisons = asked.comparisons or len(splits.train)
        _warn_of_other_count(workflow, len(splits.train))
        if lengths[0] is not None and lengths[1] is not None:
            return rows_of_lengths(comparisons, lengths[0], lengths[1], most)
        train = prepare(workflow, splits, args, ["audit"]).train
    except InputError as error:
        log.warning("The rows are not known: %s. Give %s", error, keys)
        return f"give {keys}, or a data set and a tokenizer that are here"
    if not len(train):
        return f"there are no training rows; give {keys}"
    return Rows(asked.comparisons or len(train), list(train), f"read from {workflow.data.source}")


def _compare_with_data(workflow: Workflow, run: OpenRun) -> None:
    """Hold the rows that are typed in, by a recipe maybe, against the data where that is on this machine."""
    sources = getattr(workflow.data, "sources", {"": workflow.data})
    paths = [path for spec in sources.values() for path in getattr(spec, "paths", [])]
    if not all(is_local(path) for path in paths):
        return
    try:
        found = len(workflow.data.read(run.folder).train)
    except InputError as error:  # a plan of typed rows needs no data
        log.warning("The plan is for plan.comparisons; the data itself cannot be read here: %s", first_line(error))
    else:
        _warn_of_other_count(workflow, found)


def _warn_of_other_count(workflow: Workflow, found: int) -> None:
    typed = workflow.plan.comparisons
    if typed is not None and typed != found:
        log.warning(
            "This plan is for plan.comparisons=%s, and %s has %s to train on. To plan for those: "
            "plan.comparisons=null plan.prompt_tokens=null plan.response_tokens=null",
            f"{typed:,}",
            workflow.data.source,
            counted(found, "comparison"),
        )
