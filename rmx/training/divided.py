"""What strategies share that divide weights or optimizer state among processes, whoever divides them.

Collectives need every process: all of them run the same number of micro-batches (fillers count for nothing). For the
artefact, weights are gathered one tensor at a time, which the first process alone keeps; into a checkpoint each
process writes its own parts.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from peft import PeftModel
from peft.utils import load_peft_weights
from safetensors import safe_open
from torch import Tensor, nn
from transformers import TrainingArguments

from rmx.checkpoints.shards import save_shards, start_saving_shards, structure_of
from rmx.checkpoints.tensors import state_bytes
from rmx.errors import ConfigError
from rmx.models.streaming import Fetch
from rmx.models.unread import Unread, stored_tensors
from rmx.training.lending import lend
from rmx.training.strategies import DataParallel
from rmx.training.weights import WEIGHTS, checkpoint_files, save_weights, saved_bytes

__all__ = ["DividedWeights", "check_arguments", "stored_weights", "without_weights"]

T = TypeVar("T")

log = logging.getLogger(__name__)


class DividedWeights(DataParallel, ABC):
    """Several processes that hold a part of the optimizer's state each, and maybe of the weights."""

    def __init__(self, args: TrainingArguments) -> None:
        super().__init__(args)
        self.process = self.rank
        self.beside: dist.ProcessGroup | None = None
        self.said_waiting = False
        self.skeleton: Any = None  # the model without weights, once it is divided

    def in_step(self, count: int) -> int:
        """Return the largest count of all processes: so many forward passes does each of them run."""
        return self.largest([count])[0]

    @abstractmethod
    def divided_state(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights that a checkpoint keeps, by name, and the optimizer's state as one process has it.

        Divided tensors are `DTensor`s. Every process has to call it.
        """

    @abstractmethod
    def lendable(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return what `whole` makes whole, by its name in `state_dict()`; every process has to call it."""

    def with_weights(self, model: nn.Module, work: Callable[[nn.Module, Fetch | None], T]) -> T:
        """Lend the first process the model without its weights, and gather each of them when it asks for it."""
        state = self.lendable(model)
        return lend(
            self.process,
            lambda fetch: work(self.skeleton, fetch),
            lambda name: self._for_first(state[name]),
        )

    def _for_first(self, tensor: Tensor) -> Tensor | None:
        """Make a tensor whole; the first process gets it, in the host's memory."""
        complete = self.whole(tensor)
        return complete.cpu() if self.process == 0 else None

    def write_checkpoint(
        self,
        staged: Callable[[int], AbstractContextManager[Path]],
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        rest: Callable[[Path], None],
        background: bool = False,
    ) -> None:
        """Let every process write its own parts into the folder that the first one opens and seals."""
        if optimizer is None:  # weights alone are for others to read, and no process has them to write them later
            if background and self.process == 0 and not self.said_waiting:
                log.info("trainer.async_save: divided weights without optimizer state are written while training waits")
                self.said_waiting = True
            self.with_weights(model, lambda skeleton, fetch: write_alone(staged, skeleton, fetch, rest))
            return
        weights, state = self.divided_state(model, optimizer)
        needed, opened = state_bytes(weights) + state_bytes(state), contextlib.ExitStack()
        stage = Path(self.first(lambda: str(opened.enter_context(staged(needed)))))
        with opened:
            parts = structure_of(state, stage, "optimizer", write=self.process == 0)
            parts |= {f"{WEIGHTS}{name}": tensor for name, tensor in weights.items()}
            if not background:
                save_shards(parts, stage)
            self.first(lambda: rest(stage))
            written = start_saving_shards(parts, stage, self._second_group()) if background else None
            later = opened.pop_all()
        if written is None:
            self.first(later.close)
        else:  # the first process's turn comes when all have written
            self.saving.start(lambda: closed_after(written, later))

    def finish_saving(self) -> None:
        """Wait for every process's parts, and for the first one's seal."""
        self.everywhere(self.saving.wait)

    def _second_group(self) -> dist.ProcessGroup:
        """Return a group for what goes on beside training, whose messages must not mix with training's."""
        if self.beside is None:
            self.beside = dist.new_group(backend="gloo")
        return self.beside


def write_alone(
    staged: Callable[[int], AbstractContextManager[Path]],
    model: nn.Module,
    fetch: Fetch | None,
    rest: Callable[[Path], None],
) -> None:
    """Write a checkpoint of weights alone; see `OneProcess.write_checkpoint`."""
    with staged(saved_bytes(model)) as stage:
        rest(stage)
        save_weights(model, stage, fetch=fetch)


def closed_after(written: Callable[[], None], opened: contextlib.ExitStack) -> None:
    """Wait until all parts are written, then close what was opened for them; after a failure, as after an error."""
    with opened:
        written()


def check_arguments(args: TrainingArguments, optimizers: tuple[str, ...]) -> None:
    """Refuse what needs whole weights, or belongs to DistributedDataParallel.

    Args:
        args: the arguments of transformers.
        optimizers: those that move every element by itself, so that a part is enough.

    Raises:
        ConfigError: a key that does not go together with divided weights.
    """
    optimizer = getattr(args.optim, "value", args.optim)
    if optimizer not in optimizers:
        raise ConfigError(
            f"trainer.optim={optimizer}: is not known to be right on divided weights; give one of "
            f"{', '.join(optimizers)}, or parallel=ddp"
        )
    for name in ("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"):
        if getattr(args, name) is not None:
            raise ConfigError(f"trainer.{name}: belongs to parallel=ddp and does nothing here; leave it out")


def without_weights(model: nn.Module) -> nn.Module:
    """Copy a model but for its weights: they are on the meta device, and take no memory."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    memo |= {id(state): None for m in model.modules() if (state := getattr(m, "quant_state", None)) is not None}
    return copy.deepcopy(model, memo)


def stored_weights(model: nn.Module, folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a checkpoint that is not in parts, one after the other; of an adapter, those alone."""
    if isinstance(model, PeftModel):
        yield from load_peft_weights(str(folder), device="cpu").items()
        return
    for file in checkpoint_files(folder):
        with safe_open(str(folder / file), framework="pt") as stored:
            names = list(stored.keys())
        yield from stored_tensors({name: Unread(folder / file, name) for name in names})
