"""What the command line does with a configuration: show it, run it once, run it many times."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from rmx.cli.flags import Arguments
from rmx.config import instantiate, run_yaml
from rmx.config.composing import Composer
from rmx.config.overriding import override_value
from rmx.errors import ConfigError, RmxError
from rmx.launch import origin_of
from rmx.launch.origin import RANK_VARIABLE
from rmx.redact import redact
from rmx.run.folder import open_folder
from rmx.values import Mistake, raise_all

__all__ = ["ask_hydra", "print_config", "run", "sweep"]


def run(arguments: Arguments) -> int:
    """One run: compose, check, instantiate, run."""
    composer = Composer(arguments.config_dir, arguments.config_name)
    cfg, mistakes = composer.checked(arguments.overrides)
    raise_all(mistakes)
    if cfg is not None:  # without a configuration there are mistakes
        start(instantiate(cfg), arguments.words())
    return 0


def start(workflow: Any, words: list[str]) -> Any:
    """Run the workflow here, or in ranks that run `rmx WORDS` each, as `parallel.processes` and `launch` say.

    Raises:
        ConfigError: the ranks are started already, and not so many.
    """
    is_rank = origin_of(os.environ).launcher != "alone" or RANK_VARIABLE in os.environ
    if is_rank or not hasattr(workflow, "launch"):  # a root file of the user's
        return workflow.run()
    if workflow.plans:
        return workflow.run()
    workflow.refuse_no_return(workflow.phases)
    launch, asked = workflow.launch, workflow.parallel.processes
    processes = launch.processes(asked)
    if asked == "auto" and processes == 1 and not launch.starts(processes):
        sys.stderr.write("rmx: parallel.processes=auto: no GPU here, so one process; give a number for more\n")
    if not launch.starts(processes):
        return workflow.run()
    workflow.refuse_fixed_ranks(processes)
    folder = open_folder(workflow.output_dir, workflow.model.name, workflow.data.source)
    if workflow.output_dir is None:  # so that ranks which start again go on where they were
        words = [*words, f"output_dir={override_value(str(folder))}"]
    return launch.start(words, processes, folder)


def print_config(arguments: Arguments) -> int:
    """--cfg job: print the configuration without secrets, then say what is wrong with it."""
    composer = Composer(arguments.config_dir, arguments.config_name)
    cfg, composing = composer.compose(arguments.overrides)
    if cfg is not None and not composing:
        node = cfg if arguments.package in {None, "_global_"} else OmegaConf.select(cfg, str(arguments.package))
        if node is None:
            raise ConfigError(f"--package: there is nothing at {arguments.package}; groups: {', '.join(cfg)}")
        if not OmegaConf.is_config(node):
            text = f"{redact({str(arguments.package): node})}\n"
        elif arguments.resolve:
            text = run_yaml(node)
        else:
            text = OmegaConf.to_yaml(OmegaConf.create(redact(OmegaConf.to_container(node))))
        sys.stdout.write(text)
    raise_all([*composing, *(composer.check(cfg, arguments.overrides) if cfg is not None else [])])
    return 0


def sweep(arguments: Arguments) -> int:
    """-m: check a run for every value first, then hand over to Hydra's sweeper and launcher."""
    composer = Composer(arguments.config_dir, arguments.config_name)
    mistakes: list[Mistake] = []
    for overrides in composer.single_runs(arguments.overrides):
        mistakes += [*composer.checked(overrides)[1], *composer.sweeper_mistakes()]
    raise_all(mistakes)
    overrides = [*composer.sweep_overrides(arguments.overrides), "hydra.mode=MULTIRUN"]
    try:
        with composer.hydra() as hydra:
            hydra.multirun(config_name=arguments.config_name, task_function=job, overrides=overrides)
    except HydraException as error:
        raise ConfigError(str(error)) from error
    except RmxError as error:  # the first of the jobs that failed: each has said why already
        return error.exit_code
    return 0


def job(cfg: DictConfig) -> Any:
    """One job of a sweep that runs inside Hydra's launcher; its folder is the sweep's subfolder."""
    from rmx.cli import message_of

    hydra = HydraConfig.get()
    with open_dict(cfg):
        parent = cfg.output_dir
        cfg.output_dir = hydra.runtime.output_dir if parent is None else str(Path(parent) / str(hydra.job.num))
        cfg.group = cfg.group or Path(hydra.sweep.dir).name
    try:
        return instantiate(cfg).run()
    except RmxError as error:
        sys.stderr.write(f"job {hydra.job.num} ({hydra.job.override_dirname or 'no overrides'}) {message_of(error)}")
        raise


def ask_hydra(arguments: Arguments) -> int:
    """--info, --cfg hydra and tab completion are Hydra's own."""
    name, words = arguments.config_name, arguments.overrides
    try:
        with Composer(arguments.config_dir, name).hydra() as hydra:
            if arguments.shell_completion:
                hydra.shell_completion(config_name=name, overrides=words)
            elif arguments.cfg:
                hydra.show_cfg(name, words, arguments.cfg, arguments.package, arguments.resolve)
            elif arguments.info:
                hydra.show_info(arguments.info, config_name=name, overrides=words)
    except (HydraException, ValueError) as error:
        raise ConfigError(str(error)) from error
    return 0
