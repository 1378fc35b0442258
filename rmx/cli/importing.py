"""`rmx import llamafactory|trl|openrlhf ...`: the rmx command that does what a command of another trainer does."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rmx.config import instantiate
from rmx.config.composing import Composer
from rmx.errors import ConfigError, did_you_mean
from rmx.importing.command_words import Given, read_words
from rmx.importing.from_llamafactory import RULES_OF_LLAMAFACTORY
from rmx.importing.from_openrlhf import RULES_OF_OPENRLHF
from rmx.importing.from_trl import RULES_OF_TRL, merged_config, other_script
from rmx.importing.peer_tables import PEERS, peer_table
from rmx.importing.translating import Translation, by_todays_names
from rmx.redact import redact_text
from rmx.values import Mistake, raise_all, shown

__all__ = ["ImportedRun", "imported", "main"]

HELP = """rmx import llamafactory FILE.yaml [key=value ...]
rmx import trl "accelerate launch reward.py --model_name_or_path ..."
rmx import openrlhf "deepspeed --module openrlhf.cli.train_rm --model.model_name_or_path ..."

Prints the rmx command that means the same, and below it, as comments, every key that has no counterpart
and every key whose meaning differs. What the other program does unless told otherwise is said, too, where
rmx would do something else. Every key: docs/coming_from/.
"""
_RULES = {"llamafactory": RULES_OF_LLAMAFACTORY, "trl": RULES_OF_TRL, "openrlhf": RULES_OF_OPENRLHF}
_GROUPS = ("model", "data", "template", "peft", "parallel", "callbacks")
_NEEDED = ("model.path", "data.path", "data.sources", "data.dataset")  # without them nothing composes


class ImportedRun:
    """A command of rmx and what became of the keys that it was made from.

    Args:
        translation: the finished account.
        words: the command's overrides.
        launcher: words of a launcher that were not read.
    """

    def __init__(self, translation: Translation, words: list[str], launcher: dict[str, object]) -> None:
        self.translation, self.words, self.launcher = translation, words, launcher

    def text(self) -> str:
        """The command, and the account as comments of a shell."""
        t = self.translation
        lines = ["rmx " + " \\\n    ".join(map(shlex.quote, self.words))]
        lost = {f"{key}: {t.value_shown(key)}" if key in t.given else key: why for key, why in t.lost.items()}
        of_launcher = "of the launcher, and not read; see parallel.processes and trainer.precision"
        lost |= {f"{key}: {shown(key, value)}": of_launcher for key, value in self.launcher.items()}
        differs = {f"{key}: {t.value_shown(key)}" if key in t.given else key: how for key, how in t.differs.items()}
        lines += _section("Without a counterpart", lost)
        lines += _section("Not quite the same", differs)
        idle = {key: why for key, why in t.idle.items() if key in t.given}
        lines += _section("Nothing to carry over", idle)
        kept = {word.partition("=")[0] for word in self.words}
        assumed = sorted(key for key, said in t.words.items() if not said.given and key in kept)
        if assumed:
            lines += ["#", f"# {t.table.title} {t.table.version} does so unless told otherwise: {', '.join(assumed)}"]
        lines += ["#", f"# What differs whatever the keys: docs/coming_from/{t.table.name}.md"]
        return "\n".join(lines) + "\n"


def imported(program: str, words: Sequence[str]) -> ImportedRun:
    """Translate a file or a command of another program, and check the command that comes of it.

    Raises:
        ConfigError: it cannot be read, trains something else, or its values are none that rmx takes.

    >>> run = imported("trl", ["trl reward --model_name_or_path org/x --dataset_name pairs.jsonl --beta 3"])
    >>> run.words[:3], list(run.translation.lost)
    (['model=hub', 'model.path=org/x', 'data=jsonl'], ['beta'])
    """
    if program not in PEERS:
        hint = did_you_mean(program, PEERS) or f"give one of {', '.join(PEERS)}"
        raise ConfigError(f"rmx import {program}: {hint}")
    table, given = peer_table(program), read_words(words)
    _refuse_other_methods(program, given)
    if program == "trl":
        given.keys = merged_config(given.keys)
    t = Translation(table, by_todays_names(table, given))
    for key in given.repeated:
        t.wrong(key, "is given twice")
    path = next(entry.name for entry in table.entries.values() if entry.to == "model.path" and not entry.values)
    if not t.get(path):
        t.wrong(path, "is needed: the model to start from")
    t.set("model", "hub", by=path)
    t.translate(_RULES[program])
    raise_all(t.mistakes)
    return ImportedRun(t, _checked_words(t), given.launcher)


def _refuse_other_methods(program: str, given: Given) -> None:
    other = other_script(given.script) if program == "trl" else None
    if program == "openrlhf" and "openrlhf.cli." in given.script and not given.script.endswith(".train_rm"):
        other = given.script.rpartition(".")[2]
    if other:
        raise ConfigError(f"{given.script}: trains by {other}; rmx trains reward models alone")


def _checked_words(t: Translation) -> list[str]:
    """The words without defaults that rmx has as well; together they have to make a run."""
    composer = Composer()
    words = t.override_words()
    base, mistakes = composer.checked([word for word in words if word.partition("=")[0] in (*_GROUPS, *_NEEDED)])
    _raise(t, mistakes)

    def is_so_anyway(key: str, value: object) -> bool:
        if key in _GROUPS:
            return value == {"template": "auto", "peft": "none"}.get(key)
        return key not in _NEEDED and _values_at(base, key) == [value]

    words = t.override_words(is_so_anyway)
    cfg, mistakes = composer.checked(words)
    _raise(t, mistakes)
    if cfg is not None:
        instantiate(cfg)
    return words


def _values_at(node: Any, key: str) -> list[Any]:
    """The value of a dotted key; empty where there is none."""
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return []
        node = node[part]
    return [node]


def _raise(t: Translation, mistakes: list[Mistake]) -> None:
    """Say with each mistake which key of the other program it comes from."""
    named = []
    for mistake in mistakes:
        said = t.words.get(mistake.key)
        named.append(Mistake(f"{said.by} ({mistake.key})" if said else mistake.key, mistake.text))
    raise_all(named)


def _section(title: str, lines: dict[str, str]) -> list[str]:
    if not lines:
        return []
    return ["#", f"# {title}:", *(redact_text(f"#   {key}: {text}") for key, text in sorted(lines.items()))]


def main(argv: Sequence[str]) -> int:
    """Print the command; returns the exit code.

    Raises:
        ConfigError: see `imported`.
    """
    if not argv or {"--help", "-h"} & set(argv[:1]):
        sys.stdout.write(HELP)
        return 0 if argv else 2
    if len(argv) == 1:
        raise ConfigError(f"rmx import {argv[0]}: give a file or a command; see rmx import --help")
    sys.stdout.write(imported(argv[0], argv[1:]).text())
    return 0
