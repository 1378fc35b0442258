"""The keys of `hydra.sweeper`: one frozen dataclass is their schema and owns their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from rmx.errors import ConfigError, did_you_mean
from rmx.values import AtLeastZero, Count, Positive, Seed, Whole, refuse_wrong_fields

__all__ = ["SweepSettings", "default_direction"]

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
        processes_per_job: processes of each job, which rmx starts (parallel.processes).
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

    sampler: Literal["auto", "grid", "random", "tpe", "gp", "qmc"] = "auto"
    n_trials: Count | None = None
    n_jobs: Whole = 1
    objectives: Annotated[list[str], MinLen(1)] = field(default_factory=lambda: ["eval/accuracy"])
    directions: list[Literal["maximize", "minimize"]] | None = None
    seed: Seed = 0
    startup_trials: Count = 10
    pruner: Literal["none", "median", "halving", "hyperband"] = "none"
    pruner_metric: str | None = None
    pruner_min_steps: Count | None = None
    pruner_startup_trials: Whole = 4
    pruner_reduction_factor: Annotated[int, Ge(2)] = 3
    pruner_grace_seconds: AtLeastZero = 600.0
    name: str | None = None
    gpus_per_job: Whole = 1
    processes_per_job: Count = 1
    fail_fast: bool = False
    max_failures: Count | None = None
    max_restarts: Whole = 1
    retry_failed: bool = False
    job_timeout_minutes: Positive | None = None
    grace_seconds: AtLeastZero = 60.0
    confirm: Annotated[str, MinLen(1)] | None = None
    top: Count = 1
    seeds: Annotated[list[Seed], MinLen(1)] = field(default_factory=lambda: [1, 2, 3, 4, 5])

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SweepSettings:
        """Build from the keys of a configuration, naming unknown keys and their neighbours."""
        known = [item.name for item in fields(cls)]
        problems = []
        for key in values:
            if key not in known:
                hint = did_you_mean(key, known)
                problems.append(f"hydra.sweeper.{key}: no such key" + (f"; {hint}" if hint else ""))
        if problems:
            raise ConfigError("\n".join(problems))
        return cls(**values)

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "hydra.sweeper")
        problems = self._wrong_values()
        if problems:
            raise ConfigError("\n".join(problems))

    def directed(self) -> dict[str, str]:
        """Return {objective: "maximize" | "minimize"} in order."""
        directions: Sequence[str] = self.directions or [default_direction(metric) for metric in self.objectives]
        return dict(zip(self.objectives, directions, strict=True))

    @property
    def watched_metric(self) -> str:
        """The key that pruning looks at."""
        return self.pruner_metric or self.objectives[0]

    def _wrong_values(self) -> list[str]:
        problems = []

        def require(name: str, fine: bool, allowed: str) -> None:
            if not fine:
                problems.append(f"hydra.sweeper.{name}: {getattr(self, name)!r} is not allowed; give {allowed}")

        require("objectives", len(set(self.objectives)) == len(self.objectives), "each key once")
        require("seeds", len(set(self.seeds)) == len(self.seeds), "different seeds")
        if self.name is not None:
            fine = self.name not in ("", ".", "..") and "/" not in self.name and "\0" not in self.name
            require("name", fine, "the name of a folder, without a slash")
        if self.directions is not None:
            fine = len(self.directions) == len(self.objectives)
            require("directions", fine, "maximize or minimize for each of " + ", ".join(self.objectives))
        if len(self.objectives) > 1 and self.pruner != "none":
            problems.append(
                f"hydra.sweeper.pruner: {self.pruner!r} needs a single objective, and there are "
                f"{len(self.objectives)}; give hydra.sweeper.pruner=none or one objective"
            )
        return problems
