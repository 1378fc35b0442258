"""`trainer.use_liger_kernel`: Liger's Triton kernels in place of a model's norms, rotary embedding and MLPs.

Hsu et al. 2024 (Liger Kernel, arXiv:2410.10989). Each kernel does in one pass over memory what several operations of
torch do. They work token by token, and the rotary embedding takes each token's own position: packed rows with a shared
prefix stay what they are. Its losses are for logits over a vocabulary, which a reward model has not.

Liger passes over models and arguments that it does not know, after a line in its log. Here they are refused before
anything is loaded; afterwards the modules are looked at, and the states and gradients of a few tokens are compared with
those of the model's own code.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import nn

from rmx.engine.applicability import GRADIENT_TOLERANCE, TOLERANCE, evaluating
from rmx.errors import ConfigError, ModelError, first_line
from rmx.models.head import text_backbone

__all__ = ["KERNELS", "fuse", "require_fusable"]

KEY = "trainer.use_liger_kernel"
CONFIG = "trainer.liger_kernel_config"
DEVICES = ("cuda", "xpu")  # that Triton compiles for

# Name of an argument of Liger → what the names of its modules contain; the rotary embedding is a function.
KERNELS = {"rope": "", "rms_norm": "RMSNorm", "layer_norm": "LayerNorm", "swiglu": "SwiGLU", "geglu": "GEGLU"}
LOSSES = ("cross_entropy", "fused_linear_cross_entropy")
APPLY = "apply_liger_kernel_to_"

_plain: dict[tuple[str, str], Callable[..., Any]] = {}  # (module, name) → transformers' own function


def require_fusable(config: Mapping[str, bool] | None, device: torch.device, model_type: str | None) -> None:
    """Refuse what Liger could not do, before a model is loaded.

    Args:
        config: `trainer.liger_kernel_config`.
        device: where the model will be.
        model_type: of its text part, such as llama; None where it is not known yet.

    Raises:
        ConfigError: there is no such device, package, model type or kernel.
    """
    missing = [name for name in ("liger_kernel", "triton") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{KEY}: needs the package {missing[0]}; pip install 'rmx[liger]', or leave it out")
    if device.type not in DEVICES:
        raise ConfigError(
            f"{KEY}: its kernels (rmx[liger]) run on a CUDA or XPU device, and this run's device is {device.type}; "
            "leave it out, or use trainer.torch_compile=true"
        )
    if model_type is not None:
        _chosen(_function(model_type), config, model_type)


def fuse(model: nn.Module, config: Mapping[str, bool] | None = None) -> str:
    """Replace what Liger has kernels for, in place, and prove that the model computes the same.

    Args:
        model: a `<Arch>ForSequenceClassification`, or a PEFT model around one.
        config: `trainer.liger_kernel_config`: kernels to leave out, as in {"rope": False}.

    Returns:
        What was replaced, in words: "9 LigerRMSNorm, 4 LigerSwiGLUMLP, rotary embedding".

    Raises:
        ConfigError: Liger does not know the model or a kernel.
        ModelError: a kernel was not put in place, or gives other numbers.
    """
    backbone = text_backbone(model)
    model_type = str(backbone.config.model_type)  # type: ignore[union-attr]
    apply = _function(model_type)
    chosen = _chosen(apply, config, model_type)
    probed = next(backbone.parameters()).device.type in DEVICES  # not while the weights wait for their division
    before = _states_and_gradient(backbone) if probed else None
    home = sys.modules[type(backbone).__module__]
    names = dict(vars(home))
    others = dict.fromkeys(set(inspect.signature(apply).parameters) - {"model", "kwargs", *chosen}, False)
    try:
        apply(model=backbone, **chosen, **others)
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{KEY}: Liger cannot change this {type(backbone).__name__}: {first_line(error)}") from error
    rotary = _keep_to(home, names, next(backbone.parameters()).device if probed else None)
    found = _replaced(backbone)
    for name, on in chosen.items():
        there = _reads(backbone, home, rotary) if name == "rope" else any(KERNELS[name] in kind for kind in found)
        if on and not there:
            raise ModelError(f"{KEY}: {name} of {model_type} was not replaced; give {CONFIG}={{{name}: false}}")
    if before is not None:
        _require_same(before, _states_and_gradient(backbone), next(backbone.parameters()).dtype)
    words = [f"{count} {kind}" for kind, count in sorted(found.items())]
    return ", ".join([*words, *(["rotary embedding"] if chosen.get("rope") else [])])


# --- What is asked for ------------------------------------------------------------------------------------------------


def _function(model_type: str) -> Callable[..., None]:
    """Liger's public function for a type of model.

    Raises:
        ConfigError: there is none with a kernel for rewards.
    """
    import liger_kernel.transformers as liger

    functions = {n.removeprefix(APPLY): getattr(liger, n) for n in liger.__all__ if n.startswith(APPLY)}
    known = {name: f for name, f in functions.items() if set(KERNELS) & set(inspect.signature(f).parameters)}
    if model_type not in known:
        raise ConfigError(
            f"{KEY}: Liger has no kernels for {model_type} models; it knows {', '.join(sorted(known))}; leave it out"
        )
    return known[model_type]


def _chosen(apply: Callable[..., None], config: Mapping[str, bool] | None, model_type: str) -> dict[str, bool]:
    """Which kernels are to be put in place.

    Raises:
        ConfigError: a key is not one of them, or all are off.
    """
    asked = dict(config or {})
    known = [name for name in inspect.signature(apply).parameters if name in KERNELS]
    for name, value in asked.items():
        if name in LOSSES and value:
            raise ConfigError(f"{CONFIG}.{name}: is a loss of language models; a reward model has none, leave it out")
        if name not in (*known, *LOSSES):
            raise ConfigError(f"{CONFIG}.{name}: {model_type} has no such kernel; it has {', '.join(known)}")
        if not isinstance(value, bool):
            raise ConfigError(f"{CONFIG}.{name}: {value!r} is not true or false")
    chosen = {name: asked.get(name, True) for name in known}
    if not any(chosen.values()):
        raise ConfigError(f"{CONFIG}: leaves every kernel out; set {KEY}=false")
    return chosen


# --- What was done ----------------------------------------------------------------------------------------------------


def _keep_to(home: ModuleType, names: Mapping[str, Any], device: torch.device | None) -> list[str]:
    """Give a file of transformers its classes back, so that models to come are built of them; return what stays.

    Attention looks the rotary embedding up in its file. That one stays replaced, for this device: a model on another
    one, where a saved model may be checked, keeps its own.
    """
    rotary = []
    for name, former in names.items():
        new = vars(home)[name]
        if new is former:
            continue
        setattr(home, name, former)
        if inspect.isfunction(new):
            rotary.append(name)
            plain = _plain.setdefault((home.__name__, name), former)
            setattr(home, name, _on(DEVICES if device is None else (device.type,), new, plain))
    return rotary


def _on(devices: tuple[str, ...], fused: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function that goes by the device of its first argument."""

    @functools.wraps(plain)
    def rotary(queries: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return (fused if queries.device.type in devices else plain)(queries, *args, **kwargs)

    return rotary


def _replaced(backbone: nn.Module) -> Counter[str]:
    """How many modules run which of Liger's classes."""
    found: Counter[str] = Counter()
    for module in backbone.modules():
        own = vars(module).get("forward")
        forward = type(module).forward if own is None else getattr(own, "__func__", own)
        if forward.__module__.startswith("liger_kernel."):
            found[forward.__qualname__.split(".")[0]] += 1
    return found


def _reads(backbone: nn.Module, home: ModuleType, names: list[str]) -> bool:
    """Whether a layer looks one of these functions up in this file."""
    codes = [inspect.unwrap(type(module).forward) for module in backbone.modules()]
    return any(code.__globals__ is vars(home) and set(names) & set(code.__code__.co_names) for code in codes)


# --- That it is the same ----------------------------------------------------------------------------------------------


def _states_and_gradient(backbone: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """States [2, 12, H] of fixed random tokens, and the gradient of one projection of them at the embedded tokens."""
    generator = torch.Generator().manual_seed(0)  # its own: the caller's random state stays as it is
    device = next(backbone.parameters()).device
    ids = torch.randint(backbone.config.vocab_size, (2, 12), generator=generator).to(device)
    with evaluating(backbone), torch.inference_mode(False), torch.enable_grad():
        embedded = backbone.get_input_embeddings()(ids).detach().requires_grad_()
        states = backbone(inputs_embeds=embedded, use_cache=False).last_hidden_state
        weights = torch.randn(states.shape, generator=generator).to(states)
        (gradient,) = torch.autograd.grad((states * weights).sum(), embedded)
    return states.detach().float(), gradient.float()


def _require_same(before: tuple[torch.Tensor, ...], after: tuple[torch.Tensor, ...], dtype: torch.dtype) -> None:
    """Compare, relative to the largest entry.

    Raises:
        ModelError: they differ by more than rounding does.
    """
    for what, old, new, limit in zip(
        ("states", "gradients"), before, after, (TOLERANCE[dtype], GRADIENT_TOLERANCE[dtype]), strict=True
    ):
        off = ((new - old).abs().max() / old.abs().max()).item()
        if not off <= limit:
            raise ModelError(
                f"{KEY}: its kernels change the {what} of a probe by {off:.0e} (allowed: {limit:.0e}); leave it out, "
                f"or find the one at fault with {CONFIG}={{rope: false}}"
            )
