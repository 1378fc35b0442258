"""Several processes that share the optimizer's state, the gradients and maybe the weights: DeepSpeed's ZeRO 2 and 3.

    the engine (deepspeed.initialize)        forward and backward; averages gradients into the part of each process,
                                             micro-batch by micro-batch
    clip                                     the norm of the whole gradient, before anything moves
    the optimizer                            rmx's own, on the parts, in float32; DeepSpeed calls it

Learning rate, clipping, precision (autocast) and the length of a step are rmx's, as in every strategy: DeepSpeed is
told of no schedule, no loss scale and no number of micro-batches.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, zeros
from transformers import TrainingArguments

from rmx.checkpoints.shards import has_shards, load_sharded_state
from rmx.checkpoints.tensors import load_state
from rmx.errors import CheckpointError, ConfigError, ModelError
from rmx.models.layers import layers_of
from rmx.models.unread import Unread, stored_tensors
from rmx.training.divided import DividedWeights, check_arguments, stored_weights, without_weights
from rmx.training.memory_use import bytes_of, whole_shape
from rmx.training.strategies import routes_by_module
from rmx.training.weights import kept_weights, load_parts
from rmx.training.zero_memory import bucket_numbers

__all__ = ["PartOptimizer", "ZeroPartitions"]

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")  # DeepSpeed replaces Adagrad by one of its making

log = logging.getLogger(__name__)


class PartOptimizer(torch.optim.Optimizer):
    """What loop and schedule see: the groups of an optimizer whose parameters DeepSpeed has replaced by flat parts.

    The groups are the optimizer's own, so that a learning rate set here is the one it uses; those without parameters
    stay, though DeepSpeed drops them.

    Args:
        inner: the optimizer over the parameters of the model, before DeepSpeed gets it.
    """

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.parameters: list[nn.Parameter] = [p for group in inner.param_groups for p in group["params"]]
        self.counts = [len(group["params"]) for group in inner.param_groups]
        super().__init__(inner.param_groups, inner.defaults)
        self.inner, self.state = inner, inner.state
        self.engine: Any = None

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Clip, move the parts, and send them to who needs them."""
        self.engine.step()

    def make_state(self) -> None:
        """Make the state of all parts, of zeros: in the first step DeepSpeed 0.19.8 learns only of what is there."""
        parts = [p for group in self.inner.param_groups for p in group["params"]]
        for part in parts:
            part.grad = torch.zeros_like(part)
        with self.standing():
            self.inner.step()
        for part in parts:
            part.grad = None
            for value in self.state[part].values():
                if isinstance(value, Tensor):
                    value.zero_()

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """A block in which steps have length 0."""
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = 0.0
        try:
            yield
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate

    def element_names(self) -> list[str]:
        """Return the names of the state that has a number per weight: exp_avg, momentum_buffer."""
        return [
            name
            for part, values in list(self.state.items())[:1]
            for name, value in values.items()
            if isinstance(value, Tensor) and value.shape == part.shape
        ]

    def numbered_groups(self) -> list[dict[str, Any]]:
        """Return the groups as a state dict has them: the numbers of their parameters, in the order of all."""
        groups, first = [], 0
        for group, count in zip(self.param_groups, self.counts, strict=True):
            groups.append(dict(group) | {"params": list(range(first, first + count))})
            first += count
        return groups

    def refuse_other(self, stored: dict[str, Any]) -> None:
        """Refuse a state that is not this kind's.

        Raises:
            ValueError: its groups or settings are others.
        """
        mine, theirs = self.numbered_groups(), stored["param_groups"]
        if [group["params"] for group in mine] != [group["params"] for group in theirs]:
            raise ValueError("its parameter groups are others")
        for one, other in zip(mine, theirs, strict=True):
            if unlike := (set(one) ^ set(other)) - {"initial_lr"}:  # the schedule sets it
                raise ValueError(f"{min(unlike)} is a setting of one of them only")

    def other_state(self) -> dict[str, Any]:
        """Return the state that is the same for all weights: the number of steps."""
        names = self.element_names()
        for values in self.state.values():
            return {name: value for name, value in values.items() if name not in names}
        return {}


class ZeroPartitions(DividedWeights):
    """Optimizer state and gradients divided among processes; at stage 3 the weights too (Rajbhandari et al. 2020).

    Args:
        args: the arguments of transformers.
        stage: 2 or 3.

    Raises:
        ConfigError: the optimizer needs whole weights, or a key of DistributedDataParallel is set.
    """

    def __init__(self, args: TrainingArguments, stage: int) -> None:
        super().__init__(args)
        if args.torch_compile:
            raise ConfigError(
                "trainer.torch_compile: is not combined with DeepSpeed; take parallel=fsdp, or leave it out"
            )
        check_arguments(args, OPTIMIZERS)
        self.stage = stage
        self.words = f"zero{stage} over {self.ranks}"
        self.mesh: DeviceMesh = init_device_mesh(args.device.type, (self.ranks,))
        self.engine: Any = None
        self.trains = False  # whether the engine has an optimizer
        self.gradient_bytes = 0
        os.environ["DS_ACCELERATOR"] = args.device.type  # else it takes any GPU that it sees

    # --- The model and its gradients ----------------------------------------------------------------------------------

    @property
    def divided(self) -> bool:  # type: ignore[override]
        """Whether the weights are."""
        return self.stage == 3

    def divide(self, model: nn.Module, unread: Mapping[str, Unread]) -> None:
        """Divide the weights, layer by layer; those that are still in their files are read layer by layer as well.

        Raises:
            ModelError: a weight cannot be divided.
        """
        refuse_model(model)
        self.skeleton = without_weights(model)
        self.engine = self.partitioned(model, unread)  # to score, and to probe

    @property
    def divides_again(self) -> bool:  # type: ignore[override]
        """As `divided`."""
        return self.divided

    def divide_again(self, model: nn.Module, unread: Mapping[str, Unread]) -> None:
        """Divide a model that is only scored."""
        refuse_model(model)
        self.partitioned(model, unread)

    def partitioned(self, model: nn.Module, unread: Mapping[str, Unread]) -> Any:
        """Read and divide a model layer by layer; returns the engine that gathers them as they are called."""
        deepspeed, config = quiet_deepspeed(), self.settings(model)
        for unit in [*layers_of(model), model]:
            read_here(model, unit, unread, self.args.device)
            with contextlib.redirect_stdout(io.StringIO()):
                deepspeed.zero.Init(module=unit, config_dict_or_path=config, mem_efficient_linear=False)
        model.to(self.args.device)  # buffers
        return start_engine(model=model, config=config, dist_init_required=False)

    def place(self, model: nn.Module, trial: Callable[[nn.Module], None]) -> nn.Module:
        """Return the model; `joined` divides the rest, when its optimizer is there."""
        self.trial = trial
        if self.stage == 2:
            refuse_model(model)
            self.to_device(model)
            self.skeleton = without_weights(model)
        return model

    def joined(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Divide what this stage divides.

        Raises:
            ModelError: it did not take effect.
        """
        outer = PartOptimizer(optimizer)
        self.names = {p: name for name, p in module.named_parameters() if p.requires_grad}
        self.reached: set[nn.Parameter] = set()  # trained weights that got a gradient in this step
        for parameter in self.names:
            parameter.register_post_accumulate_grad_hook(self.reached.add)
        if self.engine is not None:
            stop_engine(self.engine)
        self.engine = outer.engine = start_engine(
            model=module, optimizer=optimizer, config=self.settings(module), dist_init_required=False
        )
        self.trains = True
        if self.stage == 2:
            outer.make_state()
        self.refuse_whole(module, outer)
        return self.engine, outer

    def settings(self, model: nn.Module) -> dict[str, Any]:
        """Return DeepSpeed's config: what divides, and nothing that rmx does itself."""
        numbers = bucket_numbers(model)
        return {
            "train_micro_batch_size_per_gpu": 1,  # for its own statistics
            "gradient_accumulation_steps": 1,  # rmx says at each micro-batch whether it is the last
            "gradient_clipping": self.args.max_grad_norm,
            "zero_allow_untested_optimizer": True,  # torch's, which move every element by itself
            "zero_optimization": {
                "stage": self.stage,
                "reduce_bucket_size": numbers,
                "allgather_bucket_size": numbers,
                "stage3_prefetch_bucket_size": 0,  # what is fetched for a layer that does not come stays on its way
                "stage3_max_live_parameters": 2 * numbers,
                "stage3_max_reuse_distance": 0,  # a layer is divided again at once, whatever room there is
                "stage3_param_persistence_threshold": 0,  # small weights are divided as well
                "memory_efficient_linear": False,  # it would replace torch's function in the whole process
            },
        }

    def refuse_whole(self, model: nn.Module, optimizer: PartOptimizer) -> None:
        """Stop where the division did not take effect.

        Raises:
            ModelError: this process holds more than its part.
        """
        held = sum(p.numel() for p in self.masters(optimizer))
        share = sum(whole_shape(p).numel() for p in optimizer.parameters) / self.ranks
        slack = 1024 * self.ranks * (len(optimizer.parameters) + len(optimizer.param_groups))  # padding
        whole = [name for name, p in model.named_parameters() if self.stage == 3 and p.numel()]
        if held > share + slack or whole:
            what = f"the weight {whole[0]} is" if whole else "the optimizer's weights are"
            raise ModelError(f"parallel=zero{self.stage}: {what} not divided among {self.ranks} processes")

    def masters(self, optimizer: PartOptimizer) -> list[Tensor]:
        """Return this process's float32 parts of the trained weights, which the optimizer moves."""
        if self.stage == 2:
            return [p for group in optimizer.inner.param_groups for p in group["params"]]
        from deepspeed.utils import safe_get_local_fp32_param

        return [safe_get_local_fp32_param(p) for p in optimizer.parameters]

    @contextlib.contextmanager
    def local_gradients(self) -> Iterator[None]:
        """Gradients are averaged into the parts at once; the step's are complete after the block's last micro-batch."""
        self.engine.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self.engine.set_gradient_accumulation_boundary(True)

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Return the norm of the whole gradient; the optimizer's step clips by it.

        Raises:
            ModelError: a trained weight got no gradient, in which DeepSpeed would see one of zeros, or a former one.
        """
        if self.largest([int(len(self.reached) < len(self.names))]) == [1]:
            left = [name for p, name in self.names.items() if p not in self.reached]
            raise ModelError(
                f"parallel=zero{self.stage}: {left[0] if left else 'a weight of another process'} got no gradient in "
                "a step, which DeepSpeed takes for one of zeros; take parallel=fsdp or ddp, or freeze it"
            )
        self.reached.clear()
        return self.norm(parameters)

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Return the norm of all parts together; not a number where one of them is not finite."""
        if self.stage == 2:  # a public method, and no documented one (0.19.8): -1 where it is not finite
            parts = [part for group in self.engine.optimizer.averaged_gradients.values() for part in group]
            self.gradient_bytes = bytes_of(parts)
            norm = torch.as_tensor(self.engine.optimizer.scaled_global_norm(), device=self.args.device)
            return torch.where(norm < 0, torch.nan, norm)
        from deepspeed.utils import safe_get_local_grad

        parts = [safe_get_local_grad(p) for p in parameters]
        self.gradient_bytes = bytes_of(parts)
        squares = torch.stack([part.double().square().sum() for part in parts]).sum()
        dist.all_reduce(squares)
        return squares.sqrt()

    def held(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[int]:
        """Weights count with the float32 parts that the optimizer moves; gradients are those of the last step."""
        assert isinstance(optimizer, PartOptimizer)
        here = [getattr(p, "ds_tensor", p) for p in model.parameters()]
        state = [value for values in optimizer.state.values() for value in values.values()]
        return [bytes_of([*here, *self.masters(optimizer)]), self.gradient_bytes, bytes_of(state)]

    # --- State --------------------------------------------------------------------------------------------------------

    def part(self, tensor: Tensor) -> Tensor:
        """Return this process's part of a whole tensor, cut as checkpoints keep it: by its first dimension."""
        return distribute_tensor(tensor, self.mesh, [Shard(0)], src_data_rank=None).clone()

    def empty_part(self, size: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return room for a part of a tensor that is in a checkpoint."""
        return zeros(size, dtype=dtype, device_mesh=self.mesh, placements=[Shard(0)]) if size else torch.zeros(size)

    def lendable(self, model: nn.Module) -> Mapping[str, Tensor]:
        """See `DividedWeights.lendable`."""
        return model.state_dict(keep_vars=True)

    def whole(self, tensor: Tensor) -> Tensor:
        """See `OneProcess.whole`."""
        with gathered(tensor):
            return tensor.detach().clone()

    def divided_state(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Cut everything anew, tensor by tensor: DeepSpeed's flat parts are those of one number of processes."""
        assert isinstance(optimizer, PartOptimizer)
        weights = {}
        for name, tensor in self.kept(model).items():
            with gathered(tensor):
                weights[name] = self.part(tensor.detach()) if tensor.dim() else tensor.detach().clone()
        from deepspeed.utils import safe_get_full_optimizer_state

        names, others = optimizer.element_names(), optimizer.other_state()
        state = {
            index: {name: self.part(safe_get_full_optimizer_state(p, name)) for name in names} | others
            for index, p in enumerate(optimizer.parameters)
        }
        return weights, {"state": state if names or others else {}, "param_groups": optimizer.numbered_groups()}

    def kept(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the weights and buffers that a checkpoint keeps, by their names there."""
        return kept_weights(model, model.state_dict(keep_vars=True))

    def load_model(self, model: nn.Module, folder: Path) -> None:
        """Give the model, divided or not yet, what is stored, tensor by tensor.

        Raises:
            CheckpointError: the files are those of another model.
        """
        targets = self.kept(model)
        if has_shards(folder):
            parts = {name: self.empty_part(whole_shape(p), p.dtype) for name, p in targets.items()}
            load_parts(parts, folder)
            for name, part in parts.items():
                self.put(targets[name], part.full_tensor() if isinstance(part, DTensor) else part)
            return
        missing = set(targets)
        for name, tensor in stored_weights(model, folder):
            if name not in targets:
                raise CheckpointError(f"{folder}: {name} is not a weight of this model; start anew with resume=never")
            self.put(targets[name], tensor)
            missing.discard(name)
        if missing:
            raise CheckpointError(f"{folder}: {min(missing)} is missing; start anew with resume=never")

    def put(self, target: Tensor, value: Tensor) -> None:
        """Set a weight, and the part of it that the optimizer moves."""
        value = value.to(device=self.args.device, dtype=target.dtype)
        with gathered(target, change=True), torch.no_grad():
            target.copy_(value)
        if not self.trains or not target.requires_grad:
            return
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        if self.stage == 2:
            safe_set_full_fp32_param(target, value.float())
        else:
            safe_set_local_fp32_param(target, self.flat_part(value.float()))

    def flat_part(self, value: Tensor) -> Tensor:
        """Return the part of a weight that stage 3 gives to this process: an equal run of its numbers, filled up."""
        size = -(-value.numel() // self.ranks)
        return nn.functional.pad(value.flatten(), (0, size * self.ranks - value.numel()))[self.rank * size :][:size]

    def load_optimizer(self, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
        """Give the optimizer its state of a checkpoint, whoever wrote it.

        Raises:
            ValueError: it is the state of another optimizer.
        """
        assert isinstance(optimizer, PartOptimizer)
        if has_shards(checkpoint):
            stored = load_sharded_state(checkpoint, "optimizer", lambda _, *size: self.empty_part(*size))
        else:
            stored = load_state(checkpoint, "optimizer")
        optimizer.refuse_other(stored)
        self.make_state(optimizer)
        for group, values in zip(optimizer.param_groups, stored["param_groups"], strict=True):
            group.update({name: value for name, value in values.items() if name != "params"})
        for index, parameter in enumerate(optimizer.parameters):
            for name in optimizer.element_names():
                value = stored["state"][index][name]
                self.put_state(parameter, name, value.full_tensor() if isinstance(value, DTensor) else value)
        for values in optimizer.state.values():
            for name in optimizer.other_state():
                value = stored["state"][0][name]
                values[name] = value.to(values[name], copy=True) if isinstance(value, Tensor) else value

    def make_state(self, optimizer: PartOptimizer) -> None:
        """Let the optimizer make its state, and DeepSpeed learn where it is: a step of length 0 does both."""
        with optimizer.standing():
            self.trial(self.engine)
            optimizer.step()
        self.reached.clear()

    def put_state(self, parameter: nn.Parameter, name: str, value: Tensor) -> None:
        """Set this process's part of an optimizer's numbers for one weight."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        value = value.to(self.args.device)
        if self.stage == 2:
            safe_set_full_optimizer_state(parameter, value, name)
        else:
            safe_set_local_optimizer_state(parameter, self.flat_part(value), name)


def quiet_deepspeed() -> Any:
    """Return the package, without what it tells of itself."""
    with contextlib.redirect_stdout(io.StringIO()):
        import deepspeed
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # torch 2.13 has new names for what DeepSpeed 0.19 calls in every step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    return deepspeed


def start_engine(**arguments: Any) -> Any:
    """Call `deepspeed.initialize`, without what it tells of its beginning."""
    deepspeed = quiet_deepspeed()
    with contextlib.redirect_stdout(io.StringIO()):
        return deepspeed.initialize(**arguments)[0]


def stop_engine(engine: Any) -> None:
    """Take everything from the model that an engine has hung on it; its weights stay divided."""
    engine.empty_partition_cache()  # what the last forward pass has left whole
    engine.destroy()
    engine.module_forward_pre_hook.remove()
    engine.module_forward_post_hook.remove()


def refuse_model(model: nn.Module) -> None:
    """Refuse a model that DeepSpeed would train wrongly, or not at all.

    Raises:
        ModelError: its weights have 4 or 8 bits, or its experts are modules of their own.
    """
    if getattr(model, "quantization_method", None) is not None:
        raise ModelError("parallel: DeepSpeed does not divide quantised weights; take parallel=fsdp or ddp")
    if routes_by_module(model):
        raise ModelError(
            "parallel: DeepSpeed needs a gradient for every weight in every process, and an expert to which no token "
            "goes has none; take parallel=fsdp or ddp"
        )


def read_here(model: nn.Module, unit: nn.Module, unread: Mapping[str, Unread], device: torch.device) -> None:
    """Read the weights of a part of the model that are not read yet.

    Raises:
        ModelError: one of its weights is nowhere to be read.
    """
    inside = {id(p) for p in unit.parameters() if p.is_meta}
    here = {name: p for name, p in model.named_parameters() if id(p) in inside}
    for name, tensor in stored_tensors({name: unread[name] for name in here if name in unread}):
        owner, _, attribute = name.rpartition(".")
        whole = tensor.to(device=device, dtype=here[name].dtype)
        setattr(model.get_submodule(owner), attribute, nn.Parameter(whole, here[name].requires_grad))
    left = [name for name, p in model.named_parameters() if id(p) in inside]
    if left:
        raise ModelError(f"parallel: the weight {left[0]} was not read")


def gathered(tensor: Tensor, *, change: bool = False) -> AbstractContextManager[Any]:
    """A block in which a weight is whole; with `change`, what the first process puts there holds for all."""
    return quiet_deepspeed().zero.GatheredParameters([tensor], modifier_rank=0 if change else None)
