"""Reward models: what to load, the scalar head, adapters, and the artefact that a run leaves.

The specs (`RewardModelSource`, `Adapter`) are light: neither torch nor transformers is imported before a verb
needs them. Everything else is imported when it is first named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rmx.models.adapters import Adapter, check_trainable
from rmx.models.spec import LoadedModel, RewardModelSource
from rmx.models.tiny import tiny_config, tiny_tokenizer

if TYPE_CHECKING:
    from rmx.models.head import Head, backbone_of, head_of, unwrap

__all__ = [
    "Adapter",
    "Head",
    "LoadedModel",
    "RewardModelSource",
    "backbone_of",
    "check_trainable",
    "head_of",
    "tiny_config",
    "tiny_tokenizer",
    "unwrap",
]

_LATER = {
    "Head": "rmx.models.head",
    "backbone_of": "rmx.models.head",
    "head_of": "rmx.models.head",
    "unwrap": "rmx.models.head",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
