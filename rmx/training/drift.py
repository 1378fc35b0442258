"""What a run is made with, as plain values, and how two of them differ.

A checkpoint continues a run only where configuration and rows are the same; else the result would be that of
neither. Keys that cannot change the result (where files go, how often something is logged) may differ freely.
"""

from __future__ import annotations

import dataclasses
import functools
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rmx.errors import CheckpointError
from rmx.redact import redact

__all__ = ["differences", "environment_facts", "plain_values", "refuse_drift"]

# Keys that decide nothing about weights, optimizer state or the order of rows.
FREE = (
    "trainer.logging_", "trainer.eval_", "trainer.save_", "trainer.dataloader_", "trainer.log_level",
    "trainer.disable_tqdm", "trainer.load_best_model_at_end", "trainer.greater_is_better", "trainer.include_",
    "trainer.per_device_eval_batch_size", "trainer.torch_empty_cache_steps", "trainer.ddp_", "trainer.trackio_",
    "trainer.restore_callback_states_from_checkpoint", "trainer.stop_after",
)  # fmt: skip
NOT_FREE = ("trainer.dataloader_drop_last",)  # decides which rows every later step sees
COMPARED = ("trainer.metric_for_best_model", "rows.")  # what the best checkpoint so far is the best by
STEP_SIZE = (
    "trainer.comparisons_per_step", "trainer.per_device_train_batch_size", "trainer.gradient_accumulation_steps",
)  # fmt: skip
# What these keys do to the run is in its rows, whose content is compared: a file may have moved.
SEEN_IN_ROWS = ("data.", "template.")


def plain_values(value: Any) -> Any:
    """Return nested plain values for a specification: dataclasses, partial functions, callbacks, numbers.

    >>> plain_values(functools.partial(max, 1, key=None))
    {'_target_': 'builtins.max', 'args': [1], 'key': None}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if not f.name.startswith("_")}
        return {"_target_": name_of(type(value)), **{key: plain_values(item) for key, item in items.items()}}
    if isinstance(value, functools.partial):
        arguments = {"args": plain_values(list(value.args))} if value.args else {}
        return {"_target_": name_of(value.func), **arguments, **plain_values(value.keywords)}
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type) or callable(value):
        return name_of(value)
    plain = {key: item for key, item in vars(value).items() if isinstance(item, str | bool | int | float | None)}
    return {"_target_": name_of(type(value)), **plain}


def name_of(value: Any) -> str:
    """Return the import path of a class or function; that of its class for another callable."""
    named = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def dotted(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted keys, as one writes them on the command line.

    >>> dotted({"trainer": {"arguments": {"learning_rate": 0.1}}, "seed": 1, "peft": {}})
    {'trainer.learning_rate': 0.1, 'seed': 1}
    """
    if isinstance(value, Mapping):
        result: dict[str, Any] = {}
        for key, item in value.items():
            result |= dotted(item, f"{prefix}.{key}" if prefix else str(key))
        return result
    return {prefix.replace("trainer.arguments.", "trainer."): value}


def environment_facts(device: torch.device) -> dict[str, Any]:
    """Return what floating-point results depend on besides the program."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "accelerate", "peft", "numpy")},
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return key → (value there, value here) for every flat key that differs.

    Where a class or function of rmx stands does not count: it may move from version to version.

    >>> differences({"a": {"x": 1}, "b": 2}, {"a": {"x": 3}, "b": 2})
    {'a.x': (1, 3)}
    >>> differences({"loss": {"_target_": "rmx.old.hinge"}}, {"loss": {"_target_": "rmx.losses.hinge"}})
    {}
    """
    old, new = dotted(there), dotted(here)
    absent = "(not set)"
    keys = [*new, *(key for key in old if key not in new)]
    pairs = {k: (old.get(k, absent), new.get(k, absent)) for k in keys}
    return {key: pair for key, pair in pairs.items() if _name(key, pair[0]) != _name(key, pair[1])}


def _name(key: str, value: Any) -> Any:
    moved = key.endswith("_target_") and isinstance(value, str) and value.startswith("rmx.")
    return value.rsplit(".", 1)[-1] if moved else value


def refuse_drift(
    checkpoint: Path, there: Mapping[str, Any], here: Mapping[str, Any], allow: Sequence[str]
) -> tuple[list[str], bool]:
    """Compare a manifest's facts with this run's.

    Returns:
        Notes about a changed environment; and whether the best checkpoint so far can still be compared with: not if
        it was chosen by another metric, or on other evaluation rows.

    Raises:
        CheckpointError: configuration, rows or ranks differ in a key that `allow` does not name; with the diff.
    """
    rows = differences({"rows": there.get("rows", {})}, {"rows": here["rows"]})
    config = differences(redact(there.get("config", {})), redact(here["config"]))
    config = {key: pair for key, pair in config.items() if key in NOT_FREE or not key.startswith(FREE)}
    if not any(key.startswith("rows.train") for key in rows):
        config = {key: pair for key, pair in config.items() if not key.startswith(SEEN_IN_ROWS)}
    if step_size(there) == step_size(here):  # however it is divided
        config = {key: pair for key, pair in config.items() if key not in STEP_SIZE}
    else:
        config |= differences({STEP_SIZE[0]: step_size(there)}, {STEP_SIZE[0]: step_size(here)})
    found = config | rows
    refused = {key: pair for key, pair in found.items() if not _allowed(key, allow)}
    if refused:
        lines = "\n".join(f"  {key}: {_short(old)} there, {_short(new)} here" for key, (old, new) in refused.items())
        names = list(dict.fromkeys(_allowing(key) for key in refused))
        names = [name for name in names if "data" not in names or not name.startswith("data.")]
        allowed = ",".join(names)
        raise CheckpointError(
            f"{checkpoint}: made with other settings than this run:\n{lines}\n"
            f'Take them back to continue; or continue with the new ones: "resume_allow=[{allowed}]"; '
            "or start from the beginning: resume=never"
        )
    notes = differences(there.get("environment", {}), here["environment"])
    comparable = not any(key.startswith(COMPARED) and not key.startswith("rows.train.") for key in found)
    return [f"{key} was {old} and is {new}" for key, (old, new) in notes.items()], comparable


def step_size(facts: Mapping[str, Any]) -> int:
    """Return the comparisons of a step of all ranks together; checkpoints of version 0.1.0 name its factors.

    >>> step_size({"step_size": 64}), step_size({"ranks": 2, "config": {"trainer": {"arguments": {}}}})
    (64, 16)
    """
    if "step_size" in facts:
        return int(facts["step_size"])
    arguments = facts.get("config", {}).get("trainer", {}).get("arguments", {})
    device = int(arguments.get("per_device_train_batch_size", 8)) * int(arguments.get("gradient_accumulation_steps", 1))
    return device * int(facts.get("ranks", 1))


def _allowing(key: str) -> str:
    """The key to name in `resume_allow`: rows come from `data`, evaluation rows from `data.eval_sets` and its kin."""
    return key if not key.startswith("rows.") else "data" if key.startswith("rows.train.") else "data.eval_sets"


def _allowed(key: str, allow: Sequence[str]) -> bool:
    """Whether a key, what stands for it, or one of their parents is named; `data` stands for the rows too."""
    return any(k == name or k.startswith(f"{name}.") for name in allow for k in (key, _allowing(key)))


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
