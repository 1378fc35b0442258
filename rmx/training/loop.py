"""The training loop.

    for every step:   rewards → loss → backward, micro-batch by micro-batch
                      clip, check that everything is finite, optimizer, schedule
                      what is due: log, evaluate, save, stop

* One dataloader item is one optimizer step (`rmx.training.steps`). It is split into micro-batches by tokens, so
  memory is a matter of `max_tokens_per_micro_batch` alone and results do not depend on it.
* The loss is the sum over pairs divided by the pairs of the *global* step, never a mean of means.
* Randomness (dropout) is seeded per step: evaluating, logging or resuming cannot change what follows.
* The host reads one small vector per step: the step's sums and the gradient norm. A value that is not finite stops
  the run before the optimizer moves; everything that is logged is made from those sums.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, enable_full_determinism
from transformers.trainer_utils import SaveStrategy
from transformers.utils.logging import set_verbosity

from rmx.checkpoints import CheckpointFolder, verify
from rmx.engine import EmbeddingGradient, Engine
from rmx.errors import CheckpointError, ConfigError, Interrupted, ModelError, NonFiniteError, RmxError, TimeUp
from rmx.launch import note
from rmx.records import Batch, EncodedComparison, PairTable
from rmx.run.signals import StopSignals
from rmx.scoring.evaluation import evaluate_pairs
from rmx.scoring.scorer import Scorer
from rmx.trackers import Recorder
from rmx.training.arguments import TrainerSettings
from rmx.training.choose_strategy import strategy_for
from rmx.training.compiled import require_graphs
from rmx.training.events import Callbacks, due, schedule_events, total_steps
from rmx.training.flops import count_flops, speed
from rmx.training.memory_use import memory_in_words
from rmx.training.noise import EmbeddingNoise
from rmx.training.optimizers import follows_a_metric, make_optimizer, make_schedule, restore_schedule, switch
from rmx.training.position import Pending, Position
from rmx.training.preflight import check_before_model
from rmx.training.resuming import Start
from rmx.training.saver import Saver
from rmx.training.steps import MicroBatches, Step, StepDataset, make_loader
from rmx.training.strategies import OneProcess
from rmx.training.sums import DEVICE_SUMS, HOST_SUMS, SUMS, Totals, means, step_sums, sum_dtype
from rmx.training.time_limit import TimeLimit
from rmx.training.token_budget import checkpoint_activations, starting_budget

__all__ = ["Loop"]

log = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor, PairTable], Tensor]


class Loop:
    """Trains a scalar-head model on encoded comparisons.

    Args:
        scorer: the model with its engine; the same object evaluates and predicts.
        args: the arguments of transformers, as `TrainerSettings.training_arguments` makes them.
        loss: maps (winner [M], loser [M], pairs) to a loss per pair [M], in nats.
        rows: encoded comparisons to train on.
        evals: named evaluation sets.
        settings: rmx's own knobs.
        recorder: where every number goes.
        strategy: how several processes share the model and a step; from the number of processes by default.
        checkpoints: where checkpoints go, and what stands in their manifests.
        signals: who takes SIGTERM, SIGUSR1 and Ctrl-C.
        callbacks: the user's, by name.
        own: rmx's own callbacks.
        progress: told (scored, all) while an evaluation goes on.

    Raises:
        ConfigError: the rows are less than one step, early stopping has nothing to go by, or the metric is unknown.
    """

    def __init__(
        self,
        scorer: Scorer,
        args: TrainingArguments,
        *,
        loss: Loss,
        rows: Sequence[EncodedComparison],
        evals: Mapping[str, Sequence[EncodedComparison]],
        settings: TrainerSettings,
        recorder: Recorder,
        strategy: OneProcess | None = None,
        checkpoints: CheckpointFolder | None = None,
        signals: StopSignals | None = None,
        callbacks: Mapping[str, TrainerCallback] | None = None,
        own: Sequence[TrainerCallback] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.strategy = strategy or strategy_for(args)
        check_before_model(
            settings, args, callbacks, comparisons=len(rows), sets=list(evals), ranks=self.strategy.ranks
        )
        set_verbosity(args.get_process_log_level())
        if args.full_determinism:
            enable_full_determinism(args.seed)
        self.scorer, self.model, self.args, self.loss = scorer, scorer.model, args, loss
        self.evals, self.recorder, self.progress = dict(evals), recorder, progress
        self.checkpoints = checkpoints or CheckpointFolder(Path(str(args.output_dir)))
        self.signals = signals or StopSignals()

        checkpoint_activations(self.model, args)
        precision = settings.resolved_precision(args.device.type, training=True)
        self.engine: Engine = scorer.engine.with_precision(precision)
        budget = settings.max_tokens_per_micro_batch
        if budget == "auto":  # the smallest of all: processes that compute a layer together run the same micro-batches
            budget = -self.strategy.largest([-starting_budget(self.engine, args)])[0]
        self.first_budget = budget
        self.layout = MicroBatches(self.engine.collator, self.first_budget)
        self.steps = StepDataset(
            rows,
            per_step=settings.step_size(self.strategy.ranks),
            collate=self.layout,
            seed=args.seed,
            rank=self.strategy.rank,
            ranks=self.strategy.ranks,
            shuffle=args.train_sampling_strategy != "sequential",
            drop_last=args.dataloader_drop_last,
        )
        self.loader = make_loader(self.steps, args)
        self.callbacks = Callbacks(
            callbacks,
            own,
            model=self.model,
            processing_class=scorer.tokenizer,
            optimizer=None,
            lr_scheduler=None,
            train_dataloader=self.loader,
            eval_dataloader=None,
        )
        self.control = TrainerControl()
        self.position = self.first_position()
        self.said_memory = False
        self.stop = False  # whether any rank has got a signal, or the time is up, as all know it
        self.time_is_up = False
        self.limit = TimeLimit(None if settings.stop_after is None else str(settings.stop_after))
        self.saver = Saver(scorer, args, self.strategy, self.checkpoints, self.limit, async_save=settings.async_save)
        self.tell("on_init_end")

    @property
    def state(self) -> TrainerState:
        """What callbacks see."""
        return self.position.state

    # --- From the first step to the last ------------------------------------------------------------------------------

    def train(self, start: Start | None = None) -> dict[str, float]:
        """Train from the first step, or from a checkpoint, to the end; returns the numbers of the whole run.

        Raises:
            Interrupted: a signal has stopped the run, after its checkpoint.
            TimeUp: the time of `trainer.stop_after` is up; the checkpoint is there.
            NonFiniteError: a reward, the loss or the gradient was not finite.
        """
        with self.signals, self.signals.deferred(), self.strategy.together():
            self.begin(start)
            while not self.control.should_training_stop and self.position.epoch < self.state.num_train_epochs:
                self.control.should_epoch_stop = False
                self.tell("on_epoch_begin")
                for step in self.loader.epoch(self.position.epoch, self.position.step):
                    self.optimizer_step(step)
                    self.limit.step_done(self.steps.per_step)
                    self.end_step()
                    if self.control.should_training_stop or self.control.should_epoch_stop:
                        break
                self.end_epoch()
            return self.finish()

    def optimizer_step(self, step: Step) -> None:
        """Move the weights once."""
        note(f"at step {self.state.global_step + 1}")
        self.control.should_log = self.control.should_evaluate = self.control.should_save = False
        self.tell("on_step_begin")
        sums = self.gradients(step)
        require_graphs(self.args)
        norm = self.check_finite(step, sums, self.strategy.clip(self.trained, self.args.max_grad_norm))
        self.tell("on_pre_optimizer_step")
        self.optimizer.step()
        self.tell("on_optimizer_step")
        self.position.last = {"grad_norm": norm, "learning_rate": float(self.optimizer.param_groups[0]["lr"])}
        if not self.waits_for_metric:
            self.schedule.step()
        self.say_memory()
        self.module.zero_grad()
        self.state.global_step += 1
        self.position.step += 1
        self.state.epoch = self.position.epoch + self.position.step / len(self.steps)
        every = self.args.torch_empty_cache_steps
        if every and self.state.global_step % every == 0:
            torch.cuda.empty_cache()  # does nothing where there is no GPU

    def say_memory(self) -> None:
        """Say once what each of several processes holds, when the optimizer's state is there."""
        if self.said_memory or self.args.world_size <= 1:
            return
        self.said_memory = True
        held = self.strategy.largest(self.strategy.held(self.model, self.optimizer))
        log.info("parallel: %s; the fullest process holds %s", self.strategy.words, memory_in_words(held))

    def gradients(self, step: Step) -> Tensor:
        """Add up the gradients of a step; returns its sums, in the order of `DEVICE_SUMS`, still on the device."""
        self.module.train()
        switch(self.optimizer, "train")
        seed = (self.args.seed * 1_000_003 + step.index) * self.strategy.ranks + self.strategy.rank
        while True:
            torch.manual_seed(seed % 2**63)
            try:
                with self.embedding_gradient.rows_only():
                    return self.forward_backward(step)
            except torch.OutOfMemoryError as error:
                self.halve_budget(step, error)

    def forward_backward(self, step: Step) -> Tensor:
        """Rewards, loss and backward of one micro-batch after another."""
        # Workers lay steps out ahead; after memory ran out, theirs are too large.
        batches = list(step.batches if step.collate == self.layout else self.layout(step.comparisons))
        work = 0 if step.is_filler else len(batches)
        if (fill := self.strategy.in_step(len(batches)) - len(batches)) > 0:  # others have more: they need this one
            batches += self.layout([min(step.comparisons, key=lambda c: c.shared_tokens)]) * fill
        sums = torch.zeros(len(DEVICE_SUMS), dtype=sum_dtype(self.args.device), device=self.args.device)
        self.rewards: list[tuple[Batch, Tensor]] = []
        counts = not step.is_filler and step.pair_weight > 0  # pairs of weight 0 alone move nothing
        scale = self.strategy.ranks / step.pair_weight if counts else 0.0
        for i, batch in enumerate(batches, start=1):
            own = i <= work
            if i == len(batches):
                self.backward(batch, scale if own else 0.0, sums, counts=own)
            else:
                with self.strategy.local_gradients():
                    self.backward(batch, scale if own else 0.0, sums, counts=own)
                self.tell("on_substep_end")
        return sums

    def backward(self, batch: Batch, scale: float, sums: Tensor, *, counts: bool) -> None:
        """Add a micro-batch's gradients to the parameters, and its sums to `sums` where it counts."""
        with self.noise.of(batch):
            rewards = self.engine.rewards(batch, self.module)
        pairs = batch.pairs.to(rewards.device)
        winner, loser = rewards[pairs.winner], rewards[pairs.loser]
        terms = self.loss(winner, loser, pairs)
        ((pairs.weight * terms).sum() * scale).backward()
        self.rewards.append((batch, rewards.detach()))
        if counts:
            sums += step_sums(winner.detach(), loser.detach(), terms.detach(), pairs)

    def halve_budget(self, step: Step, error: torch.OutOfMemoryError) -> None:
        """Halve the token budget, so that the same step can be computed again: its gradients come out the same.

        Raises:
            ModelError: nothing is left to halve, or other ranks wait for this one.
        """
        longest, tokens = max(self.engine.tokens(c) for c in step.comparisons), self.layout.max_tokens
        if not self.strategy.can_repeat or tokens <= longest // 2:
            raise ModelError(
                f"out of GPU memory with trainer.max_tokens_per_micro_batch={tokens} (the longest comparison "
                f"of this step has {longest} tokens); set a lower one, trainer.gradient_checkpointing=true, "
                "peft=lora, or a lower data.max_tokens"
            ) from error
        self.module.zero_grad()
        self.rewards = []
        torch.cuda.empty_cache()
        self.use_budget(tokens // 2)
        log.warning("Out of GPU memory: trainer.max_tokens_per_micro_batch is now %d, step repeated", tokens // 2)

    def use_budget(self, max_tokens: int) -> None:
        """Lay out what comes next in micro-batches of so many token positions."""
        self.layout = self.steps.collate = MicroBatches(self.engine.collator, max_tokens)
        self.position.max_tokens = (self.first_budget, max_tokens)

    def check_finite(self, step: Step, sums: Tensor, norm: Tensor) -> float:
        """Read the step's numbers from the device, once, and count them; returns the gradient norm.

        Raises:
            NonFiniteError: one of them is not finite; the optimizer has not moved.
        """
        *values, norm_value = torch.cat([sums, norm.reshape(1).to(sums)]).tolist()
        if not all(map(math.isfinite, (*values, norm_value))):
            raise NonFiniteError(self.describe_non_finite(norm_value))
        self.position.totals.add([*values, *self.work(step)])
        return norm_value

    def work(self, step: Step) -> list[float]:
        """Return what the step had to compute, in the order of `HOST_SUMS`."""
        if step.is_filler:
            return [0.0] * len(HOST_SUMS)
        batches = [batch for batch, _ in self.rewards]
        return [
            sum(batch.tokens for batch in batches),
            sum(comparison.shared_tokens for comparison in step.comparisons),
            sum(map(self.flops.batch, batches)),
            self.flops.padded(step.comparisons, self.args.per_device_train_batch_size),
        ]

    def describe_non_finite(self, norm: float) -> str:
        """Say at which step and in which rows a value was not finite."""
        rows = [id_ for batch, _ in self.rewards for id_ in batch.ids]
        bad = [id_ for batch, rewards in self.rewards if not torch.isfinite(rewards).all() for id_ in batch.ids]
        named = ", ".join((bad or rows)[:8]) + (", ..." if len(bad or rows) > 8 else "")
        what = "a reward" if bad else "the loss or the gradient"
        return (
            f"step {self.state.global_step + 1}: {what} is not finite (gradient norm {norm}); the optimizer was not "
            f"moved and the last checkpoint is good. Rows: {named}. Lower trainer.learning_rate, or look at the rows"
        )

    # --- After a step -------------------------------------------------------------------------------------------------

    def end_step(self) -> None:
        """Do what is due after a step."""
        self.ask(due(self.state, self.args))
        self.tell("on_step_end")
        self.agree()
        if self.control.should_epoch_stop:
            self.position.step = len(self.steps)
        ended = self.position.step >= len(self.steps)
        self.act(Pending(epoch_end=ended or self.control.should_training_stop))

    def end_epoch(self) -> None:
        """Do what is due after an epoch."""
        self.ask(due(self.state, self.args, at="epoch"))
        self.tell("on_epoch_end")
        if self.position.step >= len(self.steps):  # else the run ends within the epoch; given more steps it goes on
            self.position.epoch, self.position.step = self.position.epoch + 1, 0
        self.agree()
        self.act(Pending())

    def ask(self, wanted: Any) -> None:
        """Put what is due into the control, where callbacks see it and may change it."""
        control = self.control
        control.should_log, control.should_evaluate, control.should_save = wanted.log, wanted.evaluate, wanted.save
        control.should_training_stop = control.should_training_stop or wanted.stop

    def tell(self, event: str, **values: Any) -> None:
        """Call one event of all callbacks."""
        self.control = self.callbacks.call(event, self.args, self.state, self.control, **values)

    def agree(self) -> None:
        """Let all ranks do what a callback, a signal or the clock asked of one of them."""
        note(f"after step {self.state.global_step}, where all ranks agree on what is due")
        names = ("should_log", "should_evaluate", "should_save", "should_epoch_stop", "should_training_stop")
        mine = [int(getattr(self.control, name)) for name in names]
        *flags, signal, up = self.strategy.largest([*mine, self.signals.received or 0, int(self.is_time_up())])
        for name, flag in zip(names, flags, strict=True):
            setattr(self.control, name, bool(flag))
        self.stop, self.time_is_up = signal > 0 or up > 0, up > 0
        if signal:
            self.signals.received = signal

    def is_time_up(self) -> bool:
        """Whether what comes next would end too late, by the clock of the first process."""
        if self.strategy.process != 0:
            return False
        evaluates = sum(map(len, self.evals.values())) if self.control.should_evaluate else 0
        last = self.control.should_training_stop
        return self.limit.is_up(evaluates=evaluates, saves=self.control.should_save, is_last=last)

    def act(self, after: Pending) -> None:
        """Log, evaluate and save as the control says; then stop, with a checkpoint, if a signal or the clock says so.

        Args:
            after: what follows at this step.

        Raises:
            Interrupted: a signal has asked for the end of the run; the checkpoint is there.
            TimeUp: its time is up; the checkpoint is there.
        """
        control, slow = self.control, self.control.should_evaluate or self.control.should_save
        if control.should_log:
            self.log_window()
        try:
            if control.should_evaluate and not self.time_is_up:
                self.evaluate()
        except Interrupted:  # only an evaluation lets signals through; it left no trace and is repeated on resume
            self.seal(Pending(True, control.should_save, after.epoch_end), scheduled=False)
            raise self.stopped() from None
        if control.should_evaluate and self.time_is_up:  # it would end too late; the next start makes it
            self.seal(Pending(True, control.should_save, after.epoch_end), scheduled=False)
            raise self.stopped()
        if control.should_save:
            self.save(after)
        if slow:  # a signal may have come to one of the ranks meanwhile
            self.agree()
        if self.stop:
            if self.saver.sealed_step != self.state.global_step:
                self.seal(after, scheduled=False)
            raise self.stopped()

    def log_window(self) -> None:
        """Log the exact means over all pairs since the last log."""
        position, step = self.position, self.state.global_step
        self.control.should_log = False
        if step <= position.logged_step:
            return
        now = perf_counter()
        sums = self.strategy.total(position.totals.values())
        window, run = sums[: len(SUMS)], sums[len(SUMS) :]
        seconds, position.window_started = now - position.window_started, now
        position.totals.start_window()
        position.logged_step = step
        self.count_tokens(run)
        logs = means(window)
        logs |= speed(logs, seconds, self.strategy.ranks, self.args.device, self.engine.precision)
        logs |= self.peak_memory()
        logs |= {name: math.nan if value is None else value for name, value in position.last.items()}
        self.recorder.log(step, self.state.epoch, "train", logs)
        self.publish(logs)

    def peak_memory(self) -> dict[str, float]:
        """Return the most memory that the tensors on one device have taken so far; nothing where there is no GPU."""
        if self.args.device.type != "cuda":
            return {}
        return {"peak_memory_gb": self.strategy.largest([torch.cuda.max_memory_allocated(self.args.device)])[0] / 1e9}

    def count_tokens(self, run: Sequence[float]) -> None:
        """Bring what the state says of tokens and floating-point operations up to date, from the sums of all ranks."""
        tokens = run[SUMS.index("tokens")]
        self.state.total_flos = run[SUMS.index("flops")]
        if self.args.include_num_input_tokens_seen != "no":
            self.state.num_input_tokens_seen = int(tokens)

    def publish(self, logs: dict[str, float]) -> None:
        """Hand numbers to the callbacks, and keep them in the state's history."""
        logs = {**logs, "epoch": self.state.epoch}
        if self.args.include_num_input_tokens_seen != "no":
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.tell("on_log", logs=logs)

    def evaluate(self) -> None:
        """Score every evaluation set, log its metrics, and compare with the best so far."""
        if not self.evals:  # a callback asked for it
            raise ConfigError("trainer: a callback asked for an evaluation, and there is no evaluation set; give one")
        started = perf_counter()
        note(f"evaluating after step {self.state.global_step}")
        switch(self.optimizer, "eval")
        with self.limit.timed("evaluation"), self.strategy.interruptible(self.signals):
            result = evaluate_pairs(self.scorer, self.evals, self.loss, progress=self.progress)
        for name, metrics in result.metrics.items():
            self.recorder.log(self.state.global_step, self.state.epoch, name, metrics)
        flat = {f"{name}_{key}": value for name, metrics in result.metrics.items() for key, value in metrics.items()}
        flat["eval_runtime"] = perf_counter() - started
        self.publish(flat)
        self.control.should_evaluate = False
        self.tell("on_evaluate", metrics=flat)
        self.compare(flat)
        self.position.window_started += perf_counter() - started  # evaluation is not training time

    def compare(self, metrics: Mapping[str, float]) -> None:
        """Remember the step with the best metric; a schedule that follows the metric moves."""
        if self.args.metric_for_best_model is None:
            return
        name = f"eval_{self.args.metric_for_best_model.removeprefix('eval_')}"
        if name not in metrics:
            raise ConfigError(f"trainer.metric_for_best_model: {name} was not measured; give one of {sorted(metrics)}")
        value, state = metrics[name], self.state
        if self.waits_for_metric and state.global_step:
            self.schedule.step(value)
        saves_best = self.args.save_strategy == SaveStrategy.BEST
        if self.args.load_best_model_at_end and not (saves_best or self.control.should_save):
            return  # the best has to be one that is kept
        sign = 1 if self.args.greater_is_better else -1
        better = state.best_metric is None or sign * value > sign * state.best_metric
        if better:
            state.best_metric = value
            if self.args.save_strategy != SaveStrategy.NO:
                state.best_global_step = state.global_step
        if saves_best:
            self.control.should_save = better

    # --- Checkpoints --------------------------------------------------------------------------------------------------

    def save(self, after: Pending) -> None:
        """Make the checkpoint that is due, and delete those that are no longer wanted."""
        step = self.state.global_step
        if self.state.best_global_step == step and self.args.save_strategy != SaveStrategy.NO:
            self.state.best_model_checkpoint = str(self.checkpoints.path(step))
        self.seal(after, scheduled=True)
        self.saver.scheduled_is_made()
        self.control.should_save = False
        self.tell("on_save")

    def seal(self, pending: Pending, *, scheduled: bool) -> None:
        """Write a checkpoint of this step, whole or not at all."""
        self.saver.finish()
        note(f"saving the checkpoint of step {self.state.global_step}")
        switch(self.optimizer, "eval")
        totals = self.strategy.gathered(self.position.totals.values())
        self.count_tokens([math.fsum(column) for column in zip(*totals, strict=True)][len(SUMS) :])

        def write_position(stage: Path) -> None:
            self.position.write(
                stage,
                pending=pending,
                scheduled=scheduled,
                totals=totals,
                metrics_bytes=self.recorder.position(),
                callbacks=self.callbacks.states(self.control),
            )

        self.saver.write(self.position, self.optimizer, self.schedule, write_position, scheduled=scheduled)

    def stopped(self) -> RmxError:
        """Return the error that ends a run after a signal, or when its time is up, once its checkpoint is there."""
        self.saver.finish()
        checkpoint = str(self.checkpoints.path(self.state.global_step))
        if self.signals.received:
            return Interrupted(int(self.signals.received), checkpoint)
        step, steps = self.state.global_step, self.state.max_steps
        return TimeUp(self.strategy.first(lambda: self.limit.ended_in_words(step, steps, checkpoint)))

    # --- The beginning and the end ------------------------------------------------------------------------------------

    def first_position(self) -> Position:
        """Return the position of a run that has not begun."""
        steps, epochs = total_steps(self.args, len(self.steps))
        state = TrainerState(is_world_process_zero=self.strategy.process == 0)
        state.is_local_process_zero = self.args.local_process_index == 0
        schedule_events(state, self.args, steps, epochs)
        return Position(state, Totals(), (self.first_budget, self.first_budget))

    def begin(self, start: Start | None) -> None:
        """Place the model, make optimizer and schedule, and put everything where a checkpoint says it was."""
        if start is not None:
            self.strategy.load_model(self.model, start.checkpoint)
        self.noise = EmbeddingNoise(self.model, self.args.neftune_noise_alpha)
        self.flops = count_flops(self.engine)
        self.module = self.strategy.place(self.model, self.try_backward)
        self.scorer.turns = self.strategy.turns()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]  # placing may have replaced them
        self.embedding_gradient = EmbeddingGradient(self.model, ranks=max(self.args.world_size, 1))
        self.module, self.optimizer = self.strategy.joined(self.module, make_optimizer(self.model, self.args))
        self.schedule = make_schedule(self.optimizer, self.args, self.state.max_steps)
        self.waits_for_metric = follows_a_metric(self.schedule)
        self.callbacks.given |= {"optimizer": self.optimizer, "lr_scheduler": self.schedule}
        if start is not None:
            self.restore(start)
        self.module.zero_grad()
        self.control.should_training_stop = False
        # Weights and optimizer state, which is what a checkpoint holds.
        self.limit.held_bytes = lambda: sum(self.strategy.held(self.model, self.optimizer)[::2])
        self.strategy.first(self.limit.begin)
        self.tell("on_train_begin")
        if start is not None:
            self.catch_up()
        elif self.args.eval_on_start:
            self.evaluate()

    def try_backward(self, module: nn.Module) -> None:
        """Run one comparison through a module, so that its parameters have the gradients that they will have."""
        shortest = min(self.steps.comparisons[:64], key=lambda c: c.shared_tokens)
        (batch,) = self.layout([shortest])
        self.engine.rewards(batch, module).sum().backward()

    def restore(self, start: Start) -> None:
        """Put optimizer, schedule and position where a checkpoint says they were."""
        checkpoint = start.checkpoint
        former = Position.read(
            checkpoint,
            rank=self.strategy.rank,
            ranks=self.strategy.ranks,
            max_tokens=self.first_budget,
            steps_per_epoch=len(self.steps),
        )
        steps, epochs = total_steps(self.args, len(self.steps))
        try:
            self.strategy.load_optimizer(self.optimizer, checkpoint)
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                f"{checkpoint}: its optimizer is of another kind ({error}); take trainer.optim back, or start anew "
                "with resume=never"
            ) from error
        restore_schedule(self.schedule, self.optimizer, checkpoint)
        if former.state.max_steps != steps:
            log.info(
                "This run was to end at step %d and now ends at step %d; the schedule of the new length holds from "
                "step %d on: learning rate %g",
                former.state.max_steps,
                steps,
                former.state.global_step + 1,
                self.optimizer.param_groups[0]["lr"],
            )
        self.position = former
        if not start.best_holds:
            former.state.best_metric = former.state.best_global_step = former.state.best_model_checkpoint = None
        self.saver.continue_from(former)
        schedule_events(former.state, self.args, steps, epochs)
        former.state.is_world_process_zero = self.strategy.process == 0
        former.state.is_local_process_zero = self.args.local_process_index == 0
        self.use_budget(former.max_tokens[1])
        self.callbacks.restore(former.stored_callbacks)

    def catch_up(self) -> None:
        """Do what was still to be done at the checkpoint's step, and stop where that was the last."""
        pending = self.position.pending
        self.control.should_training_stop = (
            self.position.stopped_early or self.state.global_step >= self.state.max_steps
        )
        if pending.evaluate:
            self.control.should_log, self.control.should_evaluate = False, True
            self.control.should_save = pending.save
            self.act(Pending(epoch_end=pending.epoch_end))
        if pending.epoch_end:
            self.end_epoch()

    def finish(self) -> dict[str, float]:
        """Keep the best weights where that is asked for, and return the numbers of the whole run."""
        self.log_window()  # where training stopped between two logs
        self.saver.finish()
        self.saver.rotate()  # a kill may have come between the last save and this
        switch(self.optimizer, "eval")
        best = self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None:
            verify(Path(best))
            self.strategy.load_model(self.model, Path(best))
        self.noise.remove()
        run = self.strategy.total(self.position.totals.run)
        seconds = self.position.seconds
        self.count_tokens(run)
        results = {
            "epoch": float(self.state.epoch or 0.0),
            "total_flos": float(self.state.total_flos),
            "train_runtime": seconds,
            "train_samples_per_second": run[SUMS.index("pairs")] / seconds,
            "train_steps_per_second": self.state.global_step / seconds,
            **{f"train_{name}": value for name, value in means(run).items()},
        }
        self.publish(dict(results))
        self.tell("on_train_end")
        return results
