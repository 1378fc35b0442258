"""rmx: train, evaluate and use reward models.

    rmx.load("outputs/.../model").score([[{"role": "user", "content": "Hi"}, ...]])      a finished model
    rmx.instantiate(rmx.compose(["model=tiny", "data=synthetic"])).run()                 a run, as the command does
    rmx.Workflow(model=..., data=..., template=..., loss=..., trainer=...).run()         the same without Hydra

Importing rmx imports nothing else; each name below is loaded when it is first used.

>>> import rmx
>>> rmx.__version__
'0.1.0'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmx import errors
    from rmx.config import check, compose, instantiate
    from rmx.scoring.scorer import Scorer, load
    from rmx.workflow import Workflow

__all__ = ["Scorer", "Workflow", "__version__", "check", "compose", "errors", "instantiate", "load"]

__version__ = "0.1.0"

_HOMES = {
    "Scorer": "rmx.scoring.scorer",
    "Workflow": "rmx.workflow",
    "check": "rmx.config",
    "compose": "rmx.config",
    "instantiate": "rmx.config",
    "load": "rmx.scoring.scorer",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("rmx.errors")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rmx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
