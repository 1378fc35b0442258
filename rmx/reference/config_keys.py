"""Every key of a configuration: what it takes, its default, what it means; and the groups and options around them.

Types and ranges come from the signatures that check a configuration, meanings from their docstrings and from the
comments in conf/; nothing is written twice here.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import yaml

from rmx.cli.page import GROUPS
from rmx.config.library import stored_signature
from rmx.config.shipped import conf_folder
from rmx.config.signatures import Parameter, import_name, read_signature
from rmx.reference.docstrings import arguments_of
from rmx.reference.entries import ReferenceEntry
from rmx.reference.option_files import OptionFile, comments_of, options, read_option
from rmx.training.keys import ACTS, ELSEWHERE, NOT_HERE, SWITCHES, VALUES
from rmx.values import allowed

__all__ = ["group_entries", "key_entries"]

SWEEPER = "hydra/sweeper"
# A class that takes its keys from another, which says more of them and is imported without Hydra.
_DESCRIBED_BY = {"hydra_plugins.rmx_sweeper.sweeper.RmxSweeper": "rmx.sweep.SweepSettings"}
_GIVEN = "must be given"
_SAME = 0.6  # share of a text's words that another has, above which both are taken to say the same
_MOST_OPTIONS = 8  # that a key lists with the value they set; more of them only name a model or a file each


@functools.cache
def key_entries() -> tuple[ReferenceEntry, ...]:
    """Return an entry for every key, those of the root first; a key that options take differently has several."""
    entries = [*_root_keys(), *_hydra_keys()]
    for group in GROUPS:
        if group == "trainer":
            entries += _trainer_keys()
        elif group == "callbacks":
            for option in options(group):
                entries += _callback_keys(option)
        else:
            entries += _group_keys(group, group)
    return (*entries, *_group_keys(SWEEPER, "hydra.sweeper"))


def group_entries() -> list[ReferenceEntry]:
    """Return an entry for every group and for every option of it."""
    entries = []
    chosen = _default_options()
    for group, meaning in GROUPS.items():
        names = options(group)
        facts = [("options", " ".join(names)), ("default", chosen.get(group, "null"))]
        targets = dict.fromkeys(target for name in names if (target := read_option(group, name).target))
        facts.append(("calls", ", ".join(targets)))
        taken = [key.name for key in key_entries() if key.name.startswith(f"{group}.") and key.section != "refused"]
        facts.append(("keys", " ".join(dict.fromkeys(name.partition(".")[2] for name in taken))))
        entries.append(ReferenceEntry("group", group, meaning, tuple(fact for fact in facts if fact[1])))
        entries += [_option_entry(group, name) for name in names]
    return entries


# --- The kinds of keys ------------------------------------------------------------------------------------------------


def _root_keys() -> Iterator[ReferenceEntry]:
    """The keys beside the groups: arguments of the workflow that are no group, and not its copy of the whole."""
    target = "rmx.workflow.Workflow"
    explained, comments = arguments_of(import_name(target)), comments_of(_root_text())
    defaults = _defaults_of(target)
    for name, parameter in read_signature(target).parameters.items():
        if name not in GROUPS and name != "config":
            meaning = _joined(explained.get(name, ""), comments.get(name, ""))
            yield ReferenceEntry("key", name, meaning, _facts(parameter, defaults.get(name, _GIVEN)))


def _hydra_keys() -> Iterator[ReferenceEntry]:
    """What conf/config.yaml says to Hydra itself."""
    comments = comments_of(_root_text())
    for key, value in _leaves(yaml.safe_load(_root_text())["hydra"], "hydra"):
        yield ReferenceEntry("key", key, comments.get(key, ""), (("default", _as_yaml(value)),))


def _group_keys(group: str, prefix: str) -> Iterator[ReferenceEntry]:
    """The keys of each target of a group, with the options that call it."""
    files = [read_option(group, name) for name in options(group)]
    files = [replace(file, target=_DESCRIBED_BY.get(file.target or "", file.target)) for file in files]
    targets = {file.target: [other for other in files if other.target == file.target] for file in files if file.target}
    for target, users in targets.items():
        base = max(users, key=lambda file: len(file.own))  # lists every key; the others build on it
        for entry in _target_keys(target, base, users, prefix):
            yield replace(entry, section=f"{group}={base.name}" if len(targets) > 1 else "")


def _target_keys(target: str, base: OptionFile, users: list[OptionFile], prefix: str) -> Iterator[ReferenceEntry]:
    found = import_name(target)
    explained = arguments_of(found)
    given = {name: _as_yaml(value) for name, value in base.values.items() if value != "???"}
    defaults = given | _defaults_of(target)
    for name, parameter in read_signature(target).parameters.items():
        if _is_runtime(found, name):
            continue
        default = defaults.get(name, _GIVEN)
        meaning = _joined(explained.get(name, ""), base.comments.get(name, ""))
        if name == "extra" and prefix == "peft":
            meaning += f"; names: {', '.join(_lora_names())}"
        yield ReferenceEntry(
            "key", f"{prefix}.{name}", meaning, _facts(parameter, default, _set_by(name, users, default))
        )


def _callback_keys(option: str) -> Iterator[ReferenceEntry]:
    """The keys of a callback: its file holds one node, of the option's name."""
    file = read_option("callbacks", option)
    for name, node in file.own.items():
        target = node["_target_"]
        for key, parameter in read_signature(target).parameters.items():
            default = _as_yaml(node[key]) if key in node else _defaults_of(target).get(key, _GIVEN)
            meaning = file.comments.get(f"{name}.{key}", "")
            yield ReferenceEntry(
                "key", f"callbacks.{name}.{key}", meaning, _facts(parameter, default), f"callbacks=[{option}]"
            )


def _trainer_keys() -> Iterator[ReferenceEntry]:
    """rmx's own knobs, the arguments of TrainingArguments that act, and those that are refused, with the reason."""
    target = "rmx.training.arguments.trainer_settings"
    files = [read_option("trainer", name) for name in options("trainer")]
    shipped = read_option("trainer", "default")
    library = "transformers.training_args.TrainingArguments"
    defaults = _defaults_of(library) | _defaults_of(target)
    defaults |= {name: _as_yaml(value) for name, value in shipped.values.items()}
    explained = {name: text for name, text in arguments_of(import_name(target)).items() if name in defaults}
    for name, parameter in read_signature(target).parameters.items():
        key = f"trainer.{name}"
        if name in NOT_HERE:
            neutral, reason = NOT_HERE[name]
            yield ReferenceEntry(
                "key", key, f"not taken: {reason}", (("takes", f"only {_as_yaml(neutral)}"),), "refused"
            )
            continue
        default = "not given" if name == "bf16" else defaults.get(name, _GIVEN)
        meaning = _joined(explained.get(name) or ACTS.get(name, ""), shipped.comments.get(name, ""))
        facts = [*_facts(parameter, default, _set_by(name, files, default))]
        facts += [("not taken", f"{value}: {why}") for (owner, value), why in VALUES.items() if owner == name]
        if switches := [f"trainer.{switch}" for switch, _, names in SWITCHES if name in names]:
            facts.append(("switched off by some values of", ", ".join(dict.fromkeys(switches))))
        yield ReferenceEntry("key", key, meaning, tuple(facts))
    for name, instead in ELSEWHERE.items():
        yield ReferenceEntry(
            "key", f"trainer.{name}", f"not taken: rmx sets this itself; use {instead}", section="refused"
        )


# --- Groups and options -----------------------------------------------------------------------------------------------


def _option_entry(group: str, name: str) -> ReferenceEntry:
    file = read_option(group, name)
    facts = [("command", file.command), ("calls", file.target or "")]
    defaults = _defaults_of(file.target) if file.target else {}
    leaves = [(key, "must be given" if value == "???" else _as_yaml(value)) for key, value in _leaves(file.own, "")]
    facts.append(("sets", ", ".join(f"{key}={value}" for key, value in leaves if value != defaults.get(key))))
    facts.append(("chooses", ", ".join(f"{other}={option}" for other, option in file.needs)))
    return ReferenceEntry("option", f"{group}={name}", file.about, tuple(fact for fact in facts if fact[1]), group)


def _default_options() -> dict[str, str]:
    entries = yaml.safe_load(_root_text())["defaults"]
    chosen = {key: value for entry in entries if isinstance(entry, dict) for key, value in entry.items()}
    return {group: _as_yaml(value) for group, value in chosen.items() if group in GROUPS}


# --- Parts ------------------------------------------------------------------------------------------------------------


def _root_text() -> str:
    return (conf_folder() / "config.yaml").read_text(encoding="utf-8")


def _facts(parameter: Parameter, default: str, set_by: str = "") -> tuple[tuple[str, str], ...]:
    facts = [("takes", allowed(parameter.schema)), ("default", default), ("set by options", set_by)]
    return tuple(fact for fact in facts if fact[1])


def _defaults_of(target: str) -> dict[str, str]:
    """Argument → default as YAML, for those that have one; of a library class as library.json holds them."""
    if stored := stored_signature(target):
        return {name: _as_yaml(value) for name, value in stored["defaults"].items()}
    found = import_name(target)
    fields = getattr(found, "__dataclass_fields__", {})
    defaults = {}
    for name, parameter in inspect.signature(found).parameters.items():
        made = getattr(fields.get(name), "default_factory", None)
        value = made() if callable(made) else parameter.default
        if value is None or isinstance(value, bool | int | float | str | list | dict):
            defaults[name] = _as_yaml(value)
    return defaults


def _is_runtime(found: Any, name: str) -> bool:
    """Whether an argument of a function is given by the run, not by the configuration: a loss's rewards."""
    parameter = inspect.signature(found).parameters.get(name)
    return inspect.isfunction(found) and parameter is not None and parameter.kind is not parameter.KEYWORD_ONLY


def _set_by(name: str, files: list[OptionFile], default: str) -> str:
    """The options that set a key to something else than its default."""
    values = {file.name: _as_yaml(file.own[name]) for file in files if name in file.own and file.own[name] != "???"}
    other = [f"{option}: {value}" for option, value in values.items() if value != default]
    return ", ".join(other) if len(other) <= _MOST_OPTIONS else ""


def _lora_names() -> list[str]:
    """The arguments of peft.LoraConfig that are not rmx's to decide."""
    from rmx.models.adapters import OWNED

    return [name for name in read_signature("peft.LoraConfig").parameters if name not in OWNED]


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def _as_yaml(value: Any) -> str:
    """Write a value as a configuration file would.

    >>> _as_yaml(None), _as_yaml(True), _as_yaml([1, 2]), _as_yaml("auto"), _as_yaml("")
    ('null', 'true', '[1, 2]', 'auto', "''")
    """
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.strip().removesuffix("...").strip()


def _joined(explanation: str, comment: str) -> str:
    """Both that a docstring and a comment say; only the longer one where that has most words of the other.

    >>> _joined("rank of the update.", "rank of the update; 8 to 64"), _joined("row shape.", "auto looks at the rows")
    ('rank of the update; 8 to 64', 'row shape; auto looks at the rows')
    """
    texts = [re.sub(r"(?<!\.)\.$", "", text.strip()) for text in (explanation, comment) if text]
    if len(texts) == 2:
        short, long = sorted(texts, key=len)
        words = _words(short)
        if len(words & _words(long)) >= _SAME * len(words):
            return long
    return "; ".join(texts)


def _words(text: str) -> set[str]:
    """The words that carry meaning, without their endings."""
    return {word[:4] for word in re.findall(r"[a-z]{3,}|\d+", text.lower())} - {"the", "and", "for", "its", "with"}
