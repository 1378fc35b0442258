"""The train phase: optimise, keep the best, save the artefact, and prove that it scores as the model in memory does."""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from rmx.checkpoints import CheckpointFolder
from rmx.models import check_trainable, save_artefact
from rmx.redact import redact
from rmx.run.folder import write_setup
from rmx.run.progress import EvaluationProgress, ShowProgress
from rmx.training.drift import environment_facts, plain_values
from rmx.training.loop import Loop
from rmx.training.proof import prove
from rmx.training.pruning import PruneOnRequest
from rmx.training.resuming import choose, rewind
from rmx.training.strategies import OneProcess

if TYPE_CHECKING:
    from pathlib import Path

    from rmx.models.streaming import Fetch
    from rmx.run.inputs import Inputs, Model
    from rmx.run.open_run import OpenRun
    from rmx.workflow import Workflow

__all__ = ["train"]

log = logging.getLogger(__name__)

VERIFIED_ROWS = 16  # comparisons that the saved artefact has to score as the model in memory did


@dataclass(frozen=True)
class Trained:
    """The trained model, and train_results.json's content."""

    model: Model
    metrics: dict[str, float]


def train(w: Workflow, run: OpenRun, inputs: Inputs, model: Model, strategy: OneProcess) -> Trained:
    """Train the model and leave `model/` in the run's folder."""
    check_trainable(model.loaded.model)
    metrics, step, epoch = _optimise(w, run, inputs, model, strategy)
    model.scorer.model.eval()
    gc.collect()  # the optimizer's memory is the check's
    if inputs.device.type == "cuda":
        torch.cuda.empty_cache()
    save(w, run, inputs, model, strategy)
    run.write("train", metrics)
    return Trained(replace(model, step=step, epoch=epoch), metrics)


def _optimise(
    w: Workflow, run: OpenRun, inputs: Inputs, model: Model, strategy: OneProcess
) -> tuple[dict[str, float], int, float]:
    """Return the metrics, the steps and the epochs that were trained; the loop and its optimizer end here."""
    loop = Loop(
        model.scorer,
        inputs.args,
        loss=w.loss,
        rows=inputs.train,
        evals=inputs.evals,
        settings=w.trainer,
        recorder=run.recorder,
        strategy=strategy,
        checkpoints=CheckpointFolder(run.folder / "checkpoints", manifest_facts(w, run, inputs)),
        signals=run.signals,
        callbacks=w.callbacks,
        own=[ShowProgress(run.screen), PruneOnRequest(run.folder)],
        progress=EvaluationProgress(run.screen) if run.is_main else None,
    )
    start = loop.strategy.first(lambda: choose(loop.checkpoints, w.resume, w.resume_allow))
    if run.is_main:
        write_setup(run.folder, w.config)
    rewind(run.recorder, start)
    metrics = loop.train(start)
    step, best = loop.state.global_step, loop.position.best_step
    if inputs.args.load_best_model_at_end and best is not None and best != step:
        log.info("Kept the checkpoint of step %d of %d: the best by %s", best, step, inputs.args.metric_for_best_model)
    return metrics, step, float(loop.state.epoch or 0)


def manifest_facts(w: Workflow, run: OpenRun, inputs: Inputs) -> dict[str, Any]:
    """Return what this run is made with, for the manifests of its checkpoints: settings, rows, machine."""
    parts = ("model", "data", "template", "loss", "trainer", "peft", "callbacks", "seed")
    return {
        "config": redact(plain_values({part: getattr(w, part) for part in parts})),
        "rows": inputs.rows,
        "step_size": w.trainer.step_size(run.ranks),
        "environment": environment_facts(inputs.device)
        | {"ranks": run.ranks, "parallel": w.parallel.words(run.processes)},
    }


def save(w: Workflow, run: OpenRun, inputs: Inputs, model: Model, strategy: OneProcess) -> None:
    """Save the artefact, load it afresh, and compare the scores of some rows.

    Every process gives its part of the weights, which the first one writes, and takes part in the check.

    Raises:
        ArtefactError: the loaded artefact gives other scores.
    """
    rows = next(iter(inputs.evals.values()), inputs.train)[:VERIFIED_ROWS]
    expected = [float(reward) for rewards in model.scorer.rewards(rows) for reward in rewards]
    sequences = [[*row.prefix_ids, *suffix] for row in rows for suffix in row.suffix_ids]
    contract = {
        "max_tokens": inputs.max_tokens,
        "truncation": w.data.truncation,
        "precision": model.scorer.engine.precision,
    }

    def write(whole: Any, fetch: Fetch | None) -> Path:
        loaded = replace(model.loaded, model=whole)
        return save_artefact(loaded, run.folder / "model", template=inputs.template, contract=contract, fetch=fetch)

    folder = strategy.with_weights(model.loaded.model, write)
    checked = prove(
        strategy,
        folder,
        model.loaded,
        sequences,
        expected,
        device=inputs.device,
        max_tokens_per_batch=model.scorer.max_tokens_per_micro_batch,
    )
    log.info(
        "Saved %s; loaded afresh it scores %d texts as before (largest difference %.1e)",
        folder,
        checked.rows,
        checked.max_difference,
    )
