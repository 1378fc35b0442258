"""How to train: rmx's own knobs and, flat beside them, the arguments of `transformers.TrainingArguments`.

This module imports nothing heavy: a configuration can be built and checked without torch.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from rmx.config.shipped import conf_folder
from rmx.errors import ConfigError
from rmx.training.keys import ELSEWHERE, idle, refused
from rmx.training.ranges import RANGES
from rmx.training.time_limit import seconds_of
from rmx.values import Count, Mistake, raise_all, refuse_wrong_fields, schema_of, shown, wrong_values

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = [
    "BEST",
    "FORWARDS",
    "IDLE",
    "OWNED",
    "RANGES",
    "TrainerSettings",
    "greater_is_better",
    "shipped_values",
    "trainer_settings",
    "wrong_metric",
]

# Keys that `trainer_settings` does not name itself are arguments of this class; the config check reads its signature.
FORWARDS = {"trainer_settings": "transformers.training_args.TrainingArguments"}
OWNED, IDLE = ELSEWHERE, idle

# What a checkpoint can be the best by, and whether more is better.
BEST = {
    "loss": False, "accuracy": True, "accuracy_low": True, "accuracy_high": True, "accuracy_ties_half": True,
    "margin": True, "tie_rate": False, "truth_correlation": True,
}  # fmt: skip


@functools.cache
def _schemas() -> dict[str, Any]:
    return {name: schema_of(annotation) for name, annotation in RANGES.items()}


@functools.cache
def shipped_values() -> dict[str, Any]:
    """Return the values of conf/trainer/default.yaml: every configuration has them, asked for or not."""
    values = yaml.safe_load((conf_folder() / "trainer" / "default.yaml").read_text(encoding="utf-8"))
    return {name: value for name, value in values.items() if name != "_target_"}


_STRATEGIES = (("save", "steps"), ("eval", "no"))  # and what transformers does unless told


def _refuse_unsaved_best(arguments: Mapping[str, Any]) -> None:
    """Refuse `load_best_model_at_end` where the evaluated step is not the one that is saved.

    >>> _refuse_unsaved_best({"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "no"})
    Traceback (most recent call last):
        ...
    rmx.errors.ConfigError: trainer.load_best_model_at_end: true needs a checkpoint of each evaluated step, and \
trainer.save_strategy=no is not trainer.eval_strategy=steps; make the two equal, or set it to false
    """
    saves, evaluates = (str(arguments.get(f"{what}_strategy", usual)) for what, usual in _STRATEGIES)
    if arguments.get("load_best_model_at_end") and saves not in ("best", evaluates):
        raise ConfigError(
            "trainer.load_best_model_at_end: true needs a checkpoint of each evaluated step, and "
            f"trainer.save_strategy={saves} is not trainer.eval_strategy={evaluates}; make the two equal, or set it to "
            "false"
        )


@dataclass(frozen=True)
class TrainerSettings:
    """rmx's training knobs, and the `TrainingArguments` values as given; see `trainer_settings`."""

    max_tokens_per_micro_batch: Count | Literal["auto"] = "auto"
    encoding: Literal["auto", "shared", "separate"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    eval_precision: Literal["auto", "fp32", "bf16"] = "auto"
    comparisons_per_step: Count | None = None
    async_save: bool = False
    stop_after: str | int | float | None = None  # a number is refused with what to write
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "trainer")
        mistakes = wrong_values(self.arguments, _schemas(), "trainer")
        mistakes += refused(self.arguments)
        mistakes += self._contradictions()
        raise_all(mistakes)

    def _contradictions(self) -> list[Mistake]:
        """Two keys that name one decision, and do not agree."""
        mistakes = []
        asked, bf16 = self.precision, self.arguments.get("bf16")
        if bf16 is not None and asked != "auto" and (asked == "bf16") != bf16:
            mistakes.append(
                Mistake(
                    "trainer.bf16", f"{shown('bf16', bf16)} contradicts trainer.precision={asked}; give one of them"
                )
            )
        for old in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
            new = old.replace("gradient", "activation")
            both = self.arguments.get(old), self.arguments.get(new)
            if None not in both and both[0] != both[1]:
                text = f"{both[0]} contradicts trainer.{new}={both[1]}; give one of them"
                mistakes.append(Mistake(f"trainer.{old}", text))
        without_use = dict(idle(self.arguments))
        for name, key in without_use.items():
            if name not in shipped_values():
                switch = f"trainer.{key}={shown(key, self.arguments.get(key))}"
                mistakes.append(Mistake(f"trainer.{name}", f"does nothing with {switch}; leave it out, or change that"))
        if self.async_save and self.arguments.get("save_strategy") == "no":
            text = "does nothing with trainer.save_strategy=no; leave it out, or change that"
            mistakes.append(Mistake("trainer.async_save", text))
        if self.stop_after is not None:
            try:
                seconds_of(str(self.stop_after))
            except ValueError as error:
                mistakes.append(Mistake("trainer.stop_after", str(error)))
        metric = self.arguments.get("metric_for_best_model") or "loss"  # as transformers, where one is needed
        if isinstance(metric, str):
            if problem := wrong_metric(metric):
                return [*mistakes, problem]
            more = greater_is_better(metric)
            if self.arguments.get("greater_is_better") not in (None, more) and "greater_is_better" not in without_use:
                text = (
                    f"{str(not more).lower()} contradicts trainer.metric_for_best_model={metric}, of which "
                    f"{'more' if more else 'less'} is better; leave it out: it follows from the metric"
                )
                mistakes.append(Mistake("trainer.greater_is_better", text))
        return mistakes

    def step_size(self, ranks: int) -> int:
        """Return the comparisons of one optimizer step of all ranks together.

        `comparisons_per_step` where it is given, else device batch × gradient accumulation × ranks.
        """
        if self.comparisons_per_step is not None:
            return self.comparisons_per_step
        device = int(self.arguments.get("per_device_train_batch_size", 8))
        return device * int(self.arguments.get("gradient_accumulation_steps", 1)) * ranks

    def training_arguments(self, output_dir: Path, seed: int, *, evaluates: bool) -> TrainingArguments:
        """Build the real `TrainingArguments` of one run (this imports transformers and may start torch.distributed).

        Args:
            output_dir: the run folder.
            seed: of data order and dropout.
            evaluates: whether there is an evaluation set; without one, nothing is evaluated or chosen as the best.

        Raises:
            ConfigError: transformers refuses a value.
        """
        import torch
        from transformers import TrainingArguments

        arguments = {name: value for name, value in self.arguments.items() if name != "bf16"}  # the engine autocasts
        known = {item.name for item in fields(TrainingArguments)}
        for old in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
            new = old.replace("gradient", "activation")  # its name from transformers 5.2x on; the old one warns
            if old in arguments and new in known:
                arguments.setdefault(new, arguments.pop(old))
        for name in ("logging_nan_inf_filter", "remove_unused_columns", "group_by_length"):
            arguments.pop(name, None)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
            arguments["use_cpu"] = True  # else accelerate takes each process for one that is alone
        if not evaluates:  # nothing to evaluate on: no best checkpoint either
            arguments.update(eval_strategy="no", load_best_model_at_end=False, metric_for_best_model=None)
            arguments.update(greater_is_better=None, eval_on_start=False)
            if arguments.get("save_strategy") == "best":
                arguments["save_strategy"] = "steps"
        elif (metric := arguments.get("metric_for_best_model")) is not None:
            arguments["greater_is_better"] = greater_is_better(metric)
        _refuse_unsaved_best(arguments)
        try:
            return TrainingArguments(
                output_dir=str(output_dir / "checkpoints"),
                seed=seed,
                report_to="none",
                run_name=output_dir.name,
                logging_nan_inf_filter=False,
                remove_unused_columns=False,
                disable_tqdm=True,
                log_level=arguments.pop("log_level", "error"),
                **arguments,
            )
        except (ValueError, TypeError, ImportError) as error:
            said = " ".join(str(error).split())  # transformers breaks lines, and a line here is a mistake
            raise ConfigError(f"trainer: transformers refuses these settings: {said}") from error

    def resolved_precision(self, device_type: str, *, training: bool) -> Literal["fp32", "bf16"]:
        """Precision of the backbone's forward pass; head and loss are float32 in any case.

        `auto` is bf16 wherever the hardware multiplies it natively. Scoring on a CPU stays in float32, because
        there the scores are compared with those of other programs; on a GPU it follows training.
        """
        asked = self.precision if training else self.eval_precision
        if training and asked == "auto" and self.arguments.get("bf16") is not None:
            asked = "bf16" if self.arguments["bf16"] else "fp32"
        if asked != "auto":
            return asked
        import torch

        if device_type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        if device_type == "cpu" and training:
            able = torch.cpu.get_capabilities()
            return "bf16" if able.get("avx512_bf16") or able.get("amx_tile") else "fp32"
        return "fp32"


def wrong_metric(metric: str, sets: Sequence[str] | None = None) -> Mistake | None:
    """Return what is wrong with `trainer.metric_for_best_model`, if anything is.

    Args:
        metric: `eval_loss`, `accuracy`, `eval_<set>_loss`, `accuracy_<source>`, ...
        sets: the evaluation sets, where they are known.
    """
    name = metric.removeprefix("eval_")
    known = _ending(name)
    several = sets is not None and len(sets) > 1
    of_set = "" if known is None else name.removesuffix(known).rstrip("_")
    fits = known is not None or _of_a_source(name)
    if fits and (sets is None or not of_set or (several and of_set in sets)):
        return None
    names = [f"eval_{m}" for m in BEST] + [f"eval_{s}_{m}" for s in sets or [] if several for m in ("loss", "accuracy")]
    more = "" if sets is not None else ", or eval_<set>_<one of these> with several evaluation sets"
    text = f"{metric!r} is not a metric of this run; give one of {', '.join(names)}{more}"
    return Mistake("trainer.metric_for_best_model", text)


def greater_is_better(metric: str) -> bool:
    """Return whether more of a metric is better.

    >>> greater_is_better("eval_loss"), greater_is_better("eval_hard_accuracy"), greater_is_better("accuracy_books")
    (False, True, True)
    """
    known = _ending(metric.removeprefix("eval_"))
    return True if known is None else BEST[known]


def _ending(name: str) -> str | None:
    """The known metric that a name is, or ends with; the longest of several."""
    return max((m for m in BEST if name == m or name.endswith(f"_{m}")), key=len, default=None)


def _of_a_source(name: str) -> bool:
    """Whether it is the accuracy of one source."""
    return name.startswith("accuracy_") or "_accuracy_" in name


def trainer_settings(
    *,
    max_tokens_per_micro_batch: Count | Literal["auto"] = "auto",
    encoding: Literal["auto", "shared", "separate"] = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    eval_precision: Literal["auto", "fp32", "bf16"] = "auto",
    comparisons_per_step: Count | None = None,
    async_save: bool = False,
    stop_after: str | int | float | None = None,
    **arguments: Any,
) -> TrainerSettings:
    """Return training settings; every other keyword is an argument of `transformers.TrainingArguments`.

    Args:
        max_tokens_per_micro_batch: token positions computed at once. A memory knob only: the optimizer step is
            always `per_device_train_batch_size × gradient_accumulation_steps` comparisons per rank.
        encoding: `shared` computes each prompt once for all its responses, `separate` does not; `auto` shares
            where the model allows it exactly.
        precision: of the backbone while training; head and loss are float32 always.
        eval_precision: of the backbone while evaluating, predicting and scoring.
        comparisons_per_step: of all ranks together, whatever their number: the same optimizer step on 1, 8 or 64
            devices. None goes by `per_device_train_batch_size × gradient_accumulation_steps` per rank.
        async_save: write checkpoints while training goes on: it stops for a copy to the host's memory only, which
            takes the room of weights and optimizer state there. A checkpoint counts once it is whole, as ever.
        stop_after: time since the job began, such as 3h50m, after which training ends with a checkpoint and exit code
            75; the same command continues. None trains to the end.
        **arguments: learning_rate, num_train_epochs, max_steps, ...; `rmx.training.keys` lists what each does here.

    >>> trainer_settings(per_device_train_batch_size=4, gradient_accumulation_steps=8).step_size(ranks=2)
    64
    >>> trainer_settings(comparisons_per_step=100).step_size(ranks=8)
    100
    """
    return TrainerSettings(
        max_tokens_per_micro_batch,
        encoding,
        precision,
        eval_precision,
        comparisons_per_step,
        async_save,
        stop_after,
        dict(arguments),
    )
