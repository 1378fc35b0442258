"""Every number that a run logs or writes: its formula and unit, and where it stands.

metrics.jsonl has `train/loss`, `eval/loss`, and `eval_<set>/loss` with several evaluation sets; the result files have
`train_loss`, `eval_loss`, `eval_<set>_loss` and `predict_loss`. One table entry stands for all of these.

In the formulas r⁺ and r⁻ are the rewards of the chosen and the rejected response, w the weight of a pair; means are
weighted by w. σ is the logistic function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rmx.reference.entries import ReferenceEntry

__all__ = ["METRICS", "Metric", "metric_entries", "metric_of"]

Place = Literal["train log", "eval log", "train results", "eval results", "every log", "results"]

_BOTH: tuple[Place, ...] = ("train log", "eval log", "train results", "eval results")
_TRAIN: tuple[Place, ...] = ("train log", "train results")
_EVAL: tuple[Place, ...] = ("eval log", "eval results")
SOURCE = "source/<source>/accuracy"

# Where a metric stands → the names that it has there.
_WRITTEN: dict[Place, tuple[str, ...]] = {
    "train log": ("train/{}",),
    "eval log": ("eval/{}", "eval_<set>/{}"),
    "train results": ("train_{}",),
    "eval results": ("eval_{}", "eval_<set>_{}", "predict_{}", "predict_<set>_{}"),
    "every log": ("{}",),
    "results": ("{}",),
}


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        name: without its phase: `accuracy`.
        meaning: what it says.
        formula: how it is made.
        unit: nats, reward units, a share from 0 to 1, ...
        places: the files and phases that have it.
        only: when it is there; "" for always.
        shown_as: the words that screens and report pages use for it.
    """

    name: str
    meaning: str
    formula: str
    unit: str
    places: tuple[Place, ...]
    only: str = ""
    shown_as: tuple[str, ...] = ()

    def written(self) -> Iterator[str]:
        """Yield its names as the files have them."""
        for place in self.places:
            yield from (form.format(self.name) for form in _WRITTEN[place])


_WINNER = "some pair has a winner"
_TRUTH = "the true rewards are known, as in data=synthetic"
_GPU = "on a GPU"
_PEAK = "on a GPU whose bfloat16 peak is known, with precision bf16"

METRICS: tuple[Metric, ...] = (
    # --- Every line of metrics.jsonl ---
    Metric("step", "optimizer steps done", "count", "steps", ("every log",)),
    Metric(
        "epoch", "passes over the training comparisons", "step / steps per pass", "passes", ("every log", "results")
    ),
    Metric("time", "when the line was written", "seconds since 1970-01-01 UTC", "s", ("every log",)),
    Metric("phase", "what the line is of: train, eval, or eval_<set>", "text", "", ("every log",)),
    # --- Pairs ---
    Metric(
        "loss",
        "the training objective: mean of the loss terms of all pairs, as the chosen loss=... defines them",
        "Σ w ℓ / Σ w; bradley_terry without knobs: ℓ = log(1 + exp(r⁻ - r⁺)), 0.693 at equal rewards",
        "nats (hinge: reward units)",
        _BOTH,
        shown_as=("loss (nats)", "eval loss"),
    ),
    Metric(
        "accuracy",
        "share of pairs whose chosen response has the strictly higher reward; labelled ties are left out, equal "
        "rewards are wrong",
        "Σ w [r⁺ > r⁻] / Σ w over pairs with a winner",
        "share, 0 to 1",
        _BOTH,
        _WINNER,
        shown_as=("this model",),
    ),
    Metric(
        "accuracy_low",
        "lower end of the 95 % interval of the accuracy, for other evaluation data like this (not for other seeds)",
        "Wilson (1927) with the effective number of pairs: Kish's for weights, over the design effect of comparisons",
        "share, 0 to 1",
        _EVAL,
        _WINNER,
        shown_as=("95 % interval",),
    ),
    Metric(
        "accuracy_high",
        "upper end of the 95 % interval of the accuracy",
        "as accuracy_low",
        "share, 0 to 1",
        _EVAL,
        _WINNER,
        shown_as=("95 % interval",),
    ),
    Metric(
        "accuracy_ties_half",
        "accuracy in which equal rewards count half",
        "accuracy + tie_rate / 2",
        "share, 0 to 1",
        _EVAL,
        _WINNER,
    ),
    Metric(
        "tie_rate",
        "share of pairs with a winner whose rewards are exactly equal; above 0 says that something is wrong (same text "
        "after truncation, a head that gives a constant)",
        "Σ w [r⁺ = r⁻] / Σ w",
        "share, 0 to 1",
        _BOTH,
        _WINNER,
        shown_as=("ties", "equal rewards"),
    ),
    Metric("margin", "mean lead of the chosen response", "Σ w (r⁺ - r⁻) / Σ w", "reward units", _BOTH, _WINNER),
    Metric(
        "chosen_reward",
        "mean reward of chosen responses",
        "Σ w r⁺ / Σ w",
        "reward units",
        _BOTH,
        _WINNER,
        shown_as=("chosen reward",),
    ),
    Metric(
        "rejected_reward",
        "mean reward of rejected responses",
        "Σ w r⁻ / Σ w",
        "reward units",
        _BOTH,
        _WINNER,
        shown_as=("rejected reward",),
    ),
    Metric(
        "reward_std",
        "spread of all rewards, chosen and rejected pooled; near 0 the model says the same of everything",
        "√(Σ w (r - r̄)² / Σ w), population form",
        "reward units",
        _BOTH,
        shown_as=("reward std",),
    ),
    Metric("pairs", "pairs that the numbers beside it are over, labelled ties included", "count", "pairs", _BOTH),
    Metric("labelled_ties", "pairs in which annotators saw no winner", "count", "pairs", _BOTH, shown_as=("ties",)),
    Metric(
        SOURCE,
        "accuracy over the pairs of one source",
        "as accuracy",
        "share, 0 to 1",
        _EVAL,
        "several sources",
    ),
    # --- The truth, where it is known ---
    Metric(
        "ceiling_accuracy",
        "the best accuracy that any model can expect: labels are drawn, so some are wrong",
        "mean σ(|d|), d the difference of the true rewards",
        "share, 0 to 1",
        _EVAL,
        _TRUTH,
        shown_as=("best possible accuracy", "the true rewards, on average"),
    ),
    Metric(
        "ceiling_loss",
        "the least loss that any model can expect: the entropy of the labels",
        "mean σ(d) log(1 + e^-d) + σ(-d) log(1 + e^d)",
        "nats",
        _EVAL,
        _TRUTH,
        shown_as=("best possible loss",),
    ),
    Metric(
        "drawn_ceiling_accuracy",
        "accuracy of the true rewards on the labels that were in fact drawn",
        "mean [d > 0] + [d = 0] / 2",
        "share, 0 to 1",
        _EVAL,
        _TRUTH,
        shown_as=("the true rewards, on these labels",),
    ),
    Metric(
        "truth_correlation",
        "how close learned margins come to the true ones",
        "Pearson correlation of r⁺ - r⁻ with d",
        "-1 to 1",
        _EVAL,
        _TRUTH,
        shown_as=("correlation with true reward",),
    ),
    # --- Work and speed ---
    Metric("tokens", "token positions that went through the model, padding included", "count", "tokens", _TRAIN),
    Metric(
        "unique_tokens",
        "token positions without padding, each prompt counted once",
        "count",
        "tokens",
        _TRAIN,
        shown_as=("unique tokens",),
    ),
    Metric(
        "flops",
        "floating-point operations that the model asks for, forward and backward; recomputed activations not counted",
        "per weight and token 2 forward, 2 for each gradient that is computed; and the attention scores",
        "FLOP",
        _TRAIN,
    ),
    Metric("padded_flops", "what padded pairs would have taken for the same work", "as flops", "FLOP", _TRAIN),
    Metric(
        "pairs_per_second",
        "speed",
        "pairs / seconds",
        "1/s",
        ("train log", *_EVAL),
        shown_as=("pairs/s", "pairs per second"),
    ),
    Metric(
        "tokens_per_second",
        "token positions a second, padding included",
        "tokens / seconds",
        "1/s",
        ("train log", *_EVAL),
        shown_as=("tokens/s",),
    ),
    Metric(
        "unique_tokens_per_second",
        "unique_tokens a second",
        "unique_tokens / seconds",
        "1/s",
        ("train log",),
        shown_as=("unique", "unique tokens/s"),
    ),
    Metric(
        "tflops_per_device",
        "floating-point operations a second of each device",
        "flops / seconds / devices / 10¹²",
        "TFLOP/s",
        ("train log",),
        shown_as=("TFLOP/s", "TFLOPs"),
    ),
    Metric(
        "padded_tflops_per_device",
        "how fast a padding trainer would have to be to finish as soon",
        "padded_flops / seconds / devices / 10¹²",
        "TFLOP/s",
        ("train log",),
        shown_as=("padded",),
    ),
    Metric(
        "mfu",
        "model FLOP utilisation",
        "tflops_per_device / the device's peak",
        "share",
        ("train log",),
        _PEAK,
        shown_as=("MFU",),
    ),
    Metric(
        "padded_mfu",
        "MFU that a padding trainer would need to finish as soon",
        "padded_tflops_per_device / peak",
        "share",
        ("train log",),
        _PEAK,
        shown_as=("padded MFU",),
    ),
    Metric(
        "peak_memory_gb",
        "the most memory that tensors of one device have taken so far, of the device that took most",
        "torch.cuda.max_memory_allocated / 10⁹",
        "GB",
        ("train log",),
        _GPU,
    ),
    Metric("seconds", "wall time of scoring the set", "wall time", "s", ("eval log",), shown_as=("time",)),
    Metric(
        "runtime",
        "wall time of the phase",
        "wall time",
        "s",
        ("train results", "eval results"),
        shown_as=("seconds", "training time"),
    ),
    Metric(
        "samples_per_second",
        "pairs_per_second under its older name",
        "pairs / runtime",
        "1/s",
        ("train results", "eval results"),
    ),
    Metric("steps_per_second", "optimizer steps per second", "steps / runtime", "1/s", ("train results",)),
    Metric("total_flos", "train_flops under its older name", "as flops", "FLOP", ("results",), "after training"),
    # --- The optimizer ---
    Metric(
        "grad_norm",
        "norm of the gradient of the last step before clipping; trainer.max_grad_norm is what it is clipped to",
        "√Σ g² over all trained weights",
        "",
        ("train log",),
    ),
    Metric("learning_rate", "learning rate of the last step", "as trainer.lr_scheduler_type says", "", ("train log",)),
)

_BY_NAME = {metric.name: metric for metric in METRICS}
_LOGGED = re.compile(r"^(?:train|eval(?:_[^/]+)?)/(.+)$")
_PHASE = re.compile(r"^(train|eval|predict)(?:_|$)")


def metric_of(written: str) -> Metric | None:
    """Return what a name in metrics.jsonl or a result file stands for; a bare name too.

    >>> [metric_of(name).name for name in ("eval/accuracy", "eval_hard/accuracy_low", "predict_hard_loss", "margin")]
    ['accuracy', 'accuracy_low', 'loss', 'margin']
    >>> metric_of("eval_source/books/accuracy").name, metric_of("eval_colour")
    ('source/<source>/accuracy', None)
    """
    if written in _BY_NAME:
        return _BY_NAME[written]
    if re.search(r"(?:^|[/_])source/.+/accuracy$", written):
        return _BY_NAME[SOURCE]
    if match := _LOGGED.match(written):
        return _BY_NAME.get(match[1])
    if not _PHASE.match(written):
        return None
    ends = [name for name in _BY_NAME if written.endswith(f"_{name}")]
    return _BY_NAME[max(ends, key=len)] if ends else None


def metric_entries() -> list[ReferenceEntry]:
    """Return an entry for every metric; it is found by its bare name, too."""
    entries = []
    for metric in METRICS:
        facts = [("formula", metric.formula), ("unit", metric.unit), ("written as", ", ".join(metric.written()))]
        facts.append(("shown as", ", ".join(metric.shown_as)))
        facts.append(("there if", metric.only))
        entries.append(
            ReferenceEntry(
                "metric",
                metric.name,
                metric.meaning,
                tuple(fact for fact in facts if fact[1]),
                also=(*metric.written(), *metric.shown_as),
            )
        )
    return entries
