"""The train phase: optimise, keep the best, save the artefact, and prove that it scores as the model in memory does."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from rmx.checkpoints import CheckpointFolder
from rmx.checkpoints.drift import describe, environment_facts, rows_facts
from rmx.errors import ConfigError
from rmx.models import check_trainable, save_artefact, verify_artefact
from rmx.redact import redact
from rmx.run.folder import write_setup
from rmx.run.progress import ShowProgress
from rmx.training.pruning import PruneOnRequest
from rmx.training.resuming import choose, rewind
from rmx.training.trainer import RewardTrainer

if TYPE_CHECKING:
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


def train(w: Workflow, run: OpenRun, inputs: Inputs, model: Model) -> Trained:
    """Train the model and leave `model/` in the run's folder."""
    started = time.perf_counter()
    checkpoints = CheckpointFolder(run.folder / "checkpoints", run_facts(w, run, inputs))
    start = choose(checkpoints, w.resume, w.resume_allow, rank=run.rank, ranks=run.ranks)
    if run.is_main:
        write_setup(run.folder, w.config)
    rewind(run.recorder, start)
    trainer = build_trainer(w, run, inputs, model, checkpoints)
    check_trainable(model.loaded.model)
    model.scorer.model.train()
    trainer.train(resume_from_checkpoint=None if start is None else str(start))
    state, best = trainer.state, trainer.state.best_global_step
    if trainer.args.load_best_model_at_end and best and best != state.global_step:
        log.info(
            "Kept the checkpoint of step %d of %d: the best by %s",
            best, state.global_step, inputs.args.metric_for_best_model,
        )  # fmt: skip
    metrics = train_metrics(trainer, time.perf_counter() - started)
    model.scorer.model.eval()
    if run.is_main:
        save(w, run, inputs, model)
    run.write("train", metrics)
    return Trained(replace(model, step=state.global_step, epoch=state.epoch), metrics)


def build_trainer(
    w: Workflow, run: OpenRun, inputs: Inputs, model: Model, checkpoints: CheckpointFolder
) -> RewardTrainer:
    """Return the trainer of this run, with the user's callbacks and ours."""
    return RewardTrainer(
        model.scorer,
        inputs.args,
        loss=w.loss,
        train=inputs.train,
        evals=inputs.evals,
        settings=w.trainer,
        recorder=run.recorder,
        callbacks=[ShowProgress(run.screen), PruneOnRequest(run.folder), *user_callbacks(w.callbacks)],
        checkpoints=checkpoints,
        signals=run.signals,
    )


def user_callbacks(named: dict[str, Any] | None) -> list[TrainerCallback]:
    """Return the configured callbacks.

    Raises:
        ConfigError: one of them is no TrainerCallback.
    """
    for name, callback in (named or {}).items():
        if not isinstance(callback, TrainerCallback):
            raise ConfigError(
                f"callbacks.{name}: {type(callback).__name__} is not a transformers.TrainerCallback; "
                "its _target_ must be a class derived from it"
            )
    return list((named or {}).values())


def run_facts(w: Workflow, run: OpenRun, inputs: Inputs) -> dict[str, Any]:
    """Return what this run is made with, for the manifests of its checkpoints: settings, rows, machine."""
    parts = ("model", "data", "template", "loss", "trainer", "peft", "callbacks", "seed")
    return {
        "config": redact(describe({part: getattr(w, part) for part in parts})),
        "rows": rows_facts(inputs.sets),
        "ranks": run.ranks,
        "environment": environment_facts(inputs.device),
    }


def train_metrics(trainer: RewardTrainer, seconds: float) -> dict[str, float]:
    """Return LLaMA-Factory's train_results keys, and the sums over the whole run."""
    totals = trainer.totals.over_run(trainer.accelerator)
    return {
        "epoch": float(trainer.state.epoch or 0.0),
        "total_flos": float(trainer.state.total_flos),
        "train_runtime": seconds,
        "train_samples_per_second": totals["pairs"] / seconds,
        "train_steps_per_second": trainer.state.global_step / seconds,
        **{f"train_{name}": value for name, value in totals.items()},
    }


def save(w: Workflow, run: OpenRun, inputs: Inputs, model: Model) -> None:
    """Save the artefact, load it afresh, and compare the scores of some rows.

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
    folder = save_artefact(model.loaded, run.folder / "model", template=inputs.template, contract=contract)
    checked = verify_artefact(folder, sequences, expected, device=str(inputs.device))
    log.info(
        "Saved %s; loaded afresh it scores %d texts as before (largest difference %.1e)",
        folder,
        checked.rows,
        checked.max_difference,
    )
