"""The order in which training sees its comparisons: a pure function of (seed, epoch, step, ranks).

One dataloader item is one optimizer step of one rank. All ranks compute the same plan from the same seed,
so the number of pairs in the global step is known everywhere without communication, and a resumed run
continues at any step without replaying anything.

    epoch e ──permute(seed, e)──▶ steps of B × ranks comparisons ──longest first──▶ the least loaded rank
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainingArguments

from rmx.engine.layout import Collator, plan
from rmx.records import Batch, EncodedComparison
from rmx.run.signals import LeaveStoppingToParent

__all__ = ["MicroBatches", "Step", "StepDataset", "StepLoader", "make_loader"]

Key = tuple[int, int]  # (epoch, step within the epoch)


@dataclass(frozen=True, slots=True)
class MicroBatches:
    """Lays comparisons out as micro-batches of at most `max_tokens` token positions. Needs no model, and pickles."""

    collator: Collator
    max_tokens: int

    def __call__(self, comparisons: Sequence[EncodedComparison]) -> list[Batch]:
        """Return the micro-batches, which together hold every comparison once."""
        parts = plan(self.collator, comparisons, self.max_tokens)
        return [self.collator([comparisons[i] for i in part]) for part in parts]


@dataclass(slots=True)
class Step:
    """What one rank computes for one optimizer step."""

    comparisons: list[EncodedComparison]
    batches: list[Batch]  # the same comparisons as micro-batches
    pair_weight: float  # sum of pair weights over the GLOBAL step, all ranks: the loss is divided by it
    index: int  # epoch × steps per epoch + step: seeds the step's randomness
    is_filler: bool = False  # this rank had nothing to do; its gradient counts zero
    collate: Callable[[Sequence[EncodedComparison]], list[Batch]] | None = None  # what made `batches`

    def pin_memory(self) -> Step:
        """Return the step with its token rows in page-locked memory; DataLoader calls it."""
        return dataclasses.replace(self, batches=[pinned(batch) for batch in self.batches])


def pinned(batch: Batch) -> Batch:
    """Return a batch whose tensors are in page-locked memory, from where a GPU fetches them while it computes."""
    tensors: dict[str, Any] = {name: value.pin_memory() for name, value in fields_with_tensors(batch).items()}
    pairs = type(batch.pairs)(**{name: getattr(batch.pairs, name).pin_memory() for name in batch.pairs.__slots__})
    layout = batch.layout
    if layout is not None:
        layout = dataclasses.replace(
            layout, **{name: value.pin_memory() for name, value in fields_with_tensors(layout).items()}
        )
    return dataclasses.replace(batch, **tensors, pairs=pairs, layout=layout)


def fields_with_tensors(value: Any) -> dict[str, torch.Tensor]:
    """Return the fields of a dataclass that hold a tensor."""
    held = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {name: item for name, item in held.items() if isinstance(item, torch.Tensor)}


class StepDataset(Dataset):
    """Indexable by (epoch, step); an item is this rank's `Step`, collated and ready.

    Args:
        comparisons: the encoded training set.
        per_step: comparisons per optimizer step, of all ranks together.
        collate: turns a step's comparisons into micro-batches.
        shuffle: whether each epoch is a new permutation (else: the order given).
    """

    def __init__(
        self,
        comparisons: Sequence[EncodedComparison],
        *,
        per_step: int,
        collate: Callable[[Sequence[EncodedComparison]], list[Batch]],
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self.comparisons = comparisons
        self.collate = collate
        self.seed, self.rank, self.ranks, self.shuffle = seed, rank, ranks, shuffle
        self.per_step = per_step
        full, rest = divmod(len(comparisons), per_step)
        self.steps_per_epoch = full + (1 if rest and not drop_last else 0)
        self._epoch_order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return self.steps_per_epoch

    def order(self, epoch: int) -> list[int]:
        """Indices of the comparisons in the order in which `epoch` sees them."""
        if not self.shuffle:
            return list(range(len(self.comparisons)))
        if self._epoch_order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch_order = (epoch, torch.randperm(len(self.comparisons), generator=generator).tolist())
        return self._epoch_order[1]

    def share(self, indices: Sequence[int]) -> list[list[int]]:
        """Split one global step over the ranks: longest first, each to the least loaded rank."""
        if self.ranks == 1:
            return [list(indices)]
        shares: list[list[int]] = [[] for _ in range(self.ranks)]
        load = [0] * self.ranks
        for index in sorted(indices, key=lambda i: (-self.comparisons[i].shared_tokens, i)):
            rank = min(range(self.ranks), key=lambda r: (load[r], r))
            shares[rank].append(index)
            load[rank] += self.comparisons[index].shared_tokens
        return shares

    def __getitem__(self, key: Key) -> Step:
        epoch, step = key
        indices = self.order(epoch)[step * self.per_step : (step + 1) * self.per_step]
        weight = sum(pair.weight for i in indices for pair in self.comparisons[i].pairs)
        mine = self.share(indices)[self.rank]
        comparisons = [self.comparisons[i] for i in (mine or indices[:1])]
        return Step(
            comparisons,
            self.collate(comparisons),
            weight,
            index=epoch * self.steps_per_epoch + step,
            is_filler=not mine,
            collate=self.collate,
        )


class StepSampler(Sampler[list[Key]]):
    """Yields the keys of one epoch from a step on, a list of one key at a time (the shape of a batch sampler)."""

    def __init__(self, steps_per_epoch: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.epoch, self.first = 0, 0

    def __len__(self) -> int:
        return self.steps_per_epoch - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.first, self.steps_per_epoch):
            yield [(self.epoch, step)]


class StepLoader(DataLoader):
    """A DataLoader over steps, one epoch at a time."""

    def __init__(self, dataset: StepDataset, **options: Any) -> None:
        self.keys = StepSampler(len(dataset))
        super().__init__(dataset, batch_sampler=self.keys, collate_fn=only, **options)

    def epoch(self, number: int, first: int = 0) -> Iterator[Step]:
        """Iterate over the steps of an epoch, from step `first` on."""
        self.keys.epoch, self.keys.first = number, first
        return iter(self)


def only(items: list[Step]) -> Step:
    """Collate function: the batch sampler yields one key at a time, so there is one item."""
    return items[0]


def make_loader(steps: StepDataset, args: TrainingArguments) -> StepLoader:
    """Return the loader of whole optimizer steps, as `trainer.dataloader_*` say."""
    workers, context = args.dataloader_num_workers, args.dataloader_multiprocessing_context
    options = {
        "persistent_workers": args.dataloader_persistent_workers,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "multiprocessing_context": context,
        "worker_init_fn": LeaveStoppingToParent(context) if workers else None,
    }
    return StepLoader(
        steps,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        generator=torch.Generator().manual_seed(args.seed),  # leaves the global generator alone
        **(options if workers else {}),
    )
