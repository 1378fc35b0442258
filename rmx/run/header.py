"""The words and numbers on the screen: the header before a run and the table after it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rmx.models import unwrap
from rmx.tokens import show_sample

if TYPE_CHECKING:
    from rich.text import Text

    from rmx.run.state import Run

log = logging.getLogger(__name__)

__all__ = ["count", "describe_run", "final_table"]


def count(number: float) -> str:
    """Write a large count readably.

    >>> count(1_235_814_400), count(630_144), count(812)
    ('1.24 B', '630 k', '812')
    """
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def describe_run(run: Run, *, with_model: bool) -> tuple[str, dict[str, Any], Text | None]:
    """Return the header's title, its rows, and a rendered sample; reads data, and the model where asked."""
    w = run.workflow
    title = f"rmx: {w.model.name} on {w.data.source}, {' → '.join(w.phases)}"
    sets = {"train": run.splits.train, **run.splits.evals}
    rows: dict[str, Any] = {
        "data": ", ".join(
            f"{name} {len(items):,} comparisons ({sum(len(c.pairs) for c in items):,} pairs)"
            for name, items in sets.items()
        )
    }
    columns = {name: account.columns_in_words() for name, account in run.splits.accounting.sources.items()}
    if any(columns.values()):
        several = len(columns) > 1
        rows["columns"] = " · ".join(
            f"{name}: {words}" if several else words for name, words in columns.items() if words
        )
    sample = None
    if with_model:
        loaded = run.loaded
        share = loaded.trainable_parameters / loaded.parameters
        rows = {
            "model": " · ".join(
                (loaded.base_path, type(unwrap(loaded.model)).__name__, f"{loaded.dtype} on {run.device.type}")
            ),
            "parameters": f"{count(loaded.parameters)}, {count(loaded.trainable_parameters)} trained ({share:.1%}), "
            f"head {'kept' if loaded.head_was_kept else 'new'}"
            + (f", adapter {loaded.adapter.kind} r={loaded.adapter.r}" if loaded.adapter else ""),
        } | rows
        rows["length"] = _lengths(run)
        rows["template"] = f"{run.template.name}, scored at {run.template.end_token}"
        rows["encoding"] = f"{run.scorer.engine.encoding}: {run.scorer.engine.reason}"
        if not loaded.head_was_kept and w.phases[0] in ("eval", "predict"):
            log.warning(
                "The reward head is new and untrained: these scores mean nothing. To score with a finished run, "
                "give model.path=<its folder>/model"
            )
        if "train" in w.phases:
            rows["training"] = _training(run)
        sample = show_sample(run.template)
    rows["output"] = run.folder
    return title, rows, sample


def _lengths(run: Run) -> str:
    _ = run.eval_rows
    if "train" in run.workflow.phases:
        _ = run.train_rows
    return "; ".join(f"{name}: {report.summary()}" for name, report in run.reports.items())


def _training(run: Run) -> str:
    settings, arguments = run.workflow.trainer, run.args
    per_step = settings.comparisons_per_step * run.ranks
    steps_per_epoch = -(-len(run.train_rows) // per_step)
    steps = arguments.max_steps if arguments.max_steps > 0 else int(arguments.num_train_epochs * steps_per_epoch)
    precision = settings.resolved_precision(run.device.type, training=True)
    ranks = f" on {run.ranks} ranks" if run.ranks > 1 else ""
    return (
        f"{steps:,} steps of {per_step} comparisons{ranks} ({steps * per_step / len(run.train_rows):.2f} epochs), "
        f"learning rate {arguments.learning_rate:g}, {precision}"
    )


# Final-table rows: label, metric, format.
_SHOWN = (
    ("accuracy", "accuracy", "{:.4f}"),
    ("  95 % interval", ("accuracy_low", "accuracy_high"), "{:.3f} to {:.3f}"),
    ("best possible accuracy", "ceiling_accuracy", "{:.4f}"),
    ("loss (nats)", "loss", "{:.4f}"),
    ("best possible loss", "ceiling_loss", "{:.4f}"),
    ("correlation with true reward", "truth_correlation", "{:.4f}"),
    ("margin", "margin", "{:+.4f}"),
    ("chosen reward", "chosen_reward", "{:+.4f}"),
    ("rejected reward", "rejected_reward", "{:+.4f}"),
    ("reward std", "reward_std", "{:.4f}"),
    ("ties", "tie_rate", "{:.2%}"),
    ("pairs", "pairs", "{:,.0f}"),
    ("pairs per second", "pairs_per_second", "{:,.1f}"),
    ("seconds", "runtime", "{:.1f}"),
)


def final_table(results: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the table that ends a run, from flat `<phase>_<metric>` results.

    >>> final_table({"train_loss": 0.5, "eval_loss": 0.25})
    (['', 'train', 'eval'], [['loss (nats)', '0.5000', '0.2500']])
    """
    names = [key.removesuffix("_loss") for key in results if key.endswith("_loss") and "ceiling" not in key]
    rows = []
    for label, metric, shape in _SHOWN:
        metrics = (metric,) if isinstance(metric, str) else metric
        cells = []
        for name in names:
            values = [results.get(f"{name}_{m}") for m in metrics]
            cells.append("" if None in values else shape.format(*values))
        if any(cells):
            rows.append([label, *cells])
    return ["", *names], rows
