"""Registers hydra/sweeper=rmx. Hydra imports this at the start of every program, so it imports next to nothing."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from hydra.core.config_store import ConfigStore

from rmx.sweep.settings import SweepSettings

__all__ = ["register"]


def register() -> None:
    """Offer the settings, with their own defaults, under hydra.sweeper."""
    node: dict[str, Any] = {"_target_": "hydra_plugins.rmx_sweeper.sweeper.RmxSweeper"}
    for item in fields(SweepSettings):
        node[item.name] = item.default if item.default_factory is MISSING else item.default_factory()
    ConfigStore.instance().store(group="hydra/sweeper", name="rmx", node=node, provider="rmx_sweeper")


register()
