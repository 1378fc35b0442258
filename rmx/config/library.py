"""Library classes that a configuration may name and that take seconds to import, described beforehand.

library.json holds, for each of TARGETS, the JSON Schema of its parameters, their defaults (for the reference), and the
version that they were read from;
`python -m rmx.config.describe` writes it again after an update of a library.

Where another version is installed, the stored description is believed when it finds no mistake; what it calls a
mistake is put to the installed class before the user hears of it (`rmx.config.checking`).
"""

from __future__ import annotations

import functools
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["LIBRARY_FILE", "LIBRARY_TARGETS", "TARGETS", "stored_signature"]

# Library calls that a configuration may make with any arguments: they store their arguments and open nothing.
LIBRARY_TARGETS = frozenset(
    {
        "peft.LoraConfig",
        "transformers.BitsAndBytesConfig",
        "transformers.EarlyStoppingCallback",
        "transformers.PrinterCallback",
        "transformers.ProgressCallback",
    }
)
TARGETS = sorted(LIBRARY_TARGETS | {"transformers.training_args.TrainingArguments"})
LIBRARY_FILE = Path(__file__).with_name("library.json")


@functools.cache
def _stored() -> dict[str, Any]:
    return dict(json.loads(LIBRARY_FILE.read_text(encoding="utf-8")))


@functools.cache
def _is_installed(package: str, wanted: str) -> bool:
    try:
        return version(package) == wanted
    except PackageNotFoundError:
        return True  # the call itself will say that the package is missing


def stored_signature(target: str) -> dict[str, Any] | None:
    """Return what library.json says of a target: parameters, required, is_open, defaults, of_other_version; else None.

    >>> stored_signature("transformers.EarlyStoppingCallback")["parameters"]["early_stopping_patience"]
    {'type': 'integer'}
    """
    entry = _stored().get(target)
    if entry is None:
        return None
    return entry | {"of_other_version": not _is_installed(target.partition(".")[0], entry["version"])}
