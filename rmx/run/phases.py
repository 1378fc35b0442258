"""The phases of a run as functions of what they need; `rmx.workflow` says in which order they come."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rmx.data.audit import Audit, audit
from rmx.files import write_json
from rmx.models import scored_position_of
from rmx.run.folder import flat_results
from rmx.run.progress import EvaluationProgress
from rmx.scoring.evaluation import Evaluations, evaluate_pairs, predictions_paths, write_predictions
from rmx.tokens import show_tokens

if TYPE_CHECKING:
    from rmx.run.inputs import Inputs, Model
    from rmx.run.open_run import OpenRun
    from rmx.workflow import Workflow

__all__ = ["audit_data", "evaluate", "inspect", "predict", "score"]

log = logging.getLogger(__name__)

INSPECTED_ROWS = 3


def audit_data(run: OpenRun, inputs: Inputs, *, in_full: bool) -> Audit:
    """Look at the data: audit.json, and on the screen the audit in full, or a line for each finding.

    Raises:
        DataError: a pair stands in training and in evaluation.
    """
    found = audit(inputs.splits, inputs.sets, reports=inputs.reports)
    if run.is_main:
        write_json(run.folder / "audit.json", found.as_dict())
    if in_full:
        run.screen.text(found.summary())
    else:
        for finding in found.findings:
            log.log(logging.INFO if finding.level == "note" else logging.WARNING, "audit: %s", finding.text)
    found.require_no_leak()
    return found


def inspect(w: Workflow, run: OpenRun, inputs: Inputs) -> None:
    """Show what the columns became and rows as the model reads them, with the scored token marked."""
    rows = inputs.splits.train or next(iter(inputs.splits.evals.values()))
    scored = scored_position_of(w.model)
    for source in dict.fromkeys(comparison.source for comparison in rows[:INSPECTED_ROWS]):
        account = inputs.splits.accounting.sources.get(source)
        if account is not None and account.columns:
            run.screen.text(f"{source}: columns: {account.columns_in_words(trivial=True)}")
    for comparison in rows[:INSPECTED_ROWS]:
        run.screen.text(
            show_tokens(comparison, inputs.tokenizer, inputs.template, max_tokens=inputs.max_tokens, scored=scored)
        )


def score(w: Workflow, run: OpenRun, inputs: Inputs, model: Model) -> Evaluations:
    """Score every evaluation set with the model as it is now; all ranks take part."""
    progress = EvaluationProgress(run.screen) if run.is_main else None
    return evaluate_pairs(model.scorer, inputs.evals, w.loss, progress=progress)


def evaluate(run: OpenRun, scores: Evaluations, model: Model) -> dict[str, float]:
    """Log and write the metrics of every evaluation set: eval_results.json."""
    for name, values in scores.metrics.items():
        run.recorder.log(model.step, model.epoch, name, values)
    metrics = flat_results(scores.metrics, "eval", model.epoch)
    run.write("eval", metrics)
    return metrics


def predict(run: OpenRun, scores: Evaluations, model: Model) -> tuple[Path, dict[str, float]]:
    """Write every pair's scores, one file per set; returns the first file, and predict_results.json's content."""
    paths = predictions_paths(scores, run.folder)
    if run.is_main:
        write_predictions(scores, paths)
    metrics = flat_results(scores.metrics, "predict", model.epoch)
    run.write("predict", metrics)
    return next(iter(paths.values())), metrics
