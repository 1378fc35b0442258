"""How much there is to compute: tokens, steps, FLOPs and hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import TrainingArguments

from rmx.engine.layout import Encoding
from rmx.planning.gpus import Gpu
from rmx.records import EncodedComparison, Pair
from rmx.training.arguments import TrainerSettings
from rmx.training.events import total_steps
from rmx.training.flops import FlopCount, peak_flops

__all__ = ["Rows", "Work", "rows_of_lengths", "work_of"]


@dataclass(frozen=True)
class Rows:
    """The comparisons of one epoch, as far as they are known.

    Attributes:
        comparisons: how many.
        examples: encoded ones, of which the others are taken to be copies.
        origin: where the numbers are from, in words.
        at_least: tokens that the longest may have, where the examples are means.
    """

    comparisons: int
    examples: Sequence[EncodedComparison]
    origin: str
    at_least: int = 0

    @property
    def each(self) -> float:
        """How many comparisons an example stands for."""
        return self.comparisons / len(self.examples)

    @property
    def tokens(self) -> float:
        """Tokens of all sequences."""
        return self.each * sum(sum(c.lengths) for c in self.examples)

    @property
    def unique_tokens(self) -> float:
        """Tokens that have to be computed, each prompt once."""
        return self.each * sum(c.shared_tokens for c in self.examples)

    @property
    def longest(self) -> int:
        """Tokens of the longest comparison, its prompt counted once."""
        return max(self.at_least, *(c.shared_tokens for c in self.examples))


def rows_of_lengths(comparisons: int, prompt_tokens: int, response_tokens: int, max_tokens: int) -> Rows:
    """Return rows of two responses with these mean lengths; the longest may fill `max_tokens`.

    >>> rows = rows_of_lengths(1000, 200, 100, 2048)
    >>> rows.tokens, rows.unique_tokens, rows.longest
    (600000.0, 400000.0, 2048)
    """
    response = [1] * response_tokens
    row = EncodedComparison("plan", "plan", [1] * prompt_tokens, (response, response), (Pair(0, 1),))
    origin = f"plan.comparisons={comparisons:,}, plan.prompt_tokens={prompt_tokens}, plan.response_tokens="
    return Rows(comparisons, [row], f"{origin}{response_tokens}", max_tokens)


@dataclass(frozen=True)
class Work:
    """What a whole run computes.

    Attributes:
        steps: optimizer steps.
        comparisons_per_step: of all processes together.
        epochs: passes over the rows.
        tokens, unique_tokens: of all steps, prompts counted with each response, and once.
        flops: of the model (`rmx.training.flops`).
        computed_again: FLOPs of layers that are computed a second time under gradient checkpointing.
        hours: at the given share of the device's peak; None where the peak is not known.
    """

    steps: int
    comparisons_per_step: int
    epochs: float
    tokens: float
    unique_tokens: float
    flops: float
    computed_again: float
    hours: float | None

    @property
    def mfu_of_model(self) -> float:
        """Share of the products' time that goes to FLOPs of the model itself."""
        return self.flops / (self.flops + self.computed_again)


def work_of(
    rows: Rows,
    settings: TrainerSettings,
    args: TrainingArguments,
    count: FlopCount,
    forward: FlopCount | None,
    *,
    encoding: Encoding,
    data_ranks: int,
    processes: int,
    gpu: Gpu,
    mfu: float,
) -> Work:
    """Return the work of a run.

    Args:
        rows: of one epoch.
        settings: rmx's own knobs: the size of a step.
        args: the arguments of transformers: epochs, or steps.
        count: FLOPs of forward and backward pass.
        forward: FLOPs of the forward pass that checkpointing repeats; None without it.
        encoding: how rows are laid out.
        data_ranks: groups of processes that see different rows.
        processes: all of them.
        gpu: what each of them runs on.
        mfu: share of the peak that the products reach.
    """
    per_step = settings.step_size(data_ranks)
    full, rest = divmod(rows.comparisons, per_step)
    per_epoch = full + (1 if rest and not args.dataloader_drop_last else 0)
    steps, _ = total_steps(args, per_epoch)
    epochs = min(steps * per_step, steps / max(per_epoch, 1) * rows.comparisons) / rows.comparisons
    flops = epochs * rows.each * count.rows(rows.examples, encoding)
    again = 0.0 if forward is None else epochs * rows.each * forward.rows(rows.examples, encoding)
    peak = peak_flops(gpu.name)
    hours = None if peak is None else (flops + again) / (processes * peak * mfu) / 3600
    return Work(
        steps, per_step, epochs, epochs * rows.tokens, epochs * rows.unique_tokens, flops, again, hours
    )  # fmt: skip
