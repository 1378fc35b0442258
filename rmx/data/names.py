"""Names of evaluation sets: they become parts of file names and of metric names, so they are made safe for both."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rmx.errors import ConfigError

__all__ = ["renamings", "safe_names"]

_UNSAFE = re.compile(r"[^\w.-]+")
_MAX_CHARACTERS = 80
_RESERVED = {
    "train": "is the name of the training rows",
    "predict": "is the name of a phase",
}


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Name given → name used: letters, digits, `_`, `.` and `-`; all else becomes one `-`.

    >>> safe_names(["rb/chat hard", "harmless"])
    {'rb/chat hard': 'rb-chat-hard', 'harmless': 'harmless'}

    Raises:
        ConfigError: nothing is left of a name, it is too long or reserved, or two become one.
    """
    out: dict[str, str] = {}
    taken: dict[str, str] = {}
    for given in names:
        safe = _UNSAFE.sub("-", str(given)).strip("-.")
        key = f"data.eval_sets.{given}"
        if not safe:
            raise ConfigError(f"{key}: a name needs a letter or a digit; rename it")
        if len(safe) > _MAX_CHARACTERS:
            raise ConfigError(f"{key}: the name has {len(safe)} characters, at most {_MAX_CHARACTERS} are allowed")
        if safe.lower() in _RESERVED:
            raise ConfigError(f"{key}: {safe!r} {_RESERVED[safe.lower()]}; rename the set")
        other = taken.setdefault(safe.lower(), given)
        if other != given:
            raise ConfigError(f"{key}: is called {safe!r} in files and metrics, as is {other!r}; rename one of them")
        out[given] = safe
    return out


def renamings(names: Iterable[str]) -> list[str]:
    """One sentence for every name that is not used as it was given.

    >>> renamings(["rb/chat hard", "harmless"])
    ["the evaluation set 'rb/chat hard' is called rb-chat-hard in files and metrics"]
    """
    changed = ((given, safe) for given, safe in safe_names(names).items() if given != safe)
    return [f"the evaluation set {given!r} is called {safe} in files and metrics" for given, safe in changed]
