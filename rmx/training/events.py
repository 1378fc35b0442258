"""What happens at the end of a step or an epoch, and who is told: `due` and the callbacks.

`callbacks` of a configuration are `transformers.TrainerCallback`s. They are called at the moments that their
documentation names, with the same arguments, and what they set in `control` is done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from rmx.errors import CallbackError, ConfigError, RmxError

__all__ = ["Callbacks", "Due", "due", "schedule_events", "total_steps"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Due:
    """What has to be done after a step, in this order."""

    log: bool = False
    evaluate: bool = False
    save: bool = False
    stop: bool = False


def due(state: TrainerState, args: TrainingArguments, at: Literal["step", "epoch"] = "step") -> Due:
    """Return what is due at the end of a step, or at the end of an epoch, which follows its last step's end.

    The last step of a run is always logged. Where a strategy counts steps, it is also evaluated and saved.

    >>> args = TrainingArguments("run", eval_strategy="steps", eval_steps=2, logging_steps=3, use_cpu=True)
    >>> state = TrainerState(global_step=6, max_steps=7, logging_steps=3, eval_steps=2, save_steps=500)
    >>> due(state, args)
    Due(log=True, evaluate=True, save=False, stop=False)
    >>> state.global_step = 7
    >>> due(state, args)
    Due(log=True, evaluate=True, save=True, stop=True)
    """
    step, epoch = state.global_step, state.epoch
    if at == "epoch":
        return Due(
            log=args.logging_strategy == IntervalStrategy.EPOCH,
            evaluate=args.eval_strategy == IntervalStrategy.EPOCH and args.eval_delay <= epoch,
            save=args.save_strategy == SaveStrategy.EPOCH,
        )
    last = step >= state.max_steps

    def falls_on(every: int) -> bool:
        return last or (every > 0 and step % every == 0)

    first = args.logging_first_step and step == 1
    return Due(
        log=last or first or (args.logging_strategy == IntervalStrategy.STEPS and falls_on(state.logging_steps)),
        evaluate=args.eval_strategy == IntervalStrategy.STEPS
        and args.eval_delay <= step
        and falls_on(state.eval_steps),
        save=args.save_strategy == SaveStrategy.STEPS and falls_on(state.save_steps),
        stop=last,
    )


def total_steps(args: TrainingArguments, steps_per_epoch: int) -> tuple[int, int]:
    """Return (optimizer steps of the whole run, epochs that they touch).

    >>> total_steps(TrainingArguments("run", num_train_epochs=1.5, use_cpu=True), 5)
    (8, 2)
    >>> total_steps(TrainingArguments("run", max_steps=11, use_cpu=True), 5)
    (11, 3)
    """
    steps = args.max_steps if args.max_steps > 0 else -int(-args.num_train_epochs * steps_per_epoch // 1)
    return steps, -(-steps // max(steps_per_epoch, 1))


def schedule_events(state: TrainerState, args: TrainingArguments, steps: int, epochs: int) -> None:
    """Put the length of a run, and how often what is due, into its state.

    >>> state = TrainerState()
    >>> schedule_events(state, TrainingArguments("run", logging_steps=0.25, use_cpu=True), steps=10, epochs=2)
    >>> state.max_steps, state.num_train_epochs, state.logging_steps  # a quarter of ten steps, rounded up
    (10, 2, 3)
    """
    state.max_steps, state.num_train_epochs = steps, epochs
    state.train_batch_size = args.per_device_train_batch_size
    state.compute_steps(args, steps)
    if args.load_best_model_at_end and args.eval_strategy == args.save_strategy == IntervalStrategy.STEPS:
        # Fractions were rounded up each; the best can only be a checkpoint of a step that was evaluated.
        state.save_steps = max(1, round(state.save_steps / state.eval_steps)) * state.eval_steps


class Callbacks:
    """The callbacks of one run, with what each of them is given.

    Args:
        named: the user's, under their names in `callbacks`.
        own: rmx's own; called first.
        given: the documented keyword arguments: model, processing_class, optimizer, lr_scheduler, ...

    Raises:
        ConfigError: one of them is not a TrainerCallback.
    """

    def __init__(self, named: Mapping[str, Any] | None = None, own: Iterable[TrainerCallback] = (), **given: Any):
        for name, callback in (named or {}).items():
            if not isinstance(callback, TrainerCallback):
                raise ConfigError(
                    f"callbacks.{name}: {type(callback).__name__} is not a transformers.TrainerCallback; "
                    "its _target_ must be a class derived from it"
                )
        self.own, self.named, self.given = list(own), dict(named or {}), given

    def call(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any
    ) -> TrainerControl:
        """Call one event of every callback; returns the control that the last of them returned, or the one given.

        Raises:
            CallbackError: a user's callback raised; its traceback goes to run.log.
        """
        for callback in self.own:
            control = getattr(callback, event)(args, state, control, **self.given, **values) or control
        for name, callback in self.named.items():
            try:
                control = getattr(callback, event)(args, state, control, **self.given, **values) or control
            except RmxError:
                raise  # it ends the run on purpose, or a signal came while it ran
            except Exception as error:  # a user's code: whatever it raises is named with the callback
                log.debug("callbacks.%s: traceback of %s", name, event, exc_info=True)
                raise CallbackError(
                    f"callbacks.{name}: {type(callback).__name__}.{event} raised {type(error).__name__}: {error} "
                    f"(step {state.global_step}). The error is in the callback; its traceback is in run.log"
                ) from error
        return control

    def states(self, control: TrainerControl) -> dict[str, list[dict[str, Any]]]:
        """Return what transformers stores in trainer_state.json: class name → states, in order."""
        found: dict[str, list[dict[str, Any]]] = {}
        for part in [*self.own, *self.named.values(), control]:
            if isinstance(part, ExportableState):
                found.setdefault(type(part).__name__, []).append(part.state())
        return found

    def restore(self, states: Mapping[str, Any]) -> None:
        """Give every callback the state that it had; one that is new starts fresh.

        A callback made with other arguments than then (`resume_allow=[callbacks]`) keeps the new ones.
        """
        left = {name: list(stored if isinstance(stored, list) else [stored]) for name, stored in states.items()}
        for callback in [*self.own, *self.named.values()]:
            if isinstance(callback, ExportableState) and left.get(type(callback).__name__):
                stored = left[type(callback).__name__].pop(0)
                for name, value in stored.get("attributes", {}).items():
                    setattr(callback, name, value)
