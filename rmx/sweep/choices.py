"""The keys of `hydra.sweeper`: one frozen dataclass is their schema and owns their defaults."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_origin, get_type_hints

from rmx.errors import ConfigError

__all__ = ["PRUNERS", "SAMPLERS", "SweepSettings", "default_direction"]

SAMPLERS = ("auto", "grid", "random", "tpe", "gp", "qmc")
PRUNERS = ("none", "median", "halving", "hyperband")
_SMALLER_IS_BETTER = ("loss", "ece", "brier", "tie_rate", "seconds", "runtime", "memory", "bytes")


def default_direction(metric: str) -> str:
    """Say whether a metric is better small or large, judged by the end of its name.

    >>> default_direction("eval/accuracy"), default_direction("eval/loss")
    ('maximize', 'minimize')
    """
    return "minimize" if metric.lower().endswith(_SMALLER_IS_BETTER) else "maximize"


@dataclass(frozen=True)
class SweepSettings:
    """What to try, how many at a time, what to stop early and when to give up.

    Args:
        sampler: grid tries every combination; random, tpe, gp and qmc choose `n_trials` points (gp and qmc need
            scipy); auto is grid without `n_trials` and tpe with it.
        n_trials: trials in the whole sweep, counting those of an earlier start in the same folder.
        n_jobs: jobs at the same time; 0 is one for each group of `gpus_per_job` GPUs (1 without a GPU). With a
            cluster launcher: jobs in a batch.
        objectives: keys of metrics.jsonl, the last value of each counts; the first one decides the ranking.
        directions: maximize or minimize for each objective; None judges by the name (losses and errors small).
        seed: seed of the sampler, not of the jobs.
        startup_trials: random trials before tpe or gp start to model.
        pruner: stops poor trials early: median, halving (successive halving), hyperband or none.
        pruner_metric: key that pruning looks at, at every step it is logged; None is the first objective.
        pruner_min_steps: optimizer steps that every trial may run; None is the first evaluation (halving,
            hyperband) or no limit (median).
        pruner_startup_trials: finished trials before the median is trusted.
        pruner_reduction_factor: halving and hyperband keep one in so many at each rung.
        pruner_grace_seconds: how long a pruned job may take to stop itself before it is terminated.
        name: name of the sweep folder, beside the default ones; the same name continues the same sweep.
        gpus_per_job: GPUs that each job sees.
        processes_per_job: above 1, jobs start through torchrun with so many processes.
        fail_fast: stop the sweep at the first failed job.
        max_failures: stop the sweep at so many failed jobs; None never stops.
        max_restarts: how often a job that a signal killed starts again from its last checkpoint in one sweep run.
        retry_failed: run trials that failed in an earlier start once more.
        job_timeout_minutes: a job that runs longer counts as failed; None has no limit.
        grace_seconds: time a job has to save a checkpoint when it is asked to stop.
        confirm: sweep folder whose winner is run again with `seeds` instead of a search (experiment=confirm).
        top: with `confirm`, how many of the best trials to run again.
        seeds: with `confirm`, seeds to run each with.

    Raises:
        ConfigError: naming every wrong key at once.

    >>> SweepSettings(objectives=["eval/accuracy", "eval/loss"]).directed()
    {'eval/accuracy': 'maximize', 'eval/loss': 'minimize'}
    """

    sampler: str = "auto"
    n_trials: int | None = None
    n_jobs: int = 1
    objectives: list[str] = field(default_factory=lambda: ["eval/accuracy"])
    directions: list[str] | None = None
    seed: int = 0
    startup_trials: int = 10
    pruner: str = "none"
    pruner_metric: str | None = None
    pruner_min_steps: int | None = None
    pruner_startup_trials: int = 4
    pruner_reduction_factor: int = 3
    pruner_grace_seconds: float = 600.0
    name: str | None = None
    gpus_per_job: int = 1
    processes_per_job: int = 1
    fail_fast: bool = False
    max_failures: int | None = None
    max_restarts: int = 1
    retry_failed: bool = False
    job_timeout_minutes: float | None = None
    grace_seconds: float = 60.0
    confirm: str | None = None
    top: int = 1
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SweepSettings:
        """Build from the keys of a configuration, naming unknown keys and their neighbours."""
        known = [item.name for item in fields(cls)]
        problems = []
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                problems.append(f"hydra.sweeper.{key}: no such key" + (f"; did you mean {near[0]}?" if near else ""))
        if problems:
            raise ConfigError("\n".join(problems))
        return cls(**values)

    def __post_init__(self) -> None:
        problems = self._wrong_types() or self._wrong_values()
        if problems:
            raise ConfigError("\n".join(problems))

    def directed(self) -> dict[str, str]:
        """Return {objective: "maximize" | "minimize"} in order."""
        directions = self.directions or [default_direction(metric) for metric in self.objectives]
        return dict(zip(self.objectives, directions, strict=True))

    @property
    def watched_metric(self) -> str:
        """The key that pruning looks at."""
        return self.pruner_metric or self.objectives[0]

    def _wrong_types(self) -> list[str]:
        problems = []
        for name, annotation in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not _fits(value, annotation):
                problems.append(f"hydra.sweeper.{name}: {value!r} is not {_spelled(annotation)}")
        return problems

    def _wrong_values(self) -> list[str]:
        problems = []

        def require(name: str, fine: bool, allowed: str) -> None:
            if not fine:
                problems.append(f"hydra.sweeper.{name}: {getattr(self, name)!r} is not allowed; give {allowed}")

        require("sampler", self.sampler in SAMPLERS, "one of " + ", ".join(SAMPLERS))
        require("pruner", self.pruner in PRUNERS, "one of " + ", ".join(PRUNERS))
        require("n_trials", self.n_trials is None or self.n_trials > 0, "a number above 0, or null")
        require("max_failures", self.max_failures is None or self.max_failures > 0, "a number above 0, or null")
        require("pruner_reduction_factor", self.pruner_reduction_factor >= 2, "2 or more")
        for name in ("n_jobs", "gpus_per_job", "max_restarts", "pruner_startup_trials", "grace_seconds"):
            require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("startup_trials", "processes_per_job", "top"):
            require(name, getattr(self, name) >= 1, "1 or more")
        require("objectives", len(self.objectives) > 0, "at least one key of metrics.jsonl, such as eval/accuracy")
        require("objectives", len(set(self.objectives)) == len(self.objectives), "each key once")
        require("seeds", len(set(self.seeds)) == len(self.seeds) > 0, "one or more different seeds")
        if self.name is not None:
            fine = self.name not in ("", ".", "..") and "/" not in self.name and "\0" not in self.name
            require("name", fine, "the name of a folder, without a slash")
        if self.directions is not None:
            fine = len(self.directions) == len(self.objectives)
            fine = fine and set(self.directions) <= {"maximize", "minimize"}
            require("directions", fine, "maximize or minimize for each of " + ", ".join(self.objectives))
        if len(self.objectives) > 1 and self.pruner != "none":
            problems.append(
                f"hydra.sweeper.pruner: {self.pruner!r} needs a single objective, and there are "
                f"{len(self.objectives)}; give hydra.sweeper.pruner=none or one objective"
            )
        return problems


def _fits(value: Any, annotation: Any) -> bool:
    if isinstance(annotation, types.UnionType):
        return any(_fits(value, option) for option in get_args(annotation))
    if get_origin(annotation) is list:
        (item,) = get_args(annotation)
        return isinstance(value, list) and all(_fits(entry, item) for entry in value)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _spelled(annotation: Any) -> str:
    words = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false"}
    if isinstance(annotation, types.UnionType):
        return " or ".join(_spelled(option) for option in get_args(annotation))
    if get_origin(annotation) is list:
        return f"a list, each {_spelled(get_args(annotation)[0])}"
    return "null" if annotation is type(None) else words[annotation.__name__]
