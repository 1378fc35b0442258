"""The train phase: optimise, keep the best, save the artefact, and prove that it scores as the model in memory does."""

from __future__ import annotations

import logging
import time
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
    from rmx.run.state import Run

__all__ = ["train"]

log = logging.getLogger(__name__)

VERIFIED_ROWS = 16  # comparisons that the saved artefact has to score as the model in memory did


def train(run: Run) -> dict[str, float]:
    """Train `run`'s model and leave `model/` in its folder; returns train_results.json's content."""
    started = time.perf_counter()
    checkpoints = CheckpointFolder(run.folder / "checkpoints", run_facts(run))
    start = choose(checkpoints, run.workflow.resume, run.workflow.resume_allow, rank=run.rank, ranks=run.ranks)
    if run.is_main:
        write_setup(run.folder, run.workflow.config)
    rewind(run.recorder, start)
    trainer = build_trainer(run, checkpoints)
    check_trainable(run.loaded.model)
    run.scorer.model.train()
    trainer.train(resume_from_checkpoint=None if start is None else str(start))
    run.step, run.epoch = trainer.state.global_step, trainer.state.epoch
    best = trainer.state.best_global_step
    if trainer.args.load_best_model_at_end and best and best != run.step:
        log.info("Kept the checkpoint of step %d of %d: the best by %s", best, run.step, run.args.metric_for_best_model)
    metrics = train_metrics(run, trainer, time.perf_counter() - started)
    run.scorer.model.eval()
    save(run)
    return metrics


def build_trainer(run: Run, checkpoints: CheckpointFolder) -> RewardTrainer:
    """Return the trainer of this run, with the user's callbacks and ours."""
    w = run.workflow
    return RewardTrainer(
        run.scorer,
        run.args,
        loss=w.loss,
        train=run.train_rows,
        evals=run.eval_rows,
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


def run_facts(run: Run) -> dict[str, Any]:
    """Return what this run is made with, for the manifests of its checkpoints: settings, rows, machine."""
    w = run.workflow
    parts = ("model", "data", "template", "loss", "trainer", "peft", "callbacks", "seed")
    return {
        "config": redact(describe({part: getattr(w, part) for part in parts})),
        "rows": rows_facts({"train": run.train_rows, **run.eval_rows}),
        "ranks": run.ranks,
        "environment": environment_facts(run.device),
    }


def train_metrics(run: Run, trainer: RewardTrainer, seconds: float) -> dict[str, float]:
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


def save(run: Run) -> None:
    """Save the artefact, load it afresh, and compare the scores of some rows.

    Raises:
        ArtefactError: the loaded artefact gives other scores.
    """
    if not run.is_main:
        return
    rows = next(iter(run.eval_rows.values()), run.train_rows)[:VERIFIED_ROWS]
    expected = [float(reward) for rewards in run.scorer.rewards(rows) for reward in rewards]
    sequences = [[*row.prefix_ids, *suffix] for row in rows for suffix in row.suffix_ids]
    contract = {
        "max_tokens": run.max_tokens,
        "truncation": run.workflow.data.truncation,
        "precision": run.scorer.engine.precision,
    }
    folder = save_artefact(run.loaded, run.folder / "model", template=run.template, contract=contract)
    checked = verify_artefact(folder, sequences, expected, device=str(run.device))
    log.info(
        "Saved %s; loaded afresh it scores %d texts as before (largest difference %.1e)",
        folder,
        checked.rows,
        checked.max_difference,
    )
