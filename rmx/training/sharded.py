"""Several processes that hold a part of every weight each: torch's `fully_shard` on a mesh, and tensor parallelism.

    mesh (replicate, shard, tensor)          the rows of a step are dealt to the replicate x shard groups
    forward, backward                        a layer's weights are gathered while it runs; gradients are averaged
                                             into the parts, micro-batch by micro-batch
    the optimizer                            moves the part that its process holds

Collectives need every process: all of them run the same number of micro-batches (fillers count for nothing). For the
artefact, weights are gathered one tensor at a time, which the first process alone keeps; into a checkpoint each
process writes its own parts.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from peft.utils import load_peft_weights
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainingArguments

from rmx.checkpoints.shards import (
    has_shards,
    load_sharded_state,
    save_shards,
    start_saving_shards,
    structure_of,
)
from rmx.checkpoints.tensors import load_state, state_bytes
from rmx.errors import CheckpointError, ConfigError, ModelError, RmxError
from rmx.models.layers import layers_of
from rmx.models.unread import Unread, stored_tensors
from rmx.parallel import MeshSizes
from rmx.training.compiled import compile_layers
from rmx.training.strategies import DataParallel
from rmx.training.tensor_parallel import divide_layers
from rmx.training.weights import WEIGHTS, checkpoint_files, kept_weights, saved_bytes

__all__ = ["ShardedWeights", "part_of", "whole"]

# Element by element, so that a part of the weights is enough.
OPTIMIZERS = (
    *("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop"),
    *("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"),
)


class ShardedWeights(DataParallel):
    """Weights, gradients and optimizer state divided among processes (Zhao et al. 2023, PyTorch FSDP).

    Args:
        args: the arguments of transformers.
        sizes: processes along each dimension of the mesh.
        cpu_offload: the parts wait in the host's memory.

    Raises:
        ConfigError: the optimizer needs whole weights, or a key of DistributedDataParallel is set.
    """

    def __init__(self, args: TrainingArguments, sizes: MeshSizes, *, cpu_offload: bool = False) -> None:
        super().__init__(args)
        self.process = self.rank
        self.beside: dist.ProcessGroup | None = None
        self.skeleton: Any = None  # the model without weights, once it is divided
        self.sizes, self.cpu_offload = sizes, cpu_offload
        self.words = " x ".join(f"{name}={size}" for name, size in sizes._asdict().items())
        self.mesh: DeviceMesh = init_device_mesh(
            args.device.type, tuple(sizes), mesh_dim_names=("replicate", "shard", "tensor")
        )
        self.data_mesh = self.mesh["replicate", "shard"] if sizes.replicate > 1 else self.mesh["shard"]
        self.rank = self.mesh.get_local_rank("replicate") * sizes.shard + self.mesh.get_local_rank("shard")
        self.ranks = sizes.data
        self.one_of_each = [sizes.tensor * rank for rank in range(self.ranks)]  # a process of each data rank
        check_arguments(args)

    # --- The model and its gradients ----------------------------------------------------------------------------------

    divided = True

    def place(self, model: nn.Module, trial: Callable[[], None]) -> nn.Module:
        """Return the model, which was divided when it was loaded.

        Raises:
            ModelError: it was not.
        """
        if self.skeleton is None:
            raise ModelError("parallel: the model was not divided among the processes before training")
        compile_layers(model, self.args)
        return model

    def divide(self, model: Any, unread: Mapping[str, Unread]) -> None:
        """Divide the weights in place: a unit per layer, and one for the rest; then read what is still in its files.

        Raises:
            ModelError: a weight is not divided although it should be.
        """
        self.skeleton = without_weights(model)
        if not unread and not self.cpu_offload:
            model.to(self.args.device)
        here = {
            name: tensor.detach().clone()
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
            if unread and not tensor.is_meta
        }
        self._divide(model)
        if unread:
            model.to_empty(device="cpu" if self.cpu_offload else self.args.device)
            fill(model, (*here.items(), *stored_tensors(unread)))

    def _divide(self, model: nn.Module) -> None:
        options: dict[str, Any] = {"mesh": self.data_mesh, "reshard_after_forward": True}
        if self.cpu_offload:
            options["offload_policy"] = CPUOffloadPolicy(pin_memory=self.args.device.type == "cuda")
        if self.sizes.tensor > 1:
            divide_layers(model, self.mesh["tensor"])
        if self.data_mesh.size() > 1:
            for layer in layers_of(model):
                fully_shard(layer, **options)
            fully_shard(model, **options)
            self.refuse_whole(model)

    def refuse_whole(self, model: nn.Module) -> None:
        """Stop where the division did not take effect.

        Raises:
            ModelError: a parameter is whole, or lies on another mesh.
        """
        for name, parameter in model.named_parameters():
            if not isinstance(parameter, DTensor) or "shard" not in (parameter.device_mesh.mesh_dim_names or ()):
                raise ModelError(f"parallel: the weight {name} was not divided among {self.data_mesh.size()} processes")

    def local_gradients(self) -> AbstractContextManager[Any]:
        """Every micro-batch's gradients are averaged at once: whole ones would take the memory of whole weights."""
        return contextlib.nullcontext()

    def tune(self, optimizer: torch.optim.Optimizer) -> None:
        """Step through the weights one by one where they lie on several meshes: torch fuses those of one mesh only."""
        for group in optimizer.param_groups if self.sizes.tensor > 1 else ():
            group |= dict.fromkeys({"foreach", "fused"} & set(group), False)

    def in_step(self, count: int) -> int:
        """Return the largest count of all processes: so many forward passes does each of them run."""
        return self.largest([count])[0]

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the parts of the gradients by the norm of the whole."""
        groups: dict[Any, list[nn.Parameter]] = {}  # by mesh: torch takes the norm of one at a time
        for parameter in parameters:
            if parameter.grad is not None:
                groups.setdefault(getattr(parameter, "device_mesh", None), []).append(parameter)
        norms = [
            whole(nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])) for group in groups.values()
        ]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if max_norm > 0:
            for group in groups.values():
                nn.utils.clip_grads_with_norm_(group, max_norm, norm)
        return norm

    # --- Agreement ----------------------------------------------------------------------------------------------------

    def total(self, values: Sequence[float]) -> list[float]:
        """One all-reduce, to which one process of each data rank adds."""
        mine = self.process in self.one_of_each
        return super().total(values if mine else [0.0] * len(values))

    def gathered(self, value: Any) -> list[Any]:
        """Return one value per data rank, in their order."""
        everyone = self._all(value)
        return [everyone[process] for process in self.one_of_each]

    # --- State --------------------------------------------------------------------------------------------------------

    def model_state(self, model: nn.Module) -> dict[str, Tensor]:
        """Gather the whole weights, one tensor after the other; the first process keeps them, in the host's memory."""
        reshard(model)
        return self._kept(model.state_dict())

    def _kept(self, value: Any) -> Any:
        """Make every divided tensor whole; in the other processes nothing is left of it."""
        if isinstance(value, dict):
            return {key: self._kept(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._kept(item) for item in value)
        if isinstance(value, DTensor):
            complete = value.full_tensor()
            return complete.cpu() if self.process == 0 else torch.empty(0, dtype=value.dtype)
        return value

    @contextlib.contextmanager
    def whole_model(self, model: nn.Module, state: dict[str, Tensor] | None) -> Iterator[nn.Module]:
        """Lend the model with the gathered weights, on the CPU; in the first process."""
        assert state is not None
        self.skeleton.load_state_dict(state, assign=True, strict=False)
        left = [name for name, parameter in self.skeleton.named_parameters() if parameter.is_meta]
        if left:
            raise ModelError(f"the weight {left[0]} was not gathered")
        try:
            yield self.skeleton
        finally:
            self.skeleton.to("meta")

    def write_checkpoint(
        self,
        staged: Callable[[int], AbstractContextManager[Path]],
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        rest: Callable[[Path], None],
        background: bool = False,
    ) -> None:
        """Let every process write its own parts into the folder that the first one opens and seals."""
        if optimizer is None:  # weights alone are for others to read: one file
            super().write_checkpoint(staged, model, None, rest, background)
            return
        reshard(model)
        state = optimizer.state_dict()
        needed, opened = saved_bytes(model) + state_bytes(state), contextlib.ExitStack()
        stage = Path(self.first(lambda: str(opened.enter_context(staged(needed)))))
        with opened:
            parts = structure_of(state, stage, "optimizer", write=self.process == 0)
            parts |= {f"{WEIGHTS}{name}": tensor for name, tensor in kept_weights(model).items()}
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
        mine: RmxError | None = None
        try:
            self.saving.wait()
        except RmxError as error:
            mine = error
        for failure in self._all(mine):
            if failure is not None:
                raise failure

    def _second_group(self) -> dist.ProcessGroup:
        """Return a group for what goes on beside training, whose messages must not mix with training's."""
        if self.beside is None:
            self.beside = dist.new_group(backend="gloo")
        return self.beside

    def _all(self, value: Any) -> list[Any]:
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, value)
        return everyone

    def load_model(self, model: nn.Module, folder: Path) -> None:
        """Give each process its part of what is stored, tensor by tensor.

        Raises:
            CheckpointError: the files are those of another model.
        """
        if has_shards(folder):
            super().load_model(model, folder)
            return
        targets, read = kept_weights(model), set()
        for name, tensor in adapter_tensors(folder) if isinstance(model, PeftModel) else model_tensors(folder):
            if name not in targets:
                raise CheckpointError(f"{folder}: {name} is not a weight of this model; start anew with resume=never")
            copy_part(tensor, targets[name])
            read.add(name)
        if missing := sorted(set(targets) - read):
            raise CheckpointError(f"{folder}: {missing[0]} is missing; start anew with resume=never")

    def load_optimizer(self, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
        """Read a state, dividing it as the weights are divided."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def empty(name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
            parameter = parameters[int(name.split(".")[2])]  # optimizer.state.<number>.exp_avg
            if size == parameter.shape and size:
                return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
            return torch.zeros(size, dtype=dtype)

        if has_shards(checkpoint):
            state = load_sharded_state(checkpoint, "optimizer", empty)
        else:
            state = load_state(checkpoint, "optimizer")
            for index, values in state["state"].items():
                like = parameters[index]
                for name, value in values.items():
                    if isinstance(value, Tensor) and value.shape == like.shape and value.dim() > 0:
                        values[name] = part_of(value, like)
        optimizer.load_state_dict(state)
        self.tune(optimizer)


def closed_after(written: Callable[[], None], opened: contextlib.ExitStack) -> None:
    """Wait until all parts are written, then close what was opened for them; after a failure, as after an error."""
    with opened:
        written()


def reshard(model: nn.Module) -> None:
    """Give back the whole weights that the last forward pass has left in memory."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def check_arguments(args: TrainingArguments) -> None:
    """Refuse what needs whole weights, or belongs to DistributedDataParallel.

    Raises:
        ConfigError: a key that does not go together with divided weights.
    """
    optimizer = getattr(args.optim, "value", args.optim)
    if optimizer not in OPTIMIZERS:
        raise ConfigError(
            f"trainer.optim={optimizer}: is not known to be right on divided weights; give one of "
            f"{', '.join(OPTIMIZERS)}, or parallel=ddp"
        )
    for name in ("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"):
        if getattr(args, name) is not None:
            raise ConfigError(f"trainer.{name}: belongs to parallel=ddp and does nothing here; leave it out")


def whole(tensor: Tensor) -> Tensor:
    """Return a divided tensor as a whole one; collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor, like: Tensor) -> Any:
    """Return this process's part of a tensor that every process has whole, divided like another one."""
    if not isinstance(like, DTensor):
        return tensor
    tensor = tensor.to(device=like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def copy_part(tensor: Tensor, target: Tensor) -> None:
    """Copy what `target` holds of a whole tensor."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            target.to_local().copy_(part_of(tensor, target).to_local())
        else:
            target.copy_(tensor)


def fill(model: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Give a divided model every weight and buffer.

    Raises:
        ModelError: one is missing.
    """
    targets = dict((*model.named_parameters(), *model.named_buffers()))
    for name, tensor in tensors:
        copy_part(tensor, targets.pop(name))
    if targets:
        raise ModelError(f"parallel: the weight {next(iter(targets))} was not read")


def without_weights(model: nn.Module) -> nn.Module:
    """Copy a model but for its weights: they are on the meta device, and take no memory."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, memo)


def model_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the stored weights of a checkpoint, mapped from the disk one after the other."""
    for file in checkpoint_files(folder):
        with safe_open(str(folder / file), framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  it is no mapping
                yield name, stored.get_tensor(name)


def adapter_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the stored weights of an adapter."""
    yield from load_peft_weights(str(folder), device="cpu").items()
