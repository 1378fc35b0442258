"""Which Python a configuration may call: the allowlist of `_target_`, decided before anything is imported.

A config folder is data that people share, so a `_target_` may only be
    1. one that the shipped conf/ uses itself (rmx.data.PreferenceData, peft.LoraConfig, ...),
    2. a loss of rmx.losses, or one of the names in LIBRARY_TARGETS,
    3. what the person at the keyboard allows: `--allow-target my_pairs.` or RMX_ALLOW_TARGETS, never YAML.
In 3 the name must be *defined* in the allowed module: `my_pairs.os.system` is not `my_pairs.`.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from hydra.core.config_store import ConfigStore

from rmx.config.library import LIBRARY_TARGETS
from rmx.config.shipped import conf_folder
from rmx.config.signatures import import_name
from rmx.errors import ConfigError, did_you_mean

__all__ = ["ALLOW_VARIABLE", "import_target", "is_user_target", "refusal", "unsafe_hydra_nodes", "user_allowed"]

ALLOW_VARIABLE = "RMX_ALLOW_TARGETS"

RMX_SWEEPER = "hydra_plugins.rmx_sweeper.sweeper.RmxSweeper"
_LOGGERS = ("logging.", "colorlog.")
# Parts of the hydra node that Hydra or logging turn into calls and environment variables.
_CALLING = (
    "hydra.callbacks", "hydra.launcher", "hydra.sweeper", "hydra.job_logging", "hydra.hydra_logging",
    "hydra.job.env_set",
)  # fmt: skip
_NOT_DEFINED = " is not defined in the module that you allowed;"
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_TARGET_LINE = re.compile(r"^[\s-]*_target_:\s*([\w.]+)", re.MULTILINE)


@functools.cache
def shipped_targets() -> frozenset[str]:
    """Return every `_target_` that the shipped conf/ names, but those of its hydra/ folder."""
    files = [*conf_folder().glob("*.yaml"), *conf_folder().glob("*/*.yaml")]
    texts = (path.read_text(encoding="utf-8") for path in files)
    return frozenset(name for text in texts for name in _TARGET_LINE.findall(text))


def user_allowed() -> tuple[str, ...]:
    """Return what RMX_ALLOW_TARGETS holds: exact names, and prefixes that end in a dot."""
    entries = (entry.strip() for entry in os.environ.get(ALLOW_VARIABLE, "").split(","))
    return tuple(entry for entry in entries if entry.strip("."))


def refusal(target: Any) -> str:
    """Say why `target` may not be called, or return "" when it may.

    >>> refusal("rmx.losses.bradley_terry")
    ''
    >>> refusal("os.system").partition(";")[0]
    "_target_ 'os.system' is not allowed"
    """
    if not isinstance(target, str) or not _DOTTED.fullmatch(target):
        return f"_target_ {target!r} is not a dotted Python name such as rmx.losses.hinge"
    if target in LIBRARY_TARGETS or target in shipped_targets() or _is_loss(target):
        return ""
    if is_user_target(target):
        try:
            defined = _defined_as(target)
        except ConfigError as error:
            is_there = not isinstance(error.__cause__, ModuleNotFoundError | None)
            return f"_target_ '{target}'{':' if is_there else _NOT_DEFINED} {error}"
        if any(_matches(defined, entry) for entry in user_allowed()):
            return ""
        return f"_target_ '{target}'{_NOT_DEFINED} it leads to {defined}"
    hint = did_you_mean(target, sorted(shipped_targets() | LIBRARY_TARGETS), 0.75)
    hint = hint or "a module of your own needs --allow-target MODULE. on the command"
    return f"_target_ '{target}' is not allowed; {hint}"


def is_user_target(target: Any) -> bool:
    """Tell whether it is the user's own word that names this target."""
    return isinstance(target, str) and any(_matches(target, entry) for entry in user_allowed())


def import_target(target: str) -> Any:
    """Import an allowed target.

    Raises:
        ConfigError: it is not allowed, or there is no such module or name.
    """
    reason = refusal(target)
    if reason:
        raise ConfigError(reason)
    try:
        return import_name(target)
    except ConfigError as error:
        raise ConfigError(f"_target_ '{target}': {error}") from error


def unsafe_hydra_nodes(hydra: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (key, reason) for everything under `hydra:` that would run foreign code before a job does.

    Hydra calls the `_target_` of its launcher, sweeper and callbacks; logging.config calls the factories of
    a logging node; `env_set` could undo rmx's own switches.
    """
    found: list[tuple[str, str]] = []
    for key, value in _leaves(hydra, "hydra"):
        name = key.rpartition(".")[2]
        in_logging = key.startswith(("hydra.job_logging", "hydra.hydra_logging"))
        if name == "_target_":
            node = key.removesuffix("._target_")
            if node not in {"hydra.sweeper", "hydra.launcher"} or not _is_hydra_plugin(value):
                reason = refusal(value)
                if reason:
                    found.append((key, reason))
        elif name.startswith("_args_"):
            found.append((key, "positional arguments are not allowed in a configuration"))
        elif key.startswith(_CALLING) and "${" in str(value) and not _harmless_reference(name, str(value), in_logging):
            found.append((key, f"{value!r}: a reference is not allowed here; write the value itself"))
        elif in_logging and (name == "()" or (name == "class" and not str(value).startswith(_LOGGERS))):
            found.append((key, f"{value!r} is not a class of Python's logging"))
        elif in_logging and "://" in str(value) and str(value) not in {"ext://sys.stdout", "ext://sys.stderr"}:
            found.append((key, f"{value!r} is not allowed in a logging node"))
        elif key.startswith("hydra.job.env_set.") and name.startswith(("RMX_", "PYTHON", "LD_", "DYLD_")):
            found.append((key, f"{name} may only be set in the shell"))
    return found


def _harmless_reference(name: str, text: str, in_logging: bool) -> bool:
    """Tell whether a reference can only give text of Hydra's own: `${evil}` or `${oc.create:...}` could give a node."""
    if in_logging and name != "filename":
        return False
    return all(part.startswith(("hydra.", "hydra:", "now:", "oc.env:")) for part in text.split("${")[1:])


def _matches(target: str, entry: str) -> bool:
    return target.startswith(entry) if entry.endswith(".") else target == entry


def _is_loss(target: str) -> bool:
    module, _, name = target.rpartition(".")
    return module == "rmx.losses" and name in import_module(module).__all__


def _is_hydra_plugin(target: Any) -> bool:
    """Tell whether this is a launcher or sweeper that an installed plugin of Hydra has registered, or rmx's own."""
    store = ConfigStore.instance()
    groups = ("hydra/launcher", "hydra/sweeper")
    nodes = (store.load(f"{group}/{name}").node for group in groups for name in store.list(group))
    return target == RMX_SWEEPER or any(target == node.get("_target_") for node in nodes)


def _defined_as(target: str) -> str:
    """Import what the user allows and return the module and name that it is truly defined as.

    An object that is neither function nor class (a functools.partial, say) does not know its home and counts as the
    module's own.

    Raises:
        ConfigError: there is no such module or name, or importing the module fails.
    """
    found = import_name(target)
    home = getattr(found, "__qualname__", None)
    return target if home is None else f"{found.__module__}.{home}"


def _leaves(node: Any, key: str) -> list[tuple[str, Any]]:
    if isinstance(node, Mapping):
        return [leaf for name, value in node.items() for leaf in _leaves(value, f"{key}.{name}")]
    if isinstance(node, list | tuple):
        return [leaf for place, value in enumerate(node) for leaf in _leaves(value, f"{key}[{place}]")]
    return [(key, node)]
