"""A plan in plan.json, and on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rmx.errors import counted
from rmx.files import readable_bytes
from rmx.planning.estimate import Estimate, Fit
from rmx.planning.gpus import DEVICES
from rmx.planning.work import Work
from rmx.run.header import count

if TYPE_CHECKING:
    from rmx.planning.settings import PlanSettings
    from rmx.run.screen import Screen
    from rmx.workflow import Workflow

__all__ = ["plan_as_dict", "show_plan"]


def plan_as_dict(workflow: Workflow, estimate: Estimate) -> dict[str, Any]:
    """Return plan.json's content: plain values, bytes and FLOPs as numbers."""
    rows = estimate.rows
    known = {} if isinstance(rows, str) else {"comparisons": rows.comparisons, "origin": rows.origin}
    if not isinstance(rows, str):
        known |= {"tokens": rows.tokens, "unique_tokens": rows.unique_tokens, "longest_comparison_tokens": rows.longest}
    return {
        "model": {
            "path": workflow.model.path or workflow.model.name,
            "shape_from": estimate.skeleton.blueprint.origin,
            "parameters": estimate.parameters,
            "trained": estimate.trained,
            "weights_dtype": str(estimate.skeleton.blueprint.dtype).removeprefix("torch."),
            "quantized_layers": len(estimate.skeleton.quantized),
            "products": estimate.precision,
            "encoding": estimate.encoding,
        },
        "activation_bytes_per_token": {
            "without_checkpointing": _activations(estimate, False),
            "with_checkpointing": _activations(estimate, True),
        },
        "settings": asdict(workflow.plan),
        "rows": {"unknown": rows} if isinstance(rows, str) else known,
        "asked": _fit_as_dict(estimate.asked),
        "strategies": [_fit_as_dict(fit) for fit in estimate.strategies],
        "devices": [_fit_as_dict(fit) for fit in estimate.devices],
    }


def _activations(estimate: Estimate, checkpointing: bool) -> Any:
    found = estimate.activations[checkpointing]
    return {"unknown": found} if isinstance(found, str) else asdict(found) | {"at_peak": found.at_peak}


def _fit_as_dict(fit: Fit) -> dict[str, Any]:
    parts = None if fit.parts is None else asdict(fit.parts) | {"resident": fit.parts.resident}
    return {
        "processes": fit.processes,
        "parallel": fit.parallel,
        "device": fit.device,
        "device_bytes": DEVICES[fit.device].memory,
        "gradient_checkpointing": fit.checkpointing,
        "bytes_per_process": parts,
        "micro_batch_tokens": fit.tokens,
        "peak_bytes": fit.peak,
        "fits": fit.fits,
        "why_not": fit.why_not,
        "work": None if fit.work is None else asdict(fit.work),
    }


def show_plan(screen: Screen, workflow: Workflow, estimate: Estimate) -> None:
    """Show the plan: the configuration, then what else would do."""
    asked, settings = estimate.asked, workflow.plan
    title = f"rmx: plan of {workflow.model.name} on {workflow.data.source}, {asked.processes} x {asked.device}"
    screen.header(title, _summary(workflow, estimate))
    parts = asked.parts
    assert parts is not None
    screen.metrics("Bytes of the fullest process", ["", ""], [[name, size] for name, size in _bytes(asked)])
    columns = ["processes", "parallel", "checkpointing", "fixed", "a token", "micro-batch", "peak", "", "time"]
    memory = DEVICES[asked.device].memory
    within = readable_bytes((1 - settings.headroom) * memory)
    screen.metrics(
        f"\nOn {asked.device} ({readable_bytes(memory)}, of which a plan takes {within})",
        columns,
        [_row(str(fit.processes), fit) for fit in estimate.strategies],
    )
    screen.metrics(
        f"\n{counted(asked.processes, 'process', 'processes')}, parallel={asked.parallel}, on other devices",
        ["device", *columns[1:]],
        [_row(fit.device, fit) for fit in estimate.devices],
    )
    for line in _reasons(estimate.strategies):
        screen.text(line)


def _reasons(fits: Sequence[Fit]) -> list[str]:
    """Why what is not possible is not: a line for each reason, with what it holds for."""
    found: dict[str, list[str]] = {}
    for fit in fits:
        if fit.why_not is not None:
            found.setdefault(fit.why_not, []).append(
                f"parallel={fit.parallel} on {counted(fit.processes, 'process', 'processes')}"
            )
    return [f"not possible: {', '.join(dict.fromkeys(ways))}: {why}" for why, ways in found.items()]


def _summary(workflow: Workflow, estimate: Estimate) -> dict[str, str]:
    asked, rows = estimate.asked, estimate.rows
    bits = estimate.skeleton.blueprint.quantization
    weights = f"{bits.bits} base" if bits else str(estimate.skeleton.blueprint.dtype).removeprefix("torch.")
    adapter = f", adapter {workflow.peft.kind} r={workflow.peft.r}" if workflow.peft else ""
    found = {
        "model": f"{workflow.model.path or 'tiny'}, from {estimate.skeleton.blueprint.origin}",
        "parameters": f"{count(estimate.parameters)}, {count(estimate.trained)} trained "
        f"({estimate.trained / estimate.parameters:.1%}){adapter}; weights {weights}, products {estimate.precision}",
        "processes": f"{asked.processes}, parallel={asked.parallel}",
    }
    if isinstance(rows, str):
        found["rows"] = f"unknown: {rows}"
    else:
        shared = 1 - rows.unique_tokens / rows.tokens
        found["rows"] = (
            f"{counted(rows.comparisons, 'comparison')}, {count(rows.tokens)} tokens, "
            f"{count(rows.unique_tokens)} unique ({shared:.0%} are prompts that responses share); {rows.origin}"
        )
    if asked.work is not None:
        found["work"] = _work(asked.work)
        found["time"] = _time(asked.work, workflow.plan)
    found["fits"] = _verdict(asked)
    return found


def _work(work: Work) -> str:
    again = f", and {work.computed_again:.3g} that checkpointing computes again" if work.computed_again else ""
    return (
        f"{counted(work.steps, 'step')} of {counted(work.comparisons_per_step, 'comparison')} "
        f"({work.epochs:.2f} epochs), {work.flops:.3g} FLOPs{again}"
    )


def _time(work: Work, settings: PlanSettings) -> str:
    if work.hours is None:
        return "unknown: the device's peak is not in the table"
    share = f" ({settings.mfu * work.mfu_of_model:.0%} of the model's own FLOPs)" if work.computed_again else ""
    words = f"{_hours(work.hours)} at plan.mfu={settings.mfu:g}{share}"
    return f"{words}; without evaluation and what processes send each other"


def _hours(hours: float) -> str:
    """Write hours readably.

    >>> _hours(0.001), _hours(0.05), _hours(2.345), _hours(120.4)
    ('4 s', '3.0 min', '2.3 h', '120 h')
    """
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.1f} min" if hours < 1 else f"{hours:.1f} h" if hours < 100 else f"{hours:.0f} h"


def _verdict(fit: Fit) -> str:
    if fit.peak is None:
        return "no" if fit.fits is False else "unknown: the bytes of a token are not known"
    words = f"peak {readable_bytes(fit.peak)} with micro-batches of {fit.tokens:,} tokens"
    if fit.fits:
        return f"yes, {words}"
    return f"no, {words}" if fit.tokens else "no, not even without activations"


def _bytes(fit: Fit) -> list[tuple[str, str]]:
    """The parts of one process that are there."""
    parts = fit.parts
    assert parts is not None
    named = [
        ("weights", parts.weights), ("scales of quantised weights", parts.quantization),
        ("gradients", parts.gradients), ("optimizer state", parts.optimizer),
        ("buckets that average gradients", parts.buckets), ("whole weights of the layers at work", parts.gathered),
        ("bfloat16 copies of weights", parts.copies),
    ]  # fmt: skip
    rows = [(name, readable_bytes(size)) for name, size in named if size]
    if parts.per_token is None:
        rows.append(("activations", "unknown"))
    else:
        rows.append((f"activations of {fit.tokens:,} tokens", readable_bytes(parts.per_token * fit.tokens)))
        rows.append(("peak", readable_bytes(fit.peak or 0)))
    if parts.host:
        rows.append(("in the host's memory", readable_bytes(parts.host)))
    return rows


def _row(first: str, fit: Fit) -> list[str]:
    again = "yes" if fit.checkpointing else "no"
    parts = fit.parts
    if parts is None:
        return [first, fit.parallel, again, "", "", "", "", "not possible", ""]
    fixed = parts.resident + parts.gathered + parts.copies
    token = "?" if parts.per_token is None else readable_bytes(parts.per_token)
    verdict = {True: "fits", False: "too large", None: "unknown"}[fit.fits]
    hours = "" if fit.work is None or fit.work.hours is None else _hours(fit.work.hours)
    tokens = f"{fit.tokens:,} tokens" if fit.tokens else "none"
    peak = "?" if fit.peak is None else readable_bytes(fit.peak)
    return [first, fit.parallel, again, readable_bytes(fixed), token, tokens, peak, verdict, hours]
