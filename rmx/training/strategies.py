"""One process or several: everything about training that depends on how many there are, behind one object.

The loop asks its strategy to place the model, to keep gradients local until the last micro-batch, to clip, to add
up numbers and agree on flags, and to write and read state. It never asks how many processes there are.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainingArguments

from rmx.checkpoints.shards import has_shards, load_sharded_state
from rmx.checkpoints.tensors import load_state, save_state, state_bytes
from rmx.errors import ModelError, RmxError, counted
from rmx.launch import meet, named_waits
from rmx.models.streaming import Fetch
from rmx.models.unread import Unread
from rmx.run.signals import StopSignals
from rmx.scoring.scorer import Turns
from rmx.training.background import BackgroundWork, copied
from rmx.training.compiled import compile_layers
from rmx.training.memory_use import held_bytes
from rmx.training.weights import load_weights, save_weights, saved_bytes, saved_tensors

__all__ = ["DataParallel", "OneProcess", "join_ranks", "routes_by_module"]

T = TypeVar("T")

# The name of DistributedDataParallel's argument from torch 2.13 on; the older one warns there.
_SYNC_BUFFERS = "forward_sync_buffers"
if _SYNC_BUFFERS not in inspect.signature(DistributedDataParallel.__init__).parameters:
    _SYNC_BUFFERS = "broadcast_buffers"


def join_ranks(arguments: dict[str, Any], seconds: float) -> None:
    """Meet the other ranks and start torch.distributed, as `ddp_backend` and `use_cpu` say; once, before all else.

    A process that is alone has nobody to join.

    Args:
        arguments: of `transformers.TrainingArguments`.
        seconds: the limit of every wait for another rank.

    Raises:
        RankError: a rank has not come in that time.
    """
    board = meet(seconds)
    if board is None:
        return
    if dist.is_initialized():  # by who calls this run from Python, or by Ray
        return
    asked = bool(arguments.get("use_cpu")) or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    device = torch.accelerator.current_accelerator()
    if asked or device is None:
        device = torch.device("cpu")
    else:  # srun may show each process a single GPU
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count())
    dist.init_process_group(
        arguments.get("ddp_backend") or dist.get_default_backend_for_device(device),
        timeout=timedelta(seconds=seconds),
        store=dist.PrefixStore("torch", board.store),
        rank=int(board.rank or 0),
        world_size=board.ranks,
    )


class OneProcess:
    """One process: nothing to share, nobody to wait for."""

    rank, ranks = 0, 1  # that see rows of their own
    process = 0
    words = "one process"
    can_repeat = True  # a step may be computed again, because nobody takes part in it

    def __init__(self, args: TrainingArguments) -> None:
        self.args = args
        self.saving = BackgroundWork()

    # --- The model and its gradients ----------------------------------------------------------------------------------

    def place(self, model: nn.Module, trial: Callable[[nn.Module], None]) -> nn.Module:
        """Put the model where it trains and return what is called in training.

        Args:
            model: the model, possibly with an adapter.
            trial: runs one forward and backward pass of what it is given: the model, or what is called in training.
        """
        self.to_device(model)
        compile_layers(model, self.args)
        return model

    divided = False  # the weights are divided among processes

    def divide(self, model: nn.Module, unread: Mapping[str, Unread]) -> None:
        """Divide the weights of a model that was loaded for it (`RewardModelSource.load(divided=True)`).

        Args:
            model: as it was loaded, possibly with an adapter.
            unread: where its weights lie that are on the meta device (`LoadedModel.unread`).
        """

    divides_again = False  # a second model can be divided beside the trained one, to score with it

    def divide_again(self, model: nn.Module, unread: Mapping[str, Unread]) -> None:
        """Divide a model that is only scored, as `divide` did the trained one; see there."""

    def to_device(self, model: nn.Module) -> None:
        """Move the model to this process's device; quantised ones are there since they were loaded."""
        if getattr(model, "quantization_method", None) is None:
            model.to(self.args.device)

    def local_gradients(self) -> AbstractContextManager[Any]:
        """A block whose backward passes add to this process's gradients only."""
        return contextlib.nullcontext()

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the gradients down to `max_norm` (0: leave them) and return the norm they had."""
        if max_norm > 0:
            return nn.utils.clip_grad_norm_(parameters, max_norm)
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def joined(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return what is called in training, and what moves the weights, once both are made.

        Args:
            module: what `place` returned.
            optimizer: over the trained parameters of the model.
        """
        return module, optimizer

    def held(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[int]:
        """Return the bytes of this process's weights, gradients and optimizer state."""
        return held_bytes(model, optimizer)

    def in_step(self, count: int) -> int:
        """Return how many forward passes this process runs where it has work for `count` of them."""
        return count

    def turns(self) -> Turns:
        """Return how the processes share what is to be scored."""
        return Turns()

    # --- Agreement ----------------------------------------------------------------------------------------------------

    def total(self, values: Sequence[float]) -> list[float]:
        """Add up a vector over all processes, in float64."""
        return list(values)

    def largest(self, values: Sequence[int]) -> list[int]:
        """Return the largest of each number over all processes."""
        return list(values)

    def gathered(self, value: T) -> list[T]:
        """Return every process's value, in the order of ranks."""
        return [value]

    def first(self, work: Callable[[], T]) -> T:
        """Let the first process do something for all; what it returns or raises, every process returns or raises."""
        return work()

    def everywhere(self, work: Callable[[], T]) -> T:
        """Let every process do something by itself; an error of one of them is an error of all."""
        return work()

    def interruptible(self, signals: StopSignals) -> AbstractContextManager[None]:
        """A block that a signal may break off at once."""
        return signals.prompt()

    def together(self) -> AbstractContextManager[None]:
        """A block in which the end of another process is reported as that, and not as this one's error."""
        return contextlib.nullcontext()

    # --- State --------------------------------------------------------------------------------------------------------

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a weight, a part of which is here maybe, whole; every process has to call it, and gets it."""
        return tensor.detach()

    def with_weights(self, model: nn.Module, work: Callable[[nn.Module, Fetch | None], T]) -> T:
        """Let the first process do something that needs whole weights; all return, or raise, what it does.

        Args:
            model: as it was placed.
            work: gets the model, and what fetches a weight of its `state_dict()` by name; None where it has them all.
        """
        return self.first(lambda: work(model, None))

    def write_checkpoint(
        self,
        staged: Callable[[int], AbstractContextManager[Path]],
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        rest: Callable[[Path], None],
        background: bool = False,
    ) -> None:
        """Write a checkpoint, whole or not at all.

        Args:
            staged: opens the folder to write into, for so many bytes.
            model: as it was placed.
            optimizer: None where the weights alone are kept.
            rest: writes everything else.
            background: return when the tensors are copied; `finish_saving` returns when the checkpoint is there.
        """

        def write() -> None:
            state = {} if optimizer is None else optimizer.state_dict()
            opened = contextlib.ExitStack()
            stage = opened.enter_context(staged(saved_bytes(model) + state_bytes(state)))
            with opened:
                rest(stage)
                copies = copied(saved_tensors(model)) if background else None
                kept = copied(state) if background else state
                later = opened.pop_all()

            def tensors() -> None:
                with later:
                    save_weights(model, stage, copies)
                    if optimizer is not None:
                        save_state(kept, stage, "optimizer")

            self.saving.start(tensors) if background else tensors()

        self.first(write)

    def finish_saving(self) -> None:
        """Wait for a checkpoint that is being written.

        Raises:
            OutputError: it could not be written.
        """
        self.first(self.saving.wait)

    def load_model(self, model: nn.Module, folder: Path) -> None:
        """Read the weights of a checkpoint into the same model."""
        load_weights(model, folder)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
        """Give the optimizer its state of a checkpoint, whoever wrote it."""
        if has_shards(checkpoint):
            state = load_sharded_state(checkpoint, "optimizer", lambda _, size, dtype: torch.zeros(size, dtype=dtype))
        else:
            state = load_state(checkpoint, "optimizer")
        optimizer.load_state_dict(state)


class DataParallel(OneProcess):
    """Several processes with the whole model each (DistributedDataParallel); gradients are averaged.

    The loss of a step is scaled by the number of ranks, so that the average is the gradient of the global step.
    """

    can_repeat = False

    def __init__(self, args: TrainingArguments) -> None:
        super().__init__(args)
        self.process = self.rank = dist.get_rank()
        self.words = f"{counted(dist.get_world_size(), 'process', 'processes')} with the whole model each"
        self.ranks = dist.get_world_size()

    def place(self, model: nn.Module, trial: Callable[[nn.Module], None]) -> nn.Module:
        """Wrap the model; parameters without a gradient are looked for in every step only where there are some."""
        self.to_device(model)
        unused = self.args.ddp_find_unused_parameters
        if unused is None:
            unused = self._leaves_parameters_out(model, trial)
        compile_layers(model, self.args)
        options: dict[str, Any] = {
            "bucket_cap_mb": self.args.ddp_bucket_cap_mb,
            _SYNC_BUFFERS: self.args.ddp_broadcast_buffers,
            "static_graph": self.args.ddp_static_graph,
        }
        device = self.args.device
        self.wrapped = DistributedDataParallel(
            model,
            device_ids=[device] if device.type != "cpu" else None,
            find_unused_parameters=unused,
            **{name: value for name, value in options.items() if value is not None},
        )
        return self.wrapped

    def _leaves_parameters_out(self, model: nn.Module, trial: Callable[[nn.Module], None]) -> bool:
        """Whether some step may leave a trained parameter without a gradient; the same answer on every rank."""
        trial(model)
        without = any(p.grad is None for p in model.parameters() if p.requires_grad)
        model.zero_grad()
        return self.largest([int(without or routes_by_module(model))]) == [1]

    def local_gradients(self) -> AbstractContextManager[Any]:
        """Gradients are averaged in the backward pass after this block."""
        return self.wrapped.no_sync()

    def turns(self) -> Turns:
        """Every process scores a share."""
        return Turns(self.rank, self.ranks, self.in_step, self.gathered)

    def total(self, values: Sequence[float]) -> list[float]:
        """One all-reduce."""
        return self._reduced(values, torch.float64, dist.ReduceOp.SUM)

    def largest(self, values: Sequence[int]) -> list[int]:
        """One all-reduce."""
        return self._reduced(values, torch.int64, dist.ReduceOp.MAX)

    def _reduced(self, values: Sequence[Any], dtype: torch.dtype, operation: Any) -> list[Any]:
        vector = torch.tensor(values, dtype=dtype, device=self.args.device)
        dist.all_reduce(vector, operation)
        return vector.tolist()

    def gathered(self, value: T) -> list[T]:
        """One gather of objects."""
        return self.of_all(value)

    def of_all(self, value: T) -> list[T]:
        """Return every process's value."""
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, value)
        return everyone

    def first(self, work: Callable[[], T]) -> T:
        """The others wait; an error of the first rank is an error of all, so that nobody waits for ever."""
        answer: list[Any] = [None]
        if self.process == 0:
            try:
                answer = [work()]
            except RmxError as error:
                answer = [error]
        dist.broadcast_object_list(answer)
        if isinstance(answer[0], RmxError):
            raise answer[0]
        return answer[0]

    def everywhere(self, work: Callable[[], T]) -> T:
        """The errors are gathered; the one of the lowest rank is raised."""
        mine: T | None = None
        failed: RmxError | None = None
        try:
            mine = work()
        except RmxError as error:
            failed = error
        for failure in self.of_all(failed):
            if failure is not None:
                raise failure
        return cast(T, mine)

    def interruptible(self, signals: StopSignals) -> AbstractContextManager[None]:
        """Others wait for this rank: the signal is seen at the end of the step."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Name an error of DistributedDataParallel that a user can do something about.

        Raises:
            RankError: another rank has ended, or did not answer within `parallel.timeout_minutes`.
            ModelError: a parameter that usually has a gradient had none in a step.
        """
        try:
            with named_waits():
                yield
        except RuntimeError as error:
            if "finished reduction in the prior iteration" in str(error):
                raise ModelError(
                    "a parameter of the model got no gradient in a step, which several ranks have to know beforehand; "
                    "set trainer.ddp_find_unused_parameters=true"
                ) from error
            raise


def routes_by_module(model: nn.Module) -> bool:
    """Whether a mixture's experts are modules of their own, of which some see no token in some steps.

    >>> routes_by_module(nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(2, 2)])}))
    True
    """
    return any(isinstance(m, nn.ModuleList) and "expert" in name for name, m in model.named_modules())
