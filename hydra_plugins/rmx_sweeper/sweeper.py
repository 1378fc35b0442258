"""The class that Hydra calls for `-m`: translates, runs `rmx.sweep`, shows the result. No logic of its own."""

from __future__ import annotations

from typing import Any

from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rmx.errors import InputError

__all__ = ["FORWARDS", "RmxSweeper"]

FORWARDS = {"RmxSweeper": "rmx.sweep.strategy.SweepSettings"}  # who takes the settings; read by the config check


class RmxSweeper(Sweeper):
    """hydra/sweeper=rmx: every job a process of its own, on this machine or through a cluster launcher.

    Args:
        **settings: the keys of `rmx.sweep.SweepSettings`; conf/hydra/sweeper/rmx.yaml lists them.
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
            `rmx.sweep.runner.SweepResult`, when every trial finished or was pruned.

        Raises:
            ConfigError: the command line does not describe a sweep.
            SweepFailed: with the sweep's exit code, when anything is left undone.
            HydraException: wrong input; Hydra's callers know it as that.
        """
        from hydra_plugins.rmx_sweeper._run import run_sweep

        if self.config is None or self.hydra_context is None:
            raise RuntimeError("setup() comes before sweep()")
        try:
            return run_sweep(self.given, self.config, self.hydra_context, arguments)
        except InputError as error:
            raise HydraException(str(error)) from error
