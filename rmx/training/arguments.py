"""How to train: rmx's own knobs and, flat beside them, the arguments of `transformers.TrainingArguments`.

This module imports nothing heavy: a configuration can be built and checked without torch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmx.errors import ConfigError
from rmx.training.ranges import RANGES
from rmx.values import Count, Mistake, raise_all, refuse_wrong_fields, schema_of, wrong_values

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = ["FORWARDS", "OWNED", "RANGES", "TrainerSettings", "trainer_settings"]

# Keys that `trainer_settings` does not name itself are arguments of this class; the config check reads its signature.
FORWARDS = {"trainer_settings": "transformers.training_args.TrainingArguments"}

# Arguments of TrainingArguments that rmx decides, with the place where the user says it instead.
OWNED = {
    "output_dir": "the root key output_dir",
    "seed": "the root key seed",
    "report_to": "the root key trackers",
    "run_name": "the root key output_dir",
    "logging_nan_inf_filter": "nothing: a non-finite loss always stops the run",
    "remove_unused_columns": "nothing: rmx collates whole comparisons",
    "do_train": "the root key phases",
    "do_eval": "the root key phases",
    "do_predict": "the root key phases",
    "push_to_hub": "the root key push_to_hub",
    "resume_from_checkpoint": "the root key resume",
    "fp16": "trainer.precision (bf16 or fp32: rewards and their loss stay in float32)",
    "fp16_full_eval": "trainer.eval_precision",
    "bf16_full_eval": "trainer.eval_precision",
    "auto_find_batch_size": "trainer.max_tokens_per_micro_batch=auto",
    "label_smoothing_factor": "loss.label_smoothing",
    "data_seed": "the root key seed",
    "group_by_length": "nothing: padding-free rows make it needless",
}


@functools.cache
def _schemas() -> dict[str, Any]:
    return {name: schema_of(annotation) for name, annotation in RANGES.items()}


@dataclass(frozen=True)
class TrainerSettings:
    """rmx's training knobs, and the `TrainingArguments` values as given; see `trainer_settings`."""

    max_tokens_per_micro_batch: Count | Literal["auto"] = "auto"
    encoding: Literal["auto", "shared", "separate"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    eval_precision: Literal["auto", "fp32", "bf16"] = "auto"
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "trainer")
        mistakes = wrong_values(self.arguments, _schemas(), "trainer")
        mistakes += [
            Mistake(f"trainer.{name}", f"rmx sets this itself; use {instead}")
            for name, instead in OWNED.items()
            if name in self.arguments
        ]
        raise_all(mistakes)

    @property
    def comparisons_per_step(self) -> int:
        """Comparisons that one rank sees per optimizer step: device batch × gradient accumulation."""
        return int(self.arguments.get("per_device_train_batch_size", 8)) * int(
            self.arguments.get("gradient_accumulation_steps", 1)
        )

    def training_arguments(self, output_dir: Path, seed: int, *, evaluates: bool, verbose: bool) -> TrainingArguments:
        """Build the real `TrainingArguments` of one run (this imports transformers and may start torch.distributed).

        One dataloader item is a whole optimizer step, so the device batch handed to transformers is the
        product with gradient accumulation, and accumulation itself happens inside the step (`rmx.training.trainer`).
        """
        from transformers import TrainingArguments

        arguments = dict(self.arguments)
        arguments["per_device_train_batch_size"] = self.comparisons_per_step
        arguments["gradient_accumulation_steps"] = 1
        arguments.pop("bf16", None)  # the engine autocasts by itself: one precision path for training and scoring
        known = {item.name for item in fields(TrainingArguments)}
        for old in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
            new = old.replace("gradient", "activation")  # its name from transformers 5.2x on; the old one warns
            if old in arguments and new in known:
                arguments[new] = arguments.pop(old)
        if not evaluates:  # nothing to evaluate on: no best checkpoint either
            arguments.update(eval_strategy="no", load_best_model_at_end=False, metric_for_best_model=None)
            arguments.update(greater_is_better=None)
            if arguments.get("save_strategy") == "best":
                arguments["save_strategy"] = "steps"
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
            raise ConfigError(f"trainer: transformers refuses these settings: {error}") from error

    def resolved_precision(self, device_type: str, *, training: bool) -> Literal["fp32", "bf16"]:
        """Precision of the backbone's forward pass; head and loss are float32 in any case.

        `auto` is bf16 wherever the hardware multiplies it natively. Scoring on a CPU stays in float32, because
        there the scores are compared with those of other programs; on a GPU it follows training.
        """
        asked = self.precision if training else self.eval_precision
        if training and self.arguments.get("bf16") is True:
            asked = "bf16"
        if asked != "auto":
            return asked
        import torch

        if device_type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        if device_type == "cpu" and training:
            native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
            return "bf16" if native else "fp32"
        return "fp32"


def trainer_settings(
    *,
    max_tokens_per_micro_batch: Count | Literal["auto"] = "auto",
    encoding: Literal["auto", "shared", "separate"] = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    eval_precision: Literal["auto", "fp32", "bf16"] = "auto",
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
        **arguments: learning_rate, num_train_epochs, max_steps, ...

    >>> trainer_settings(per_device_train_batch_size=4, gradient_accumulation_steps=8).comparisons_per_step
    32
    """
    return TrainerSettings(max_tokens_per_micro_batch, encoding, precision, eval_precision, dict(arguments))
