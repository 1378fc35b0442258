"""The class that Hydra calls for `-m`: translates, runs `rmx.sweep`, shows the result. No logic of its own."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.rmx_sweeper import config as _registers_the_options  # noqa: F401

__all__ = ["RmxSweeper"]

log = logging.getLogger(__name__)

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


class RmxSweeper(Sweeper):
    """hydra/sweeper=rmx: every job a process of its own, on this machine or through a cluster launcher.

    Args:
        **settings: the keys of `rmx.sweep.SweepSettings`.
    """

    def __init__(self, **settings: Any) -> None:
        self.given = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra composed; the task function stays unused, because jobs are processes."""
        self.hydra_context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep that the command line describes.

        Returns:
            `rmx.sweep.books.SweepResult`, when every trial finished or was pruned.

        Raises:
            ConfigError: the command line does not describe a sweep.
            SweepFailed: with the sweep's exit code, when anything is left undone.
        """
        from hydra_plugins.rmx_sweeper.run import run_sweep

        if self.config is None or self.hydra_context is None:
            raise RuntimeError("setup() comes before sweep()")
        return run_sweep(self.given, self.config, self.hydra_context, arguments)


def config_flags(config: DictConfig) -> list[str]:
    """Return the flags that let a job find the same configuration files: --config-dir, --config-name."""
    flags: list[str] = []
    for source in config.hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", str(Path(source.path).absolute())]
    name = config.hydra.job.config_name
    return flags + (["--config-name", str(name)] if name and name != "config" else [])


def hydra_overrides(config: DictConfig) -> list[str]:
    """Return Hydra's own overrides that a job needs too; those of the sweep and the launcher are not its business."""
    own = ("hydra.sweeper", "hydra.sweep.", "hydra/sweeper", "hydra.launcher", "hydra/launcher", "hydra.mode")
    return [word for word in config.hydra.overrides.hydra if not word.lstrip("+~").startswith(own)]


def parser(context: HydraContext) -> OverridesParser:
    """Return Hydra's parser of overrides; it looks up groups for globs."""
    return OverridesParser.create(config_loader=context.config_loader)


def command_line() -> str:
    """Return the command that started this sweep."""
    from rmx.sweep.output import redacted

    words: Sequence[str] = redacted(sys.argv[1:])
    return "python -m rmx " + " ".join(shlex.quote(word) for word in words)


def sweep_path(config: DictConfig, name: str | None) -> Path:
    """Decide the sweep folder and tell Hydra, whose launchers write there too."""
    path = Path(str(config.hydra.sweep.dir)).absolute()
    path = path.with_name(name) if name else path
    with open_dict(config):
        config.hydra.sweep.dir = str(path)
        config.hydra.sweep.subdir = "jobs"
    return path
