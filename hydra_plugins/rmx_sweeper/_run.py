"""From what Hydra composed to a sweep of rmx, and back to the screen.

Hydra imports every module of a plugin at every start, but not those with a leading underscore: this one is imported
when a sweep runs.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.rmx_sweeper.overrides import split_overrides
from rmx import __version__
from rmx.config.overriding import override_value
from rmx.errors import ConfigError, RmxError
from rmx.redact import redact_command
from rmx.run.screen import Screen
from rmx.sweep.batches import BatchJobs, run_guarded
from rmx.sweep.confirm import Confirmation, read_confirmation, seeds_table
from rmx.sweep.jobs import Job, JobRunner, LocalJobs, gpu_groups, job_program
from rmx.sweep.on_screen import print_leaderboard
from rmx.sweep.runner import Sweep, SweepResult
from rmx.sweep.space import SearchSpace
from rmx.sweep.strategy import SweepSettings
from rmx.sweep.trials import SweepFolder

__all__ = ["NodeTask", "SweepFailed", "run_sweep"]

log = logging.getLogger("rmx.sweep")


class SweepFailed(RmxError):
    """A sweep whose result is shown and written, and that is not wholly good; `exit_code` says how."""

    def __init__(self, result: SweepResult) -> None:
        counts: dict[str, int] = {}
        for row in result.rows:
            counts[row.status] = counts.get(row.status, 0) + 1
        spelled = ", ".join(f"{count} {status}" for status, count in counts.items())
        super().__init__(f"{spelled or 'no trials'}; the same command with the same folder continues: {result.path}")
        self.exit_code = result.exit_code
        self.result = result


def run_sweep(given: Mapping[str, Any], config: DictConfig, context: HydraContext, arguments: list[str]) -> SweepResult:
    """Run the sweep of `python -m rmx -m ...`, show it and write its files.

    Raises:
        InputError: the command line does not describe a sweep, or the folder is not free.
        SweepFailed: some trials failed, none finished, or a signal or a failure limit stopped the sweep.
    """
    settings = SweepSettings.from_mapping({key: value for key, value in given.items() if not key.startswith("_")})
    parser = OverridesParser.create(config_loader=context.config_loader)
    fixed, dimensions = split_overrides(arguments, parser)
    space, confirmation = SearchSpace(dimensions), None
    if settings.confirm is not None:
        confirmation = read_confirmation(Path(settings.confirm), settings, fixed, dimensions)
        fixed, space = confirmation.fixed, confirmation.space
    path = sweep_path(config, settings, confirmation)
    folder = SweepFolder(path)
    flags = config_flags(config)
    group = (
        [] if any(word.lstrip("+").startswith("group=") for word in fixed) else [f"group={override_value(path.name)}"]
    )
    own = [*hydra_overrides(config), *group]
    about = {"command": command_line(), "version": __version__, "started_in": str(Path.cwd())}
    folder.jobs.mkdir(parents=True, exist_ok=True)
    with Screen(verbose=bool(config.get("verbose", True)), log_file=path / "sweep.log") as screen:
        jobs = job_runner(folder, settings, config, context, flags)
        sweep = Sweep(
            path,
            space,
            fixed,
            settings,
            jobs,
            overrides=lambda output_dir: [f"output_dir={override_value(str(output_dir))}", *own],
            about=about,
        )
        result = sweep.run()
        print_leaderboard(screen.console, folder, result.rows, settings.objectives, confirms=confirmation is not None)
        if confirmation is not None:
            screen.console.print(seeds_table(result.rows, settings))
        written = ["leaderboard.csv", "sweep.json", *report(path)]
        upload(config, result, settings)
        if result.winner is not None:
            written.append(f"best -> {result.winner.folder}")
        screen.done(path, written)
        if result.exit_code:
            failure = SweepFailed(result)
            log.error("%s", failure)
            raise failure
    return result


def sweep_path(config: DictConfig, settings: SweepSettings, confirmation: Confirmation | None) -> Path:
    """Decide the sweep folder and tell Hydra, whose launchers write there too."""
    path = Path(str(config.hydra.sweep.dir)).absolute()
    if settings.name:
        path = path.with_name(settings.name)
    elif confirmation is not None:
        path = confirmation.of / "confirm"
    with open_dict(config):
        config.hydra.sweep.dir = str(path)
        config.hydra.sweep.subdir = "jobs"
    return path


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


def command_line() -> str:
    """Return the command that started this sweep, secrets left out."""
    return "python -m rmx " + " ".join(shlex.quote(word) for word in redact_command(sys.argv[1:]))


# --- Where jobs run ---------------------------------------------------------------------------------------------------


class NodeTask:
    """What a cluster launcher runs on a node: the same guarded process as on this machine.

    Hydra composes the job's configuration there once more; only its overrides are used.
    """

    def __init__(self, sweep_dir: str, argv: list[str], grace_seconds: float) -> None:
        self.sweep_dir, self.argv, self.grace_seconds = sweep_dir, argv, grace_seconds

    def __call__(self, _: DictConfig) -> int:
        """Run the job whose output_dir is in the overrides; returns its exit code."""
        words = list(HydraConfig.get().overrides.task)
        output = next(word for word in reversed(words) if word.startswith("output_dir="))
        name = output.rsplit("/", 1)[1].rstrip("'")
        return run_guarded(SweepFolder(Path(self.sweep_dir)), name, [*self.argv, *words], self.grace_seconds)


def job_runner(
    folder: SweepFolder, settings: SweepSettings, config: DictConfig, context: HydraContext, flags: list[str]
) -> JobRunner:
    """Return this machine's processes, or the cluster that hydra/launcher names."""
    argv = [*job_program(settings.processes_per_job), *flags]
    basic = ConfigStore.instance().load("hydra/launcher/basic.yaml").node
    if config.hydra.launcher.get("_target_") == basic.get("_target_"):
        if settings.gpus_per_job and settings.processes_per_job > settings.gpus_per_job and gpu_groups(1):
            raise ConfigError(
                f"hydra.sweeper.processes_per_job: {settings.processes_per_job} processes, but gpus_per_job="
                f"{settings.gpus_per_job}; every process needs a GPU of its own"
            )
        return LocalJobs(
            folder,
            lambda job: [*argv, *job.overrides],
            n_jobs=settings.n_jobs,
            gpus_per_job=settings.gpus_per_job,
            grace_seconds=settings.grace_seconds,
        )
    task = NodeTask(str(folder.path), argv, settings.grace_seconds)
    # Hydra's annotation wants a function of the configuration; an object that can be called pickles better.
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)

    def launch(jobs: list[Job], first: int) -> None:
        launcher.launch([list(job.overrides) for job in jobs], initial_job_idx=first)

    return BatchJobs(folder, launch, n_jobs=settings.n_jobs)


# --- What comes after -------------------------------------------------------------------------------------------------


def report(path: Path) -> list[str]:
    """Draw sweep.html; a report that cannot be drawn costs a warning, never the sweep."""
    try:
        from rmx.report import write_sweep_report

        return [write_sweep_report(path).name]
    except (RmxError, ImportError, OSError, ValueError, KeyError) as error:
        log.warning("sweep.html could not be drawn: %s: %s", type(error).__name__, error)
        return []


def upload(config: DictConfig, result: SweepResult, settings: SweepSettings) -> None:
    """Show the leaderboard in wandb, beside the jobs of the same group."""
    trackers = OmegaConf.to_container(config.get("trackers") or OmegaConf.create([]))
    if not isinstance(trackers, list) or "wandb" not in trackers or not result.rows:
        return
    from rmx.sweep.upload import upload_leaderboard

    try:
        where = upload_leaderboard(
            result.path,
            result.rows,
            settings.objectives,
            project=str(config.get("project") or "rmx"),
            group=str(config.get("group") or result.path.name),
        )
    except (RmxError, OSError, ValueError, RuntimeError, ImportError) as error:
        log.warning("wandb did not take the leaderboard: %s: %s", type(error).__name__, error)
    else:
        log.info("wandb: leaderboard %s", where)
