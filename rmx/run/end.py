"""The end of a run: plots, the report page, the model card, the final table, and the paths of what was written."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING, Any

from rmx.data.read.hub import read_card
from rmx.data.read.kinds import hub_ids
from rmx.errors import DataError
from rmx.files import write_text
from rmx.models import export_merged, model_card, push, unwrap
from rmx.plots import draw_run
from rmx.report import write_run_report
from rmx.run.folder import environment
from rmx.run.header import final_table

if TYPE_CHECKING:
    from pathlib import Path

    from rmx.run.inputs import Inputs
    from rmx.run.open_run import OpenRun
    from rmx.workflow import Done, Workflow

__all__ = ["finish"]

log = logging.getLogger(__name__)

# What a run may leave, in the order in which a person wants to know of it.
SHOWN_FILES = (
    "report.html", "model", "model-merged", "generated_predictions*.jsonl", "all_results.json", "metrics.jsonl",
    "plots", "audit.json", "rejects.jsonl", "checkpoints", "run.yaml", "run.log",
)  # fmt: skip
CARD_METRICS = ("pairs", "accuracy", "accuracy_low", "accuracy_high", "loss", "margin", "tie_rate")


def finish(w: Workflow, run: OpenRun, inputs: Inputs, done: Done, *, draw: bool) -> None:
    """Write the model card, publish; with `draw` also plots, the report, the final table and the list of files."""
    if not run.is_main:
        return
    if done.trained is not None:
        _finish_artefact(w, run, inputs, done)
    numbers = {key: value for key, value in done.results.items() if isinstance(value, int | float)}
    if not draw:
        run.recorder.summary(numbers, [])
        return
    if numbers:
        drawn = draw_run(run.folder)
        plots = drawn.save()
        write_run_report(drawn)
        run.recorder.summary(numbers, [path for path in plots if path.suffix == ".png"])
        run.screen.metrics("", *final_table(numbers))
    written = [
        f"{path.relative_to(run.folder)}{'/' if path.is_dir() else ''}"
        for pattern in SHOWN_FILES
        for path in sorted(run.folder.glob(pattern))
    ]
    run.screen.done(run.folder, written)


def _finish_artefact(w: Workflow, run: OpenRun, inputs: Inputs, done: Done) -> None:
    """Write the model card, the merged model where one is asked for, and upload where that is asked for."""
    assert done.trained is not None
    loaded, model = done.trained.model.loaded, run.folder / "model"
    write_text(model / "README.md", model_card(_card_facts(w, run, inputs, done)).rstrip("\n") + "\n")
    merged = run.folder / "model-merged"
    shutil.rmtree(merged, ignore_errors=True)  # of an earlier run in the same folder
    if loaded.adapter is not None and loaded.adapter.merge:
        export_merged(model, merged)
    if w.push_to_hub is not None:
        published = merged if merged.is_dir() else model
        log.info("Published %s", push(published, w.push_to_hub))


def _card_facts(w: Workflow, run: OpenRun, inputs: Inputs, done: Done) -> dict[str, Any]:
    """What the model card says of this run; numbers only of evaluations that were asked for."""
    assert done.trained is not None
    model = done.trained.model
    loaded = model.loaded
    metrics = done.scores.metrics if done.scores else {}
    accounts = inputs.splits.accounting.sources
    base = _card_of(loaded.folder)
    return {
        "name": f"{w.model.name} reward model, {w.data.source}",
        "repo_id": w.push_to_hub,
        "base_model": loaded.base_path,
        "revision": loaded.revision,
        "adapter": loaded.adapter.kind if loaded.adapter else None,
        "dtype": loaded.dtype,
        "architecture": type(unwrap(loaded.model)).__name__,
        "is_encoder": loaded.is_encoder,
        "parameters": loaded.parameters,
        "trainable_parameters": loaded.trainable_parameters,
        "template": inputs.template.name,
        "scored_token": inputs.template.end_token,
        "start_token": inputs.template.start_token,
        "max_tokens": inputs.max_tokens,
        "truncation": w.data.truncation,
        "precision": model.scorer.engine.precision,
        "loss": getattr(w.loss, "func", w.loss).__name__,
        "seed": w.seed,
        "steps": model.step,
        "settings": {
            "learning rate": inputs.args.learning_rate,
            "comparisons per step": w.trainer.step_size(run.ranks),
            "epochs": model.epoch,
        },
        "license": base.get("license"),  # of the model that was trained on
        "language": base.get("language"),
        "datasets": hub_ids(file for account in accounts.values() for file in account.files),
        "sources": _source_rows(inputs),
        "data": _set_rows(inputs),
        "metrics": [
            {"set": name} | {key: values[key] for key in CARD_METRICS if key in values}
            for name, values in metrics.items()
        ],
        "versions": environment()["versions"],
    }


def _source_rows(inputs: Inputs) -> list[dict[str, Any]]:
    """What became of each source's rows."""
    return [
        {
            "name": name,
            "train": account.train,
            "evaluation": sum(account.evals.values()),
            "rejected": account.bad,
            "left out": account.left_out,
        }
        for name, account in inputs.splits.accounting.sources.items()
    ]


def _set_rows(inputs: Inputs) -> list[dict[str, Any]]:
    """What tokenising made of each set."""
    return [
        {
            "set": name,
            "comparisons": report.kept,
            "truncated": report.truncated,
            "dropped": report.dropped + report.refused + report.all_equal,
            "not printed": ", ".join(f"{field} of {n}" for field, n in report.unprinted.items()) or "nothing",
            "tokens": report.tokens,
        }
        for name, report in inputs.reports.items()
    ]


def _card_of(folder: Path | None) -> dict[str, Any]:
    """What the card of the model that was trained on says; {} where it has none, or one that cannot be read."""
    if folder is None:
        return {}
    try:
        return read_card(folder)
    except DataError as error:  # a finished run does not fail for the sake of another model's card
        log.warning("%s; the model card goes without its licence and languages", error)
        return {}
