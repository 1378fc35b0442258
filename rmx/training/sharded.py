"""Several processes that hold a part of every weight each: torch's `fully_shard` on a mesh, and tensor parallelism.

mesh (replicate, shard, tensor)          the rows of a step are dealt to the replicate x shard groups
forward, backward                        a layer's weights are gathered while it runs; gradients are averaged
                                         into the parts, micro-batch by micro-batch
the optimizer                            moves the part that its process holds
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainingArguments

from rmx.checkpoints.shards import has_shards, load_sharded_state
from rmx.checkpoints.tensors import load_state
from rmx.errors import CheckpointError, ModelError
from rmx.files import readable_bytes
from rmx.models.layers import layers_of
from rmx.models.quantization import is_packed, pack, scales_of
from rmx.models.unread import Unread, stored_tensors
from rmx.parallel import MeshSizes
from rmx.training.compiled import compile_layers
from rmx.training.divided import DividedWeights, check_arguments, stored_weights, without_weights
from rmx.training.memory_use import bytes_of
from rmx.training.tensor_parallel import divide_layers
from rmx.training.weights import kept_weights

__all__ = ["ShardedWeights", "part_of", "whole"]

T = TypeVar("T")

log = logging.getLogger(__name__)

# Element by element, so that a part of the weights is enough.
OPTIMIZERS = (
    *("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop"),
    *("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"),
)


class ShardedWeights(DividedWeights):
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
        self.sizes, self.cpu_offload = sizes, cpu_offload
        self.words = " x ".join(f"{name}={size}" for name, size in sizes._asdict().items())
        self.mesh: DeviceMesh = init_device_mesh(
            args.device.type, tuple(sizes), mesh_dim_names=("replicate", "shard", "tensor")
        )
        self.data_mesh = self.mesh["replicate", "shard"] if sizes.replicate > 1 else self.mesh["shard"]
        self.rank = self.mesh.get_local_rank("replicate") * sizes.shard + self.mesh.get_local_rank("shard")
        self.ranks = sizes.data
        self.one_of_each = [sizes.tensor * rank for rank in range(self.ranks)]  # a process of each data rank
        check_arguments(args, OPTIMIZERS)

    # --- The model and its gradients ----------------------------------------------------------------------------------

    divided = True

    def place(self, model: nn.Module, trial: Callable[[nn.Module], None]) -> nn.Module:
        """Return the model, which was divided when it was loaded.

        Raises:
            ModelError: it was not.
        """
        if self.skeleton is None:
            raise ModelError("parallel: the model was not divided among the processes before training")
        compile_layers(model, self.args)
        return model

    def divide(self, model: nn.Module, unread: Mapping[str, Unread]) -> None:
        """Divide the weights in place: a unit per layer, and one for the rest; then read what is still in its files.

        Raises:
            ModelError: a weight is not divided although it should be.
        """
        self.skeleton = without_weights(model)
        self.divide_again(model, unread)

    divides_again = True

    def divide_again(self, model: nn.Module, unread: Mapping[str, Unread]) -> None:
        """Divide the weights in place, and leave alone what is known of the trained model."""
        if not unread and not self.cpu_offload:
            self.to_device(model)
        here = {
            name: tensor.detach().clone()
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
            if unread and not tensor.is_meta
        }
        self._divide(model)
        if unread:
            model.to_empty(device="cpu" if self.cpu_offload else self.args.device)
            fill(model, itertools.chain(here.items(), packing(model, stored_tensors(unread), self.args.device)))
        if scales := bytes_of(scales_of(model)):
            log.info(
                "parallel: the 4-bit weights are divided; each process holds their scales whole, %s",
                readable_bytes(scales),
            )

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

    def joined(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """See `OneProcess.joined`."""
        self.tune(optimizer)
        return module, optimizer

    def tune(self, optimizer: torch.optim.Optimizer) -> None:
        """Step through the weights one by one where they lie on several meshes: torch fuses those of one mesh only."""
        for group in optimizer.param_groups if self.sizes.tensor > 1 else ():
            group |= dict.fromkeys({"foreach", "fused"} & set(group), False)

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
        everyone = self.of_all(value)
        return [everyone[process] for process in self.one_of_each]

    # --- State --------------------------------------------------------------------------------------------------------

    def lendable(self, model: nn.Module) -> Mapping[str, Tensor]:
        """See `DividedWeights.lendable`."""
        reshard(model)
        return model.state_dict()

    def whole(self, tensor: Tensor) -> Tensor:
        """See `OneProcess.whole`."""
        return whole(tensor.detach())

    def divided_state(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `DividedWeights.divided_state`: torch knows its parts."""
        reshard(model)
        return kept_weights(model), optimizer.state_dict()

    def load_model(self, model: nn.Module, folder: Path) -> None:
        """Give each process its part of what is stored, tensor by tensor.

        Raises:
            CheckpointError: the files are those of another model.
        """
        if has_shards(folder):
            super().load_model(model, folder)
            return
        targets, read = kept_weights(model), set()
        for name, tensor in stored_weights(model, folder):
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


def reshard(model: nn.Module) -> None:
    """Give back the whole weights that the last forward pass has left in memory."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return a divided tensor as a whole one; collective."""
    if not isinstance(tensor, DTensor):
        return tensor
    parts: Any = tensor.to(tensor.device_mesh.device_type)  # some wait in the host's memory
    return parts.full_tensor()


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


def packing(
    model: nn.Module, tensors: Iterable[tuple[str, Tensor]], device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Quantise what the model holds in 4 bits: one weight after the other, and each of them whole."""
    for name, tensor in tensors:
        layer = model.get_submodule(name.rpartition(".")[0])
        yield name, pack(layer, tensor, device) if is_packed(model.get_parameter(name)) else tensor
