"""`trainer.torch_compile`: every layer of the transformer compiled, once for rows of all lengths.

Layers have the same code, so that a few graphs serve all of them (torch calls it regional compilation), and divided
weights are gathered between the graphs. Attention over packed rows stays outside of them (`rmx.engine.attention`):
how many runs a row has, and how long they are, is another thing each time. What is left depends on the number of
tokens alone, which is a symbol in the graphs.

torch goes on without compiling, after a line in its log, once a function was compiled too often, and where it meets
what it cannot trace. Here the first stops the run when it happens, and the second after the first step.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import nn
from transformers import TrainingArguments

from rmx.errors import ModelError
from rmx.models.layers import layers_of

__all__ = ["compile_layers", "graphs", "named_limit", "require_graphs"]

# Compilations of one function. One is needed for each kind of call: training and evaluation, the last layer and the
# others, layers with a window and without, frozen and trained, ... torch's own limit of 8 is too low for their product.
MOST = 64


def compile_layers(model: nn.Module, args: TrainingArguments) -> None:
    """Compile the layers of a model in place, where `trainer.torch_compile` asks for it.

    Layers that are computed again in the backward pass are compiled piece by piece: torch traces nothing inside of
    `torch.utils.checkpoint`, so that the graphs have to begin there.

    Raises:
        ModelError: the model has no list of layers.
    """
    if not args.torch_compile:
        return
    layers = layers_of(model)
    if not layers:
        raise ModelError("trainer.torch_compile: the model has no list of layers to compile; leave it out")
    torch.compiler.config.recompile_limit = MOST
    torch.compiler.config.fail_on_recompile_limit_hit = True
    # torch looks at what goes into a layer, and warns itself that the states in between keep no gradient.
    warnings.filterwarnings(
        "ignore", message="The .grad attribute of a Tensor that is not a leaf", category=UserWarning
    )
    again = any(getattr(layer, "gradient_checkpointing", False) for layer in layers)
    for layer in layers:
        for part in layer.children() if again else [layer]:
            part.compile(backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode, dynamic=True)


def graphs() -> int:
    """Return how many graphs this process has compiled."""
    from torch._dynamo.utils import counters  # no other name tells (torch 2.13)

    return counters["stats"]["unique_graphs"]


def require_graphs(args: TrainingArguments) -> None:
    """Stop a run that was to be compiled, and was not.

    Raises:
        ModelError: torch has compiled nothing so far.
    """
    if args.torch_compile and not graphs():
        raise ModelError("trainer.torch_compile: torch could compile nothing of this model; leave it out")


@contextlib.contextmanager
def named_limit() -> Iterator[None]:
    """Name the limit on compilations where it stops a run.

    Raises:
        ModelError: a function was compiled too often.
    """
    try:
        yield
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:  # it has no public name (torch 2.13)
        raise ModelError(
            f"trainer.torch_compile: a function of this model was compiled {MOST} times, once for each of too many "
            "kinds of rows; leave it out"
        ) from error
