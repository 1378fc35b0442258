"""The flags of the command line; everything else on it is an override for Hydra."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rmx.errors import ConfigError, did_you_mean

__all__ = ["Arguments", "parse"]

_FLAGS = [
    "--help", "--version", "--cfg", "--resolve", "--package", "--multirun", "--run", "--config-dir", "--config-name",
    "--shell-completion", "--info", "--allow-target", "--trust-remote-code",
]  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    overrides: list[str]
    help: bool
    version: bool
    cfg: str | None
    resolve: bool
    package: str | None
    multirun: bool
    config_dir: Path | None
    config_name: str
    shell_completion: bool
    info: str | None

    def words(self) -> list[str]:
        """Return the words that say the same in another process, on another machine."""
        flags = ["--config-dir", str(self.config_dir.absolute())] if self.config_dir is not None else []
        flags += ["--config-name", self.config_name] if self.config_name != "config" else []
        allowed = os.environ.get("RMX_ALLOW_TARGETS", "").split(",")
        flags += [word for name in allowed if name for word in ("--allow-target", name)]
        flags += ["--trust-remote-code"] if os.environ.get("RMX_TRUST_REMOTE_CODE") == "1" else []
        return [*flags, *self.overrides]


class _Parser(argparse.ArgumentParser):
    """argparse that raises a ConfigError in place of printing a usage line and leaving."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[0].lower()}{message[1:]}; see rmx --help")


def parse(argv: Sequence[str]) -> Arguments:
    """Read the command line; --allow-target and --trust-remote-code become environment variables.

    The variables are what child processes of a sweep inherit, and what a YAML file cannot set.

    Raises:
        ConfigError: an unknown flag, or a flag without its value.

    >>> parse(["model=gpt2", "--cfg", "job", "seed=1"]).overrides
    ['model=gpt2', 'seed=1']
    """
    parser = _Parser(prog="rmx", add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--run", "-r", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--config-name", "-cn", default="config")
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    information = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=information)
    parser.add_argument("--allow-target", action="append", default=[])
    parser.add_argument("--trust-remote-code", action="store_true")
    found, rest = parser.parse_known_args(list(argv))
    for word in rest:
        if word.startswith("-"):
            raise ConfigError(_unknown_flag(word))
    if found.allow_target:
        allowed = [os.environ.get("RMX_ALLOW_TARGETS", ""), *found.allow_target]
        os.environ["RMX_ALLOW_TARGETS"] = ",".join(entry for entry in allowed if entry)
    if found.trust_remote_code:
        os.environ["RMX_TRUST_REMOTE_CODE"] = "1"
    return Arguments(
        overrides=rest,
        help=found.help,
        version=found.version,
        cfg=found.cfg,
        resolve=found.resolve,
        package=found.package,
        multirun=found.multirun,
        config_dir=found.config_dir,
        config_name=found.config_name.removesuffix(".yaml"),
        shell_completion=found.shell_completion,
        info=found.info,
    )


def _unknown_flag(word: str) -> str:
    name = word.partition("=")[0]
    hint = did_you_mean(name, _FLAGS, 0.75)
    if hint:
        return f"{name}: there is no such flag; {hint}"
    key = name.lstrip("-").replace("-", "_")
    return f"{name}: there is no such flag; values are set as key=value, for example trainer.{key}=...; see rmx --help"
