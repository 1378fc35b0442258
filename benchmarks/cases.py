"""The comparisons that the benchmark makes: which case of ours against which of theirs, on which rows."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from benchmarks.worker import Case
from benchmarks.workload import Rows, generated_rows, representative, without_prefix

OURS = "rmx"
LF = "LLaMA-Factory"


@dataclass(frozen=True)
class Group:
    """One line of the table or more: `ours` against each of `theirs`, interleaved, on the same rows."""

    name: str
    what: str
    ours: Case
    theirs: dict[str, Case]
    goal: float | None = None  # times faster than the first of `theirs`
    quick: bool = False  # part of --quick


def samples(rows: Rows, pairs: int) -> dict[str, Rows]:
    """Token rows by name: `pairs` for the small model, half of them for the medium one.

    The first 8 (2 where K is 4) come on top, as the warm-up step.
    """
    shuffled = rows[:]
    random.Random(1).shuffle(shuffled)
    warm_up = shuffled[:8]
    many, few = pairs, max(16, pairs // 2)
    result = {
        "hh-many": warm_up + representative(rows, many),
        "hh-few": warm_up + representative(rows, few),
        "hh-few-1": shuffled[8:16] + representative(rows, few, batch=1),
        "identity": representative(rows, 160),
        "four": generated_rows(2 + pairs // 4, responses=4, seed=4),
        "no-prefix": without_prefix(warm_up + representative(rows, many)),
    }
    for length in LENGTHS:
        result[f"length-{length}"] = generated_rows(16, seed=length, length=length)
    for batch in BATCHES:
        result[f"batch-{batch}"] = shuffled[:batch] + representative(rows, 32)
    for count in COUNTS:
        result[f"count-{count}"] = (shuffled * (1 + count // len(shuffled)))[: 8 + count]
    return result


LENGTHS = (64, 256, 512, 1024)
BATCHES = (1, 4, 8, 16)
COUNTS = (100, 1000, 10_000)
DEFAULTS = {"precision": "bf16", "checkpointing": True}  # TRL's own


def groups(llamafactory: str | None) -> list[Group]:
    """All comparisons; `llamafactory` names the peer that stands for it, if any."""
    found: list[Group] = []

    def add(name: str, what: str, base: Case, *peers: str, goal: float | None = None, quick: bool = False) -> None:
        theirs = {peer: replace(base, peer=peer) for peer in peers if peer}
        found.append(Group(name, what, base, theirs, goal, quick))

    lf = llamafactory or ""
    many, few, one = Case(OURS, "hh-many"), Case(OURS, "hh-few", size="M"), Case(OURS, "hh-few-1")
    add("train/8/S", "8 pairs a step, small", many, "TRL", lf, goal=4.0, quick=True)
    add("train/8/M", "8 pairs a step, medium", few, "TRL", lf, goal=4.0)
    add("train/8/S/128k", "the same, 128k vocabulary", replace(many, vocabulary=128_000), "TRL", lf)
    add(
        "train/1x8/S",
        "1 pair at a time, 8 a step",
        replace(one, batch=1, accumulation=8),
        "TRL",
        lf,
        goal=1.6,
        quick=True,
    )
    add("train/1x8/M", "the same, medium", replace(one, size="M", batch=1, accumulation=8), "TRL", lf, goal=1.6)
    for size, base in (("S", many), ("M", few)):
        ours = replace(base, precision="bf16")
        theirs = {"TRL": replace(base, peer="TRL", **DEFAULTS)}
        found.append(Group(f"train/defaults/{size}", "bf16; TRL checkpoints gradients", ours, theirs, 4.5))
    add("eval/S", "evaluation", replace(many, phase="eval"), "TRL", lf, goal=4.0, quick=True)
    add("eval/M", "evaluation, medium", replace(few, phase="eval"), "TRL", lf, goal=4.0)
    ablation = ("rmx, nothing shared", "rmx, padded fallback", "TRL, length-sorted")
    add("ablation/S", "where it comes from", many, *ablation)
    four = Case(OURS, "four", batch=2)
    found.append(Group("k4/S", "4 responses, 6 pairs", four, {"TRL": replace(four, peer="TRL", batch=12)}, 5.0, True))
    add("control/S", "no prefix to share", Case(OURS, "no-prefix"), "rmx, nothing shared", goal=0.97, quick=True)
    return found


def curves() -> dict[str, dict[int, Case]]:
    """Cases of the two plots: time against batch size and against sequence length."""
    return {
        "batch": {batch: Case(OURS, f"batch-{batch}", batch=batch) for batch in BATCHES},
        "length": {length: Case(OURS, f"length-{length}", batch=8) for length in LENGTHS},
    }


def scaling() -> dict[int, Case]:
    """More and more pairs through a very small model: time must grow linearly and memory not at all."""
    return {count: Case(OURS, f"count-{count}", size="XS", vocabulary=16_384) for count in COUNTS}
