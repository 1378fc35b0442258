"""A configuration file, or the words of a command, -> keys and values as another program reads them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rmx.errors import ConfigError, first_line

__all__ = ["Given", "read_words", "value_of"]

_PROCESSES = {"num_processes", "nproc_per_node", "num_gpus"}  # of accelerate, torchrun and deepspeed
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")  # an environment variable before a command
_SHELL = re.compile(r"\$[A-Za-z_{(]")


@dataclass
class Given:
    """What was asked of the other program: its script, its keys, and words of a launcher that say something else."""

    script: str = ""
    keys: dict[str, Any] = field(default_factory=dict)
    launcher: dict[str, Any] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)


def value_of(text: Any) -> Any:
    """Return what a value of a command line or of YAML means: numbers such as 1e-5 are numbers.

    >>> value_of("1e-5"), value_of("0.1"), value_of("True"), value_of("[a, b]"), value_of("08"), value_of("User: {}")
    (1e-05, 0.1, True, ['a', 'b'], '08', 'User: {}')
    """
    if not isinstance(text, str):
        return text
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", text):
        return float(text)
    if text in ("no", "yes", "on", "off", "No", "Yes", "On", "Off", "NO", "YES", "ON", "OFF"):
        return text  # a value of eval_strategy and others, and no truth value
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, list | dict):
        return value if text[:1] in "[{" else text
    plain = isinstance(value, bool | int | float) and not re.match(r"[+-]?0\d", text)  # 08 is no octal
    return value if plain else text


def read_words(words: Sequence[str]) -> Given:
    """Read a command of one word or many, or a file's name with `key=value` words behind it.

    Raises:
        ConfigError: there is nothing to read, a file that is no mapping, or a variable of the shell.

    >>> given = read_words(["accelerate launch --num_processes 4 reward.py --bf16 --adam-beta2 0.9 --no_use_cache"])
    >>> given.script, given.keys
    ('reward.py', {'processes': 4, 'bf16': True, 'adam_beta2': 0.9, 'use_cache': False})
    """
    words = _split(words)
    variable = next((word for word in words if _SHELL.search(word)), None)
    if variable is not None:
        raise ConfigError(f"{variable[:60]}: holds a variable of the shell; write its value in its place")
    if any(word.startswith("--") for word in words):
        return _command(words)
    names = [word for word in words if "=" not in word and Path(word).suffix in (".yaml", ".yml", ".json")]
    if not names:
        raise ConfigError(
            f"{' '.join(words)[:60] or 'nothing'}: give a YAML or JSON file, or a command with --key value"
        )
    given = Given(script=" ".join(word for word in words if word not in names and "=" not in word))
    for name in names:
        given.keys |= read_file(name)
    for word in words:
        key, sign, text = word.partition("=")
        if _VARIABLE.match(word):
            given.launcher[key] = text
        elif sign:
            given.keys[key.lstrip("+")] = value_of(text)
    return given


def read_file(name: str) -> dict[str, Any]:
    """Return the keys of a YAML or JSON file.

    Raises:
        ConfigError: it cannot be read, or holds no mapping.
    """
    try:
        text = Path(name).expanduser().read_text(encoding="utf-8")
        content = json.loads(text) if name.endswith(".json") else yaml.load(text, Loader=_PlainLoader)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{name}: cannot be read: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{name}: holds no keys; a file of `key: value` lines is expected")
    return {str(key): value_of(value) for key, value in content.items()}


class _PlainLoader(yaml.SafeLoader):
    """YAML in which yes, no, on and off are words, as OmegaConf reads it: `eval_strategy: no` is the value no."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _split(words: Sequence[str]) -> list[str]:
    """One quoted command is split as a shell does; its continued lines are one line."""
    if len(words) != 1:
        return list(words)
    try:
        return shlex.split(words[0].replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise ConfigError(f"the command cannot be split into words: {error}") from None


def _command(words: list[str]) -> Given:
    """The words before the script are the launcher's, those behind it are keys."""
    end, start, script = _script(words)
    given = Given(script)
    variables = [word for word in words[:start] if _VARIABLE.match(word)]
    given.launcher |= {word.partition("=")[0]: word.partition("=")[2] for word in variables}
    for key, value in _flags(words[:end], given.repeated).items():
        if key in _PROCESSES and isinstance(value, int):
            given.keys |= {"processes": value} if value > 1 else {}
        else:
            given.launcher[key] = value
    given.keys |= _flags(words[start:], given.repeated)
    return given


def _script(words: list[str]) -> tuple[int, int, str]:
    """Where the launcher's words end, where the keys begin, and what is run: a file, a module, a program's verb.

    >>> _script(["torchrun", "-m", "a.b", "--c"]), _script(["trl", "reward", "--c"])
    ((1, 3, 'a.b'), (0, 2, 'trl reward'))
    """
    for place, word in enumerate(words):
        if word.endswith(".py"):
            return place, place + 1, word
        if word in ("-m", "--module") and place + 1 < len(words):
            return place, place + 2, words[place + 1]
    first = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    return 0, first, " ".join(words[:first])


def _flags(words: list[str], repeated: list[str]) -> dict[str, Any]:
    """`--key value`, `--key=value`, `--key a b`, `--switch` and `--no_switch`; other words belong to no key."""
    out: dict[str, Any] = {}
    key, values = "", list[Any]()

    def close() -> None:
        if not key:
            return
        value = True if not values else values[0] if len(values) == 1 else list(values)
        name = key
        if not values and name.startswith("no_"):
            name, value = name.removeprefix("no_"), False
        if name in out:
            repeated.append(name)
        out[name] = value

    for word in words:
        if word.startswith("--") and len(word) > 2:
            close()
            key, sign, text = word[2:].partition("=")
            key, values = key.replace("-", "_"), [value_of(text)] if sign else []
        elif key:
            values.append(value_of(word))
    close()
    return out
