"""Every key of another trainer's interface, as data: what it becomes in rmx, or why it becomes nothing.

A table is a YAML file of this folder. An entry holds

    to        the key of rmx that takes the value; with `values`, theirs -> ours (null: it is so in rmx anyway)
    default   what the other program does without the key; where it differs from rmx, the command says it
    rule      the function that decides, where several keys mean something together; `means` is its summary
    differs   what is not quite the same in rmx
    none      why there is no counterpart, and what to use
    idle      why nothing has to be carried over

Several keys with one entry are written with commas between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from rmx.training.keys import ACTS, ELSEWHERE, NOT_HERE

__all__ = ["PEERS", "UNSAID", "Entry", "PeerTable", "peer_table"]

PEERS = ("llamafactory", "trl", "openrlhf")
UNSAID = object()  # the default of a key of which nothing needs to be said when it is not given


@dataclass(frozen=True)
class Entry:
    """What is known of one key of another program."""

    name: str
    section: str
    to: str | None = None
    default: Any = UNSAID
    values: dict[str, Any] | None = None
    otherwise: str | None = None
    rule: str | None = None
    means: str | None = None
    differs: str | None = None
    none: str | None = None
    idle: str | None = None


@dataclass(frozen=True)
class PeerTable:
    """One program: its name, version and keys."""

    name: str
    title: str
    version: str
    source: str = ""
    start: str = ""
    notes: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)


@lru_cache
def peer_table(name: str) -> PeerTable:
    """Read the table of one program.

    >>> peer_table("trl").entries["max_length"].means
    'data.max_tokens with data.truncation=drop'
    >>> peer_table("openrlhf").aliases["pretrain"]
    'model.model_name_or_path'
    """
    content = _content(name)
    shared = content.get("shared")
    entries = (_entries(_content(shared)["sections"]) | _forwarded()) if shared else {}
    if shared:
        entries |= _entries(_content(shared)["sections"])
    # The program's own sections come first in pages, and what it says of a shared key holds.
    own = _entries(content["sections"])
    entries = own | {key: entry for key, entry in entries.items() if key not in own}
    known = {key: content[key] for key in ("title", "version", "source", "start", "notes", "aliases") if key in content}
    return PeerTable(name=name, entries=entries, **known)


def _content(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def _entries(sections: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Entry]:
    return {
        key.strip(): Entry(name=key.strip(), section=section, **entry)
        for section, keys in sections.items()
        for names, entry in keys.items()
        for key in names.split(",")
    }


def _forwarded() -> dict[str, Entry]:
    """The arguments of transformers, as rmx itself takes or refuses them."""
    section = "TrainingArguments"
    acting = {name: Entry(name, section, to=f"trainer.{name}") for name in ACTS}
    refused = {name: Entry(name, section, default=value, none=why) for name, (value, why) in NOT_HERE.items()}
    elsewhere = {name: Entry(name, section, none=f"add {place}") for name, place in ELSEWHERE.items()}
    return acting | refused | elsewhere
