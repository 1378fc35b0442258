"""A plan: what one configuration takes on one device, and which strategies and devices would do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rmx.engine import Engine
from rmx.engine.layout import Encoding
from rmx.errors import ConfigError
from rmx.memory.activations import ActivationCounter, Activations
from rmx.memory.peak import Parts
from rmx.models.skeleton import Skeleton, blueprint, skeleton
from rmx.parallel import MeshSizes, NoParallel, Replicated, Sharded, Zero
from rmx.planning.gpus import DEVICES
from rmx.planning.parts import held_by_fullest, parts_of
from rmx.planning.work import Rows, Work, work_of
from rmx.training.divided import check_arguments
from rmx.training.flops import flop_counts
from rmx.training.token_budget import LARGEST, SMALLEST, asks_for_checkpointing, budget_within, checkpointed_every
from rmx.training.zero import OPTIMIZERS
from rmx.training.zero_memory import held_by_zero

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from rmx.workflow import Workflow

__all__ = ["Estimate", "Fit", "Planner"]


@dataclass(frozen=True)
class Fit:
    """One way to run on one device.

    Attributes:
        processes: how many.
        parallel: how they share the model, in words.
        device: a name of `rmx.planning.gpus.DEVICES`.
        checkpointing: whether layers are computed again.
        parts: bytes of the fullest process.
        tokens: of a micro-batch: as asked, or the most that fit; 0 where none do.
        peak: bytes at the fullest moment, with so many tokens.
        fits: whether that is within the device's memory less `plan.headroom`; None where activations are not known.
        work: what all of it computes; None where the rows are not known.
        why_not: what stands in the way, where something does.
    """

    processes: int
    parallel: str
    device: str
    checkpointing: bool
    parts: Parts | None
    tokens: int = 0
    peak: float | None = None
    fits: bool | None = False
    work: Work | None = None
    why_not: str | None = None


@dataclass(frozen=True)
class Estimate:
    """A plan.

    Attributes:
        skeleton: the model without its weights.
        parameters, trained: counts.
        precision: of the backbone's products.
        encoding: how rows are laid out, and why.
        activations: bytes of a token, by checkpointing; or why they are not known.
        rows: what is trained on; a string says why it is not known.
        asked: the configuration as it is.
        strategies: other numbers of processes, and other ways to share the model, on the same device.
        devices: the configuration on other devices.
    """

    skeleton: Skeleton
    parameters: int
    trained: int
    precision: str
    encoding: Encoding
    activations: dict[bool, Activations | str]
    rows: Rows | str
    asked: Fit
    strategies: list[Fit]
    devices: list[Fit]


class Planner:
    """Makes plans for one model, adapter and set of rows; what several plans share is counted once.

    Args:
        workflow: the configuration.
        args: the arguments of transformers that it means.
        rows: what is trained on; a string says why it is not known.

    Raises:
        ModelError: the model's shape is not known.
        ConfigError: the adapter or the optimizer cannot be planned.
    """

    def __init__(self, workflow: Workflow, args: TrainingArguments, rows: Rows | str) -> None:
        self.w, self.args, self.rows, self.settings = workflow, args, rows, workflow.plan
        self.precision: Literal["fp32", "bf16"] = _precision(workflow)
        plan = blueprint(workflow.model, workflow.peft)
        self.skeleton = skeleton(plan, workflow.model, workflow.peft)
        self.engine = Engine(self.skeleton.model, encoding=workflow.trainer.encoding)
        counts = flop_counts(self.engine)
        self.counts, self.forward = {False: counts.training, True: counts.whole}, counts.whole_forward
        self.activations = (
            f"padded rows: {self.engine.reason}"
            if self.engine.encoding == "padded"
            else ActivationCounter(plan.config, plan.dtype, workflow.peft, self.precision)
        )
        self._held: dict[MeshSizes | None, list[int]] = {}

    def estimate(self) -> Estimate:
        """Return the plan of the configuration."""
        processes = self.settings.processes or _processes(self.w.parallel)
        checkpointing = asks_for_checkpointing(self.args)
        asked = self.fit(self.w.parallel, processes, self.settings.device, checkpointing)
        if asked.parts is None:
            raise ConfigError(str(asked.why_not))
        node = self.settings.processes_per_node
        strategies = [
            self.fit(parallel, n, self.settings.device, again)
            for n in sorted({1, node, 2 * node, processes})
            for parallel in _strategies(
                n, node, tensor=not self.skeleton.packed, deepspeed=isinstance(self.w.parallel, Zero)
            )
            for again in dict.fromkeys((checkpointing, True))
        ]
        devices = [self.fit(self.w.parallel, processes, name, checkpointing) for name in DEVICES]
        parameters = list(self.skeleton.model.parameters())
        return Estimate(
            skeleton=self.skeleton,
            parameters=sum(p.numel() for p in parameters),
            trained=sum(p.numel() for p in parameters if p.requires_grad),
            precision=self.precision,
            encoding=self.engine.encoding,
            activations={again: self.token(again) for again in (False, True)},
            rows=self.rows,
            asked=asked,
            strategies=strategies,
            devices=devices,
        )

    def fit(self, parallel: NoParallel, processes: int, device: str, checkpointing: bool) -> Fit:
        """Return what one way to run takes."""
        blank = Fit(processes, "", device, checkpointing, None)
        try:
            sizes = parallel.sizes(processes, self.settings.processes_per_node)
            zero = parallel.stage if isinstance(parallel, Zero) else None
            words = "none" if processes == 1 else parallel_name(parallel) if zero else "ddp"
            if sizes is not None:
                words = _words(sizes, parallel)
            parts = parts_of(
                self.skeleton,
                self.args,
                self.token(checkpointing, 1 if sizes is None else sizes.tensor),
                held=self.held_by_zero(zero, processes) if zero else self.held(sizes),
                sizes=sizes,
                processes=processes,
                precision=self.precision,
                checkpointing=checkpointing,
                cpu_offload=isinstance(parallel, Sharded) and parallel.cpu_offload,
                zero=zero,
            )
        except ConfigError as error:
            return replace(blank, parallel=parallel_name(parallel), why_not=str(error))
        data = processes if sizes is None else sizes.data
        work = self.work(data, processes, device, checkpointing)
        room = (1 - self.settings.headroom) * DEVICES[device].memory
        tokens, several = self.micro_batch(parts, room, data)
        peak = None if parts.per_token is None else parts.peak(tokens, several=several)
        fits = None if peak is None else peak <= room and tokens >= min(self.needed(), self.step_tokens(data))
        if peak is None and parts.resident + parts.gathered + parts.copies > room:
            fits = False
        return replace(blank, parallel=words, parts=parts, tokens=tokens, peak=peak, fits=fits, work=work)

    def micro_batch(self, parts: Parts, room: float, data_ranks: int) -> tuple[int, bool]:
        """(tokens of a micro-batch, whether a step has several): as asked, or what fits, and no more than a step."""
        step = self.step_tokens(data_ranks)
        asked = self.w.trainer.max_tokens_per_micro_batch
        if asked != "auto":
            tokens = max(int(asked), self.needed())
            return min(tokens, step), tokens < step
        within = parts.tokens_within(room)
        if within >= SMALLEST:
            within = budget_within(parts, room)
        if within < step and within < self.needed():
            return 0 if within <= 0 else within, True
        return min(within, step), within < step

    def needed(self) -> int:
        """Tokens that a micro-batch has to have room for: the longest comparison."""
        return SMALLEST if isinstance(self.rows, str) else self.rows.longest

    def step_tokens(self, data_ranks: int) -> int:
        """Tokens that one process computes in a large step: the mean and a quarter."""
        if isinstance(self.rows, str):
            return LARGEST
        each = self.rows.unique_tokens / self.rows.comparisons
        share = -(-self.w.trainer.step_size(data_ranks) // data_ranks)
        return max(self.rows.longest, int(1.25 * share * each))

    def work(self, data_ranks: int, processes: int, device: str, checkpointing: bool) -> Work | None:
        """Return what the run computes; None where the rows are not known."""
        if isinstance(self.rows, str):
            return None
        return work_of(
            self.rows,
            self.w.trainer,
            self.args,
            self.counts[checkpointing],
            self.forward if checkpointing else None,
            encoding=self.engine.encoding,
            data_ranks=data_ranks,
            processes=processes,
            gpu=DEVICES[device],
            mfu=self.settings.mfu,
        )

    def token(self, checkpointing: bool, tensor: int = 1) -> Activations | str:
        """Return the bytes of a token, or why they are not known."""
        if isinstance(self.activations, str):
            return self.activations
        every = checkpointed_every(self.args)
        return self.activations.of(checkpointing=checkpointing, every_n_layers=every, tensor=tensor)

    def held_by_zero(self, stage: int, processes: int) -> list[int]:
        """Return the bytes that stay in the fullest of the processes that DeepSpeed divides among."""
        check_arguments(self.args, OPTIMIZERS)
        return held_by_zero(self.skeleton.model, self.args, stage, processes)

    def held(self, sizes: MeshSizes | None) -> list[int]:
        """Return the bytes that stay in the fullest process, counted once for each division."""
        if sizes not in self._held:
            self._held[sizes] = held_by_fullest(self.skeleton.model, self.args, sizes, self.skeleton.packed)
        return self._held[sizes]


def parallel_name(parallel: NoParallel) -> str:
    """Return what a strategy is, where its sizes do not fit the number of processes.

    >>> parallel_name(Replicated()), parallel_name(Sharded()), parallel_name(Zero(stage=3))
    ('ddp', 'fsdp', 'zero3')
    """
    if isinstance(parallel, Zero):
        return f"zero{parallel.stage}"
    if not isinstance(parallel, Sharded):
        return "ddp" if isinstance(parallel, Replicated) else "none"
    return {(False, False): "fsdp", (True, False): "hsdp", (False, True): "fsdp_tp"}.get(
        (parallel.replicate != 1, parallel.tensor != 1), "tp"
    )


def _words(sizes: Any, parallel: NoParallel) -> str:
    offload = ", in the host's memory" if isinstance(parallel, Sharded) and parallel.cpu_offload else ""
    parts = [f"{name} {size}" for name, size in sizes._asdict().items() if size > 1]
    name = "tp" if sizes.data == 1 else parallel_name(parallel)
    return f"{name} ({' x '.join(parts)}){offload}"


def _strategies(processes: int, per_node: int, *, tensor: bool, deepspeed: bool) -> list[NoParallel]:
    """The shipped ways to share a model among so many processes; DeepSpeed's where one of them is asked for."""
    if processes == 1:
        return [NoParallel()]
    found: list[NoParallel] = [Replicated(), Sharded()]
    if processes > per_node and processes % per_node == 0:
        found.append(Sharded(shard=per_node, replicate="auto"))
    if tensor and processes % 2 == 0:
        found.append(Sharded(tensor=2))
    if deepspeed:
        found += [Zero(stage=2), Zero(stage=3)]
    return found


def _processes(parallel: NoParallel) -> int:
    """`parallel.processes` as a number; auto is one process for each GPU of this machine."""
    if parallel.processes == "auto":
        import torch

        return max(1, torch.cuda.device_count())
    return 1 if parallel.processes is None else int(parallel.processes)


def _precision(workflow: Workflow) -> Literal["fp32", "bf16"]:
    """`trainer.precision` on a device that multiplies bfloat16, as all of `DEVICES` do."""
    asked, bf16 = workflow.trainer.precision, workflow.trainer.arguments.get("bf16")
    return "fp32" if asked == "fp32" or (asked == "auto" and bf16 is False) else "bf16"
