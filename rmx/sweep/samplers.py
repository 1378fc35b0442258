"""optuna's samplers, pruners and distributions as the settings name them. Imported by `study` only."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rmx.errors import ConfigError
from rmx.sweep.choices import SweepSettings
from rmx.sweep.space import Dimension

__all__ = ["distribution", "make_pruner", "make_sampler", "quiet", "suggest"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out optuna's notes that parts of its interface may still change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return a dimension as optuna names it."""
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.integer:
        return IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.log, step=int(dimension.step or 1)
        )
    return FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log, step=dimension.step)


def suggest(trial: optuna.trial.Trial, name: str, distribution: BaseDistribution) -> None:
    """Give a trial its value in one dimension; one that it has already stays."""
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log, step=distribution.step)
    elif isinstance(distribution, FloatDistribution):
        trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log, step=distribution.step)


def make_sampler(settings: SweepSettings, is_grid: bool, known: int) -> optuna.samplers.BaseSampler:
    """Return the sampler; re-created with the same seed it would repeat itself, so the seed counts what is known."""
    seed, startup = settings.seed + known, settings.startup_trials
    if is_grid or settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if settings.sampler == "qmc":  # its place in the sequence is kept in the study, which wants the same seed
        _need_scipy("qmc")
        return optuna.samplers.QMCSampler(scramble=True, seed=settings.seed, warn_independent_sampling=False)
    if settings.sampler == "gp":
        _need_scipy("gp")
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
    parallel = settings.n_jobs != 1
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=parallel)


def _need_scipy(sampler: str) -> None:
    try:
        import scipy  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"hydra.sweeper.sampler: {sampler!r} needs scipy, which is not installed; pip install scipy, or give "
            "tpe, random or grid"
        ) from error


def make_pruner(settings: SweepSettings) -> optuna.pruners.BasePruner:
    """Return the pruner that the settings name."""
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=settings.pruner_startup_trials, n_warmup_steps=settings.pruner_min_steps or 0
        )
    factor = settings.pruner_reduction_factor
    if settings.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=settings.pruner_min_steps or "auto", reduction_factor=factor
        )
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=settings.pruner_min_steps or 1, reduction_factor=factor)
    return optuna.pruners.NopPruner()
