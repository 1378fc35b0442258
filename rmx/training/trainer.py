"""The optimisation loop on comparisons, on top of `transformers.Trainer`.

What differs from the stock Trainer, and why:

* One dataloader item is one optimizer step (`rmx.training.steps`). It is split into micro-batches by tokens here, so
  memory is a matter of `max_tokens_per_micro_batch` alone and results do not depend on it.
* The loss is the sum over pairs divided by the pairs of the *global* step, never a mean of means.
* Randomness (dropout) is seeded per step: evaluating, logging or resuming cannot change what follows.
* The host reads one small vector per step: gradient norm and the step's sums. A non-finite value stops the
  run before the optimizer moves; everything that is logged is made from those sums.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments

from rmx.checkpoints import CheckpointFolder
from rmx.engine import EmbeddingGradient, Engine
from rmx.errors import ConfigError, ModelError, NonFiniteError
from rmx.models.quiet import quiet
from rmx.records import Batch, EncodedComparison, PairTable
from rmx.run.signals import StopSignals, ignore_stop_signals
from rmx.scoring.evaluation import Evaluation, evaluate_pairs
from rmx.scoring.scorer import Scorer
from rmx.trackers import Recorder
from rmx.training.arguments import TrainerSettings
from rmx.training.continuing import ContinuingTrainer
from rmx.training.steps import Step, StepDataset, StepLoader
from rmx.training.sums import SUMS, Totals, step_sums, sum_dtype
from rmx.training.token_budget import starting_budget

__all__ = ["RewardTrainer"]

log = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor, PairTable], Tensor]


class RewardTrainer(ContinuingTrainer):
    """Trains a scalar-head model on encoded comparisons.

    Args:
        scorer: the model with its engine; the same object evaluates and predicts.
        loss: maps (winner [M], loser [M], pairs) to a loss per pair [M], in nats.
        train: encoded comparisons, or None where only evaluation is wanted.
        evals: named evaluation sets.
        settings: rmx's own knobs.
        recorder: where every number goes.
        checkpoints: where checkpoints go, and what stands in their manifests.
        signals: who takes SIGTERM, SIGUSR1 and Ctrl-C.
    """

    loss_is_scaled_for_ga = True  # the normaliser below is the global step's

    def __init__(
        self,
        scorer: Scorer,
        args: TrainingArguments,
        *,
        loss: Loss,
        train: Sequence[EncodedComparison] | None,
        evals: Mapping[str, Sequence[EncodedComparison]],
        settings: TrainerSettings,
        recorder: Recorder,
        callbacks: Sequence[TrainerCallback] = (),
        checkpoints: CheckpointFolder | None = None,
        signals: StopSignals | None = None,
    ) -> None:
        super().__init__(
            model=scorer.model,
            args=args,
            eval_dataset=dict(evals) or None,
            processing_class=scorer.tokenizer,
            callbacks=[Totals(), *callbacks],
        )
        from transformers import PrinterCallback

        self.remove_callback(PrinterCallback)  # rmx.run.screen shows progress
        self.scorer, self.engine, self.loss, self.recorder = scorer, scorer.engine, loss, recorder
        self.evals = dict(evals)
        precision = settings.resolved_precision(args.device.type, training=True)
        self.train_engine: Engine = self.engine.with_precision(precision)
        budget = settings.max_tokens_per_micro_batch
        self.max_tokens = starting_budget(scorer.model, args.device, precision) if budget == "auto" else budget
        self.start_continuing(checkpoints, signals, budget=self.max_tokens)
        self._embedding_gradient = EmbeddingGradient(scorer.model, ranks=args.world_size)
        self.last_evaluations: dict[str, Evaluation] = {}
        self._step_sums = torch.zeros(len(SUMS), dtype=torch.float64)
        self._step_rewards: list[tuple[Batch, Tensor]] = []
        self._window_started = time.perf_counter()
        self._parameters = sum(p.numel() for n, p in scorer.model.named_parameters() if "embed" not in n)
        if train is not None:
            self.train_dataset = self.steps = StepDataset(
                train,
                per_rank=args.per_device_train_batch_size,
                collate=self._collate,
                seed=args.seed,
                rank=args.process_index,
                ranks=args.world_size,
                shuffle=args.train_sampling_strategy != "sequential",
                drop_last=args.dataloader_drop_last,
            )

    # --- Data: one item per optimizer step ------------------------------------------------------------------

    def _collate(self, comparisons: Sequence[EncodedComparison]) -> list[Batch]:
        plan = self.train_engine.plan(comparisons, self.max_tokens)
        return [self.train_engine.collate([comparisons[i] for i in part]) for part in plan]

    def get_train_dataloader(self) -> StepLoader:
        """Return the loader of whole optimizer steps."""
        workers = self.args.dataloader_num_workers
        return StepLoader(
            self.steps,
            num_workers=workers,
            persistent_workers=workers > 0 and self.args.dataloader_persistent_workers,
            worker_init_fn=ignore_stop_signals,
            generator=torch.Generator().manual_seed(self.args.seed),  # leaves the global generator alone
        )

    def num_examples(self, dataloader: DataLoader) -> int:
        """Count comparisons, not steps."""
        return len(self.steps.comparisons)

    def get_batch_samples(self, epoch_iterator: Iterator[Step], num_batches: int, device: Any) -> tuple[list, None]:
        """Return one step; its pairs are counted in the step, not by labels."""
        return list(islice(epoch_iterator, num_batches)), None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer; what it refuses is a mistake in `trainer.*`.

        Raises:
            ConfigError: a learning rate, beta or weight decay outside its range.
        """
        try:
            return super().create_optimizer(model)
        except ValueError as error:
            raise ConfigError(f"trainer: the optimizer refuses these settings: {error}") from error

    # --- One optimizer step ---------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one step, in micro-batches; the loss is accounted for in `_get_grad_norm`."""
        model.train()
        seed = (self.args.seed * 1_000_003 + inputs.index) * self.args.world_size + self.args.process_index
        while True:
            torch.manual_seed(seed % 2**63)
            try:
                with self._embedding_gradient.rows_only():
                    self._forward_backward(model, inputs)
                return torch.zeros((), device=self.args.device)
            except torch.OutOfMemoryError as error:
                inputs = self._smaller(model, inputs, error)

    def _smaller(self, model: nn.Module, step: Step, error: torch.OutOfMemoryError) -> Step:
        """Halve the token budget and lay the same step out anew: the gradients come out the same."""
        longest = max(self.train_engine.tokens(c) for c in step.comparisons)
        if self.args.world_size > 1 or self.max_tokens <= longest // 2:
            raise ModelError(
                f"out of GPU memory with trainer.max_tokens_per_micro_batch={self.max_tokens} (the longest comparison "
                f"of this step has {longest} tokens); set a lower one, trainer.gradient_checkpointing=true, "
                "peft=lora, or a lower data.max_tokens"
            ) from error
        model.zero_grad()
        self._step_rewards = []
        torch.cuda.empty_cache()
        self.max_tokens //= 2
        log.warning("Out of GPU memory: trainer.max_tokens_per_micro_batch is now %d, step repeated", self.max_tokens)
        return dataclasses.replace(step, batches=self._collate(step.comparisons))

    def _forward_backward(self, model: nn.Module, step: Step) -> None:
        sums = torch.zeros(len(SUMS), dtype=sum_dtype(self.args.device), device=self.args.device)
        self._step_rewards = []
        scale = 0.0 if step.is_filler else self.args.world_size / step.pair_weight
        for i, batch in enumerate(step.batches):
            is_last = i == len(step.batches) - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(model):
                rewards = self.train_engine.rewards(batch, model)
                pairs = batch.pairs.to(rewards.device)
                winner, loser = rewards[pairs.winner], rewards[pairs.loser]
                terms = self.loss(winner, loser, pairs)
                self.accelerator.backward((pairs.weight * terms).sum() * scale)
            self._step_rewards.append((batch, rewards.detach()))
            if not step.is_filler:
                sums += step_sums(winner.detach(), loser.detach(), terms.detach(), pairs, batch.tokens)
        self._step_sums = sums

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | None = None) -> float:
        """Read the step's numbers from the device, once; stop here if one of them is not finite."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        norm = norm if isinstance(norm, Tensor) else torch.tensor(float(norm))
        *sums, norm_value = torch.cat([self._step_sums, norm.reshape(1).to(self._step_sums)]).tolist()
        if not (math.isfinite(norm_value) and all(map(math.isfinite, sums))):
            raise NonFiniteError(self._describe_non_finite(norm_value))
        self.totals.add(sums)
        self.current_flos += 6.0 * self._parameters * sums[SUMS.index("tokens")]
        return norm_value

    def _describe_non_finite(self, norm: float) -> str:
        rows = [id_ for batch, _ in self._step_rewards for id_ in batch.ids]
        bad = [id_ for batch, rewards in self._step_rewards if not torch.isfinite(rewards).all() for id_ in batch.ids]
        named = ", ".join((bad or rows)[:8]) + (", ..." if len(bad or rows) > 8 else "")
        what = "a reward" if bad else "the loss or the gradient"
        return (
            f"step {self.state.global_step + 1}: {what} is not finite (gradient norm {norm}); the optimizer was not "
            f"moved and the last checkpoint is good. Rows: {named}. Lower trainer.learning_rate, or look at the rows"
        )

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: floating-point operations are counted with the step's tokens."""
        return 0

    # --- Logging: everything comes from the sums -------------------------------------------------------------

    def _maybe_log_save_evaluate(
        self,
        tr_loss: Tensor,
        grad_norm: Tensor | float | None,
        model: nn.Module,
        trial: Any,
        epoch: float,
        ignore_keys_for_eval: list[str] | None,
        start_time: float,
        learning_rate: float | None = None,
    ) -> None:
        """Log the window's exact means ourselves, then let transformers evaluate and save."""
        due = self.control.should_log or self.state.global_step >= self.state.max_steps  # the last window, too
        if due and self.state.global_step > self._globalstep_last_logged:
            self._globalstep_last_logged = self.state.global_step
            seconds, self._window_started = time.perf_counter() - self._window_started, time.perf_counter()
            logs = self.totals.close_window(seconds, self.accelerator)
            logs["grad_norm"] = float(grad_norm) if grad_norm is not None else float("nan")
            logs["learning_rate"] = self._get_learning_rate() if learning_rate is None else learning_rate
            self.store_flos()
            self.recorder.log(self.state.global_step, self.state.epoch, "train", logs)
            self.log(dict(logs))
        self.control.should_log = False
        super()._maybe_log_save_evaluate(
            tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate
        )

    # --- Evaluation: the scorer's numbers, pooled rows --------------------------------------------------------

    def evaluate(  # type: ignore[override]  # encoded comparisons, not datasets
        self,
        eval_dataset: Mapping[str, Sequence[EncodedComparison]] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score every evaluation set and log its metrics; the pooled ones are `eval_*`, single sets `eval_<name>_*`."""
        started = time.perf_counter()
        with self.signals.prompt() if self.args.world_size == 1 else contextlib.nullcontext():
            result = evaluate_pairs(self.scorer, eval_dataset or self.evals, self.loss)
        self.last_evaluations = result.sets
        for name, metrics in result.metrics.items():
            self.recorder.log(self.state.global_step, self.state.epoch, name, metrics)
        flat = {f"{name}_{key}": value for name, metrics in result.metrics.items() for key, value in metrics.items()}
        flat["eval_runtime"] = time.perf_counter() - started
        self.log(dict(flat))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, flat)
        self._window_started += time.perf_counter() - started  # evaluation is not training time
        return flat

    # --- Saving: safetensors and JSON, no pickled arguments ---------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            target = output_dir or str(self.args.output_dir)
            with quiet():
                self.accelerator.unwrap_model(self.model).save_pretrained(target, state_dict=state_dict)
            self.scorer.tokenizer.save_pretrained(target)
