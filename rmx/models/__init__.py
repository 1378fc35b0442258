"""Reward models: what to load, the scalar head, adapters, and the artefact that a run leaves.

The specs (`RewardModelSource`, `Adapter`) are light: neither torch nor transformers is imported before a verb
needs them. Everything else is imported when it is first named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rmx.models.adapters import Adapter, check_trainable
from rmx.models.loaded import LoadedModel
from rmx.models.source import RewardModelSource
from rmx.models.tiny import tiny_config, tiny_tokenizer

if TYPE_CHECKING:
    from rmx.models.artefact.card import model_card
    from rmx.models.artefact.card_results import add_results, card_of, is_ours
    from rmx.models.artefact.export import export_merged, export_value_head
    from rmx.models.artefact.int8 import export_int8
    from rmx.models.artefact.openrlhf import export_openrlhf
    from rmx.models.artefact.publish import push
    from rmx.models.artefact.save import Artefact, read_artefact, save_artefact
    from rmx.models.artefact.verify import Verification, verify_artefact
    from rmx.models.head import Head, backbone_of, head_of, unwrap
    from rmx.models.tokenizer import tokenizer_of

_LATER = {
    "Artefact": "artefact.save",
    "Head": "head",
    "Verification": "artefact.verify",
    "add_results": "artefact.card_results",
    "backbone_of": "head",
    "card_of": "artefact.card_results",
    "export_int8": "artefact.int8",
    "export_merged": "artefact.export",
    "export_openrlhf": "artefact.openrlhf",
    "export_value_head": "artefact.export",
    "head_of": "head",
    "is_ours": "artefact.card_results",
    "model_card": "artefact.card",
    "push": "artefact.publish",
    "read_artefact": "artefact.save",
    "save_artefact": "artefact.save",
    "scored_position": "head",
    "scored_position_of": "tokenizer",
    "tokenizer_of": "tokenizer",
    "unwrap": "head",
    "verify_artefact": "artefact.verify",
}

__all__ = [
    "Adapter",
    "Artefact",
    "Head",
    "LoadedModel",
    "RewardModelSource",
    "Verification",
    "add_results",
    "backbone_of",
    "card_of",
    "check_trainable",
    "export_int8",
    "export_merged",
    "export_openrlhf",
    "export_value_head",
    "head_of",
    "is_ours",
    "model_card",
    "push",
    "read_artefact",
    "save_artefact",
    "scored_position",
    "scored_position_of",
    "tiny_config",
    "tiny_tokenizer",
    "tokenizer_of",
    "unwrap",
    "verify_artefact",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"rmx.models.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
