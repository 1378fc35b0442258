"""YAML in, one Workflow out: compose, check, instantiate.

compose(["model=llama3", "data=hh_rlhf"])   groups, files and overrides -> a DictConfig
check(cfg)                                  every node against the signature of its target, nothing heavy imported
instantiate(cfg)                            the calls themselves -> rmx.workflow.Workflow
run_yaml(cfg)                               the resolved text that repeats the run, without secrets
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmx.errors import ConfigError

if TYPE_CHECKING:  # Hydra takes a third of a second to import; the help page reads conf/ without it
    from omegaconf import DictConfig

    from rmx.workflow import Workflow

__all__ = ["check", "compose", "instantiate", "run_yaml"]


def compose(
    overrides: Sequence[str] = (), config_dir: str | Path | None = None, config_name: str = "config"
) -> DictConfig:
    """Compose a configuration as the command line does.

    Args:
        overrides: `group=option` and `key=value`, in the grammar of Hydra.
        config_dir: a folder with files of your own, beside the shipped ones.
        config_name: the root file, without `.yaml`.

    Raises:
        ConfigError: all mistakes at once, a line each: those of the overrides, then those `check` finds.

    >>> compose(["seed=7"]).seed
    7
    """
    from rmx.config.composing import Composer
    from rmx.values import raise_all

    if isinstance(overrides, str):
        raise ConfigError(f"compose: give a list of overrides, [{overrides!r}]")
    composer = Composer(Path(config_dir) if config_dir is not None else None, config_name)
    cfg, mistakes = composer.compose(overrides)
    if mistakes or cfg is None:
        raise_all(composer.checked(overrides)[1])
        raise ConfigError("the configuration cannot be composed")
    return cfg


def check(cfg: DictConfig) -> None:
    """Check every value of a configuration against the signature and annotations of its target.

    The modules of the targets are imported; torch and transformers are not. All mistakes come in one error.

    Raises:
        ConfigError: a line per mistake: key, value, what is allowed, "did you mean".
    """
    from rmx.config.checking import mistakes_of
    from rmx.config.shipped import option_files
    from rmx.values import raise_all

    raise_all(mistakes_of(cfg, option_files()))


def instantiate(cfg: DictConfig) -> Workflow:
    """Check a configuration and make its calls; nothing is downloaded and no device is touched.

    Raises:
        ConfigError: as `check`, and what the targets themselves refuse (values that do not go together).
    """
    from rmx.config.checking import build, mistakes_in, plain
    from rmx.config.shipped import option_files
    from rmx.config.signatures import read_signature
    from rmx.values import raise_all

    values, unresolved = plain(cfg)
    raise_all([*unresolved, *mistakes_in(values, option_files())])
    if "config" in read_signature(values["_target_"]).parameters:
        values["config"] = run_yaml(cfg)
    workflow, mistakes = build(values)
    raise_all(mistakes)
    return workflow


def run_yaml(cfg: DictConfig) -> str:
    """Return the resolved configuration as YAML, with secrets hidden by key name and by value.

    >>> from omegaconf import OmegaConf
    >>> run_yaml(OmegaConf.create({"hub_token": "hf_1", "seed": 7, "copy": "${seed}"})).splitlines()
    ["hub_token: '***'", 'seed: 7', 'copy: 7']
    """
    from omegaconf import OmegaConf

    from rmx.redact import redact

    values = redact(OmegaConf.to_container(cfg, resolve=True))
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(values)))


def _escaped(value: Any) -> Any:
    """Keep `${` in a resolved text from being read as a reference again."""
    if isinstance(value, dict):
        return {name: _escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value
