"""The words and numbers on the screen: the header before a run and the table after it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rmx.errors import counted
from rmx.models import scored_position, unwrap
from rmx.tokens import show_sample

if TYPE_CHECKING:
    from rmx.run.inputs import Inputs, Model
    from rmx.run.open_run import OpenRun
    from rmx.workflow import Workflow

log = logging.getLogger(__name__)

__all__ = ["count", "final_table", "show"]


def count(number: float) -> str:
    """Write a large count readably.

    >>> count(1_235_814_400), count(630_144), count(812)
    ('1.24 B', '630 k', '812')
    """
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def show(w: Workflow, run: OpenRun, inputs: Inputs, phases: Sequence[str]) -> None:
    """Say what is about to run, with one row of the data as the model reads it."""
    if not run.is_main:
        return
    title = f"rmx: {w.model.name} on {w.data.source}, {' → '.join(phases)}"
    rows: dict[str, Any] = {"data": _sizes(inputs)} | _columns(inputs)
    sample = None
    if inputs.model is not None:
        rows = _model(inputs, inputs.model) | rows
        rows["length"] = "; ".join(f"{name}: {report.summary()}" for name, report in inputs.reports.items())
        position = scored_position(inputs.model.loaded.model)
        scored = {"last": f"at {inputs.template.end_token}", "first": "at the first token", "all": "over all tokens"}
        rows["template"] = f"{inputs.template.name}, scored {scored[position]}"
        engine = inputs.model.scorer.engine
        rows["encoding"] = f"{engine.encoding}: {engine.reason}"
        if inputs.model.loaded.fused is not None:
            rows["kernels"] = f"Liger: {inputs.model.loaded.fused}"
        if "train" in phases:
            rows["training"] = _training(w, run, inputs)
        first = next((rows[0] for rows in inputs.sets.values() if len(rows)), None)
        sample = None if first is None else show_sample(first, inputs.tokenizer, scored=position)
    rows["output"] = run.folder
    run.screen.header(title, rows, sample)
    if inputs.model is not None and not inputs.model.loaded.head_was_kept and phases[0] in ("eval", "predict"):
        log.warning(
            "The reward head is new and untrained: these scores mean nothing. To score with a finished run, "
            "give model.path=<its folder>/model"
        )


def _sizes(inputs: Inputs) -> str:
    sets = {"train": inputs.splits.train, **inputs.splits.evals}
    return ", ".join(
        f"{name} {counted(len(items), 'comparison')} ({counted(sum(len(c.pairs) for c in items), 'pair')})"
        for name, items in sets.items()
    )


def _columns(inputs: Inputs) -> dict[str, str]:
    """What the columns of the data are, where that is not plain from their names."""
    sources = inputs.splits.accounting.sources
    words = {name: account.columns_in_words() for name, account in sources.items()}
    said = [f"{name}: {text}" if len(words) > 1 else text for name, text in words.items() if text]
    return {"columns": " · ".join(said)} if said else {}


def _model(inputs: Inputs, model: Model) -> dict[str, Any]:
    loaded = model.loaded
    share = loaded.trainable_parameters / loaded.parameters
    adapter = f", adapter {loaded.adapter.kind} r={loaded.adapter.r}" if loaded.adapter else ""
    return {
        "model": " · ".join(
            (loaded.base_path, type(unwrap(loaded.model)).__name__, f"{loaded.dtype} on {inputs.device.type}")
        ),
        "parameters": f"{count(loaded.parameters)}, {count(loaded.trainable_parameters)} trained ({share:.1%}), "
        f"head {'kept' if loaded.head_was_kept else 'new'}{adapter}",
    }


def _training(w: Workflow, run: OpenRun, inputs: Inputs) -> str:
    settings, arguments = w.trainer, inputs.args
    per_step, rows = settings.step_size(run.ranks), len(inputs.train)
    steps = arguments.max_steps if arguments.max_steps > 0 else int(arguments.num_train_epochs * -(-rows // per_step))
    precision = settings.resolved_precision(inputs.device.type, training=True)
    ranks = f" on {run.ranks} ranks" if run.ranks > 1 else ""
    given = " (trainer.max_steps)" if arguments.max_steps > 0 else ""
    return (
        f"{counted(steps, 'step')}{given} of {counted(per_step, 'comparison')}{ranks} "
        f"({steps * per_step / rows:.2f} epochs), learning rate {arguments.learning_rate:g}, {precision}"
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
