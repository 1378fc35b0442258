"""The walk over a composed configuration: every node bound to the signature of its target, then called."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rmx.config.signatures import Signature, read_signature
from rmx.config.targets import import_target, is_user_target, refusal
from rmx.errors import ConfigError, did_you_mean, first_line
from rmx.values import Mistake, is_scalar, mismatches, shown

__all__ = ["both_given", "build", "mistakes_in", "mistakes_in_node", "mistakes_of", "plain"]

ROOT = "rmx.workflow.Workflow"
_DIRECTIVES = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
_DEEPEST = 40  # levels of nesting; a configuration that contains itself goes on for ever
_UNREADABLE = object()  # stands for a value that has a mistake already

SHORT_NAMES = {  # what people say for keys of the trainer, which are named as in transformers
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "max_epochs": "num_train_epochs",
    "steps": "max_steps",
    "bs": "per_device_train_batch_size",
    "batch_size": "comparisons_per_step",
    "train_batch_size": "comparisons_per_step",
    "micro_batch_size": "max_tokens_per_micro_batch",
    "micro_train_batch_size": "max_tokens_per_micro_batch",
    "grad_clip": "max_grad_norm",
    "scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "wd": "weight_decay",
    "dtype": "precision",
}


def mistakes_of(cfg: DictConfig, groups: Iterable[str] = ()) -> list[Mistake]:
    """Return every mistake of a composed configuration; `groups` are names that a root key may have meant."""
    values, mistakes = plain(cfg)
    return mistakes + mistakes_in(values, groups)


def mistakes_in(values: Mapping[str, Any], groups: Iterable[str] = ()) -> list[Mistake]:
    """Return every mistake of resolved values; what is built must be what was checked, so resolve once."""
    checker = _Checker(values, tuple(groups))
    if values.get("_target_") != ROOT and not is_user_target(values.get("_target_")):
        checker.add("", f"the root of a configuration must have _target_: {ROOT}, not {values.get('_target_')!r}")
    checker.node(values, "")
    return checker.mistakes


def mistakes_in_node(values: Mapping[str, Any], key: str) -> list[Mistake]:
    """Return the mistakes of one node whose target is known to be allowed, such as hydra.sweeper.

    Values with a reference in them are resolved by Hydra later and not judged here.
    """
    given = {name: value for name, value in values.items() if "${" not in str(value)}
    return _Checker(given, ()).arguments(given, key, read_signature(values["_target_"]))


def both_given(cfg: DictConfig, given: Container[str]) -> list[Mistake]:
    """Return a mistake for each key of a command line that does nothing because of another one there.

    What stands in files is not judged: there, one file may take back what another says.

    Args:
        cfg: a composed configuration without mistakes.
        given: the dotted keys of the command line.
    """
    values = plain(cfg)[0]
    mistakes = []
    if "plan" not in (values.get("phases") or ()):
        idle = [key for key in _plan_keys(values) if key in given]
        mistakes += [Mistake(key, "does nothing without phases=[plan]; leave it out, or give that") for key in idle]
    for key, node in values.items():
        if isinstance(node, Mapping) and "_target_" in node:
            for name, switch in read_signature(node["_target_"]).idle(node):
                if f"{key}.{name}" in given and f"{key}.{switch}" in given:
                    value = shown(switch, node[switch])
                    text = f"does nothing with {key}.{switch}={value}; leave one of them out"
                    mistakes.append(Mistake(f"{key}.{name}", text))
    return mistakes


def _plan_keys(values: Mapping[str, Any]) -> list[str]:
    node = values.get("plan")
    return [f"plan.{name}" for name in node] if isinstance(node, Mapping) else []


def plain(cfg: DictConfig) -> tuple[dict[str, Any], list[Mistake]]:
    """Return the configuration as resolved dicts and lists, and a mistake for each value that has none."""
    mistakes: list[Mistake] = []
    values = _resolved(cfg, "", mistakes, 0)
    return values, mistakes


def build(values: Mapping[str, Any]) -> tuple[Any, list[Mistake]]:
    """Call the targets of a checked configuration, innermost first; return the root object and what the calls refused.

    This is Hydra's `instantiate` with `_convert_: all`, except that a ConfigError of one node does not hide
    those of its siblings.
    """
    mistakes: list[Mistake] = []
    return _built(values, "", mistakes), mistakes


def _resolved(node: Any, key: str, mistakes: list[Mistake], depth: int) -> Any:
    if depth > _DEEPEST:
        mistakes.append(Mistake(key, "the configuration contains itself"))
        return _UNREADABLE
    if isinstance(node, DictConfig):
        return {str(name): _item(node, name, _join(key, str(name)), mistakes, depth) for name in node}
    if isinstance(node, ListConfig):
        return [_item(node, place, f"{key}[{place}]", mistakes, depth) for place in range(len(node))]
    return node


def _item(node: DictConfig | ListConfig, name: Any, key: str, mistakes: list[Mistake], depth: int) -> Any:
    if OmegaConf.is_missing(node, name):
        mistakes.append(Mistake(key, f"must be given: {key}=..."))
        return _UNREADABLE
    try:
        value = node[name]
    except (OmegaConfBaseException, RecursionError) as error:
        reason = first_line(error)
        mistakes.append(Mistake(key, f"cannot be resolved: {reason}"))
        return _UNREADABLE
    return _resolved(value, key, mistakes, depth + 1)


class _Checker:
    """Walks plain values and gathers mistakes."""

    def __init__(self, values: Mapping[str, Any], groups: tuple[str, ...]) -> None:
        self.values = values
        self.groups = groups
        self.mistakes: list[Mistake] = []

    def add(self, key: str, text: str) -> None:
        """Note one mistake."""
        self.mistakes.append(Mistake(key, text))

    @functools.cached_property
    def possible_keys(self) -> dict[str, str]:
        """Last part -> dotted key, for each key that some node of this configuration takes."""
        keys = sorted(_possible_keys(self.values, ""), key=lambda key: (-key.count("."), key))
        return {key.rpartition(".")[2]: key for key in keys}

    def node(self, value: Any, key: str) -> None:
        """Check a value of any kind."""
        if isinstance(value, Mapping):
            if "_target_" in value:
                self.call(value, key)
                return
            for name in _DIRECTIVES & value.keys():
                self.add(_join(key, name), "has no meaning in a node without _target_")
            for name, item in value.items():
                self.node(item, _join(key, name))
        elif isinstance(value, list):
            for place, item in enumerate(value):
                self.node(item, f"{key}[{place}]")

    def call(self, value: Mapping[str, Any], key: str) -> None:
        """Check a node with `_target_`: the target, its directives, its arguments, and the nodes inside."""
        target = value["_target_"]
        reason = refusal(target)
        if reason and key:  # the root's own target is judged above
            self.add(key, reason)
        self.directives(value, key)
        if not reason:
            try:
                found = self.arguments(value, key, signature := read_signature(target))
                if found and signature.of_other_version:
                    found = self.arguments(value, key, read_signature(target, installed=True))
                self.mistakes += found
            except ConfigError as error:
                self.add(key, f"_target_ '{target}': {error}")
        for name, item in value.items():
            if name not in _DIRECTIVES:
                self.node(item, _join(key, name))

    def directives(self, value: Mapping[str, Any], key: str) -> None:
        """Check the keys that steer a call."""
        if "_args_" in value:
            self.add(_join(key, "_args_"), "positional arguments are not allowed; name each argument")
        if not isinstance(value.get("_partial_", False), bool):
            self.add(_join(key, "_partial_"), f"{value['_partial_']!r} is not true or false")
        if value.get("_recursive_", True) is not True:
            self.add(_join(key, "_recursive_"), "must be true or left out")

    def arguments(self, value: Mapping[str, Any], key: str, signature: Signature) -> list[Mistake]:
        """Check names and values against the signature."""
        found = []
        for name, given in value.items():
            place = _join(key, name)
            if name in _DIRECTIVES or given is _UNREADABLE:
                continue
            parameter = signature.parameters.get(name)
            called = given.get("_target_") if isinstance(given, Mapping) else None
            foreign = called is not None and not is_user_target(called)
            if parameter is not None and foreign and parameter.schema and is_scalar(parameter.schema):
                found.append(Mistake(place, f"a call of {called!r} cannot be used here, only text or a number"))
            elif parameter is not None:
                found += mismatches(given, parameter.schema, place)
            elif name in signature.owned:
                found.append(Mistake(place, f"rmx sets this itself; use {signature.owned[name]}"))
            elif not signature.is_open:
                found.append(Mistake(place, self.unknown(key, name, given, signature)))
        if value.get("_partial_") is not True:
            missing = [name for name, taken in signature.parameters.items() if taken.required and name not in value]
            found += [Mistake(_join(key, name), f"must be given: {_join(key, name)}=...") for name in missing]
        return found

    def unknown(self, key: str, name: str, value: Any, signature: Signature) -> str:
        """Say that a node takes no key of this name, and which was meant."""
        if not key and name == "experiment" and isinstance(value, Mapping):
            return (
                "the first line of its file must be: # @package _global_; without it, its keys are not those of the run"
            )
        names = {**dict.fromkeys(signature.parameters), **(dict.fromkeys(self.groups) if not key else {})}
        hint = did_you_mean(name, {other: _join(key, other) for other in names})
        if key in ("", "trainer") and name in SHORT_NAMES:
            hint = f"did you mean trainer.{SHORT_NAMES[name]}?"
        hint = hint or did_you_mean(name, self.possible_keys, 0.8)
        kind = f"there is no such key in {key}" if key else "there is no such group or key"
        text = f"{kind} (value {shown(_join(key, name), value)})"
        if hint:
            return f"{text}; {hint}"
        names.pop("config", None)  # the workflow's own copy of this configuration
        return f"{text}; it takes {', '.join(names)}" if len(names) < 40 else text


def _built(value: Any, key: str, mistakes: list[Mistake]) -> Any:
    if isinstance(value, list):
        return [_built(item, f"{key}[{place}]", mistakes) for place, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    before = len(mistakes)
    arguments = {
        name: _built(item, _join(key, name), mistakes) for name, item in value.items() if name not in _DIRECTIVES
    }
    if "_target_" not in value or len(mistakes) > before:
        return arguments
    try:
        target = import_target(value["_target_"])
        return functools.partial(target, **arguments) if value.get("_partial_") else target(**arguments)
    except ConfigError as error:
        mistakes.extend(Mistake("", line) for line in str(error).splitlines())
        return None


def _possible_keys(value: Any, key: str) -> list[str]:
    if isinstance(value, list):
        return [found for item in value for found in _possible_keys(item, key)]
    if not isinstance(value, Mapping):
        return []
    keys = [found for name, item in value.items() for found in _possible_keys(item, _join(key, name))]
    if "_target_" in value and not refusal(value["_target_"]):
        try:
            keys += [_join(key, name) for name in read_signature(value["_target_"]).parameters]
        except ConfigError:
            return keys
    return keys


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
