"""The files of conf/ as text: what each is for, what it sets, and what its comments say of the keys."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rmx.config.shipped import conf_folder

__all__ = ["OptionFile", "comments_of", "read_option"]

_LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?: +(?P<value>.*?))?(?: +# (?P<comment>.*))?$")


@dataclass(frozen=True)
class OptionFile:
    """One file of a group, with those that it builds on.

    Attributes:
        group, name: `peft` and `lora` for conf/peft/lora.yaml; the group of a sweeper is `hydra/sweeper`.
        command: a command line that uses it.
        about: what its head says.
        target: the `_target_` that it calls, its own or that of the file it builds on; None without one.
        own: the keys and values that this very file sets.
        values: those and the ones of the files it builds on.
        comments: dotted key → comment, of all these files.
        needs: (group, option) pairs that it chooses in other groups.
    """

    group: str
    name: str
    command: str
    about: str
    target: str | None
    own: dict[str, Any]
    values: dict[str, Any]
    comments: dict[str, str]
    needs: tuple[tuple[str, str], ...]


@functools.cache
def read_option(group: str, name: str) -> OptionFile:
    """Read a file of the shipped conf/.

    >>> option = read_option("peft", "rslora")
    >>> option.own["r"], option.values["dropout"], option.needs
    (64, 0.0, (('trainer', 'lora'),))
    """
    text = (conf_folder() / group / f"{name}.yaml").read_text(encoding="utf-8")
    content = dict(yaml.safe_load(text) or {})
    parents, needs = _defaults(content.pop("defaults", []))
    below = [read_option(group, parent) for parent in parents]
    own = dict(content)
    target = own.pop("_target_", None) or next((option.target for option in below if option.target), None)
    for directive in ("_partial_", "_convert_"):
        own.pop(directive, None)
    command, about = _head(text)
    return OptionFile(
        group=group,
        name=name,
        command=command,
        about=about,
        target=target,
        own=own,
        values={key: value for option in below for key, value in option.values.items()} | own,
        comments={key: comment for option in below for key, comment in option.comments.items()} | comments_of(text),
        needs=tuple(dict.fromkeys([*(need for option in below for need in option.needs), *needs])),
    )


def comments_of(text: str) -> dict[str, str]:
    """Return dotted key → the comment at the end of its line.

    >>> comments_of("seed: 1 # of all\\nhydra:\\n  job:\\n    chdir: false # stay\\nname: x\\n")
    {'seed': 'of all', 'hydra.job.chdir': 'stay'}
    """
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        if not (match := _LINE.match(line)):
            continue
        indent = len(match["indent"])
        path = [*(step for step in path if step[0] < indent), (indent, match["key"])]
        if match["comment"]:
            found[".".join(key for _, key in path)] = match["comment"]
    return found


def _defaults(entries: list[Any]) -> tuple[list[str], list[tuple[str, str]]]:
    """The files of its own group that a file builds on, and the options that it chooses in others."""
    parents = [entry for entry in entries if isinstance(entry, str) and entry != "_self_"]
    needs = []
    for entry in entries:
        if isinstance(entry, dict):
            ((key, value),) = entry.items()
            group = key.removeprefix("override ").partition("@")[0].strip("/ ")
            needs.append((group, f"[{','.join(value)}]" if isinstance(value, list) else str(value)))
    return parents, needs


def _head(text: str) -> tuple[str, str]:
    """The command in the first comment of a file, and the sentences that follow it."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.removeprefix("#").strip())
    command, remark = re.match(r"^(.*?)(?:  +(.*))?$", lines[0]).groups() if lines else ("", "")  # type: ignore[union-attr]
    about = " ".join(line for line in lines[1:] if line)
    return command, f"{about} ({remark})" if about and remark else about or remark or ""


def options(group: str) -> list[str]:
    """Return the names of the shipped options of a group."""
    return sorted(Path(path).stem for path in (conf_folder() / group).glob("*.yaml"))
