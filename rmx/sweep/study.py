"""The trial store: an optuna study in a journal file, asked for points and told how they went.

All that rmx uses of optuna is here. optuna takes 0.3 s to import and every Hydra program imports sweeper plugins at
its start, so nothing may import this module before a sweep runs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from rmx.errors import ConfigError
from rmx.redact import redact_command
from rmx.sweep.space import Dimension, Params, SearchSpace
from rmx.sweep.strategy import SweepSettings
from rmx.sweep.trials import SweepFolder, Trial

__all__ = ["TrialStore"]

log = logging.getLogger(__name__)

_STATUS = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_NAME = "sweep"  # of the study in its journal, which holds no other
_POINT = "point"  # attribute of trials that were chosen and not started: their parameters
_HIDDEN = "duplicate_of"  # attribute of points that the sampler gave twice and that were never run


class TrialStore:
    """Every trial of a sweep, durable at every step; one sweeper at a time may open a folder.

    Raises:
        ConfigError: the folder holds a sweep over another space, other objectives or other fixed overrides.
    """

    def __init__(self, folder: SweepFolder, space: SearchSpace, settings: SweepSettings, fixed: list[str]) -> None:
        self.folder, self.space, self.settings, self.fixed = folder, space, settings, fixed
        self.is_grid = settings.sampler == "grid" or (settings.sampler == "auto" and settings.n_trials is None)
        self.distributions = {item.name: distribution(item) for item in space.dimensions}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        _repair(folder)
        self.storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder.journal)))
        with without_experimental_warnings():
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=_NAME,
                directions=[_direction(way) for way in settings.directed().values()],
                pruner=make_pruner(settings),
                load_if_exists=True,
            )
        known = self.study.get_trials(deepcopy=False)
        self._check_same(fresh=not known)
        self.open_trials: dict[int, optuna.trial.Trial] = {}
        self.random = random.Random(settings.seed + len(known))
        with without_experimental_warnings():
            self.study.sampler = make_sampler(settings, self.is_grid, len(known))
        self.seen = {_key(_point(trial)): trial.number for trial in known if _HIDDEN not in trial.user_attrs}
        if self.is_grid:
            self._enqueue_grid()

    def trials(self) -> list[Trial]:
        """Return every trial once, by number: without those that a retry replaced."""
        frozen = [t for t in self.study.get_trials(deepcopy=False) if _HIDDEN not in t.user_attrs]
        replaced = {t.user_attrs["retry_of"] for t in frozen if "retry_of" in t.user_attrs}
        return [self._record(t) for t in frozen if t.number not in replaced]

    def target(self) -> int:
        """Return how many trials the sweep is to have."""
        size, wanted = self.space.size, self.settings.n_trials
        return min(count for count in (size, wanted) if count is not None)

    def ask(self) -> Trial | None:
        """Return the next point to run, or None when the sweep has all it wants or the space is used up."""
        waiting = any(t.state == TrialState.WAITING for t in self.study.get_trials(deepcopy=False))
        if not waiting and (self.is_grid or len(self.trials()) >= self.target()):
            return None
        while True:
            with without_experimental_warnings():
                trial = self.study.ask(fixed_distributions=self.distributions)
            frozen = self._frozen(trial.number)
            key = _key(dict(trial.params))
            first = self.seen.get(key)
            if first is None or first == trial.number or "retry_of" in frozen.user_attrs:
                self.seen[key] = trial.number
                self.open_trials[trial.number] = trial
                return self._record(frozen)
            trial.set_user_attr(_HIDDEN, first)
            self.study.tell(trial.number, state=TrialState.FAIL)
            if not self._enqueue_untried():
                return None

    def adopt(self, number: int) -> Trial:
        """Take over a trial that an earlier sweeper left running; a point it had not completed is completed."""
        study_id = self.storage.get_study_id_from_name(_NAME)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, number)
        with without_experimental_warnings():
            trial = optuna.trial.Trial(self.study, trial_id)
            for name, values in self.distributions.items():
                suggest(trial, name, values)
        self.open_trials[number] = trial
        self.seen.setdefault(_key(dict(trial.params)), number)
        return self._record(self._frozen(number))

    def retry_failed(self) -> int:
        """Queue every failed trial once more, in its own folder; return how many."""
        failed = [trial for trial in self.trials() if trial.status == "failed"]
        for trial in failed:
            attributes: dict[str, Any] = {"retry_of": trial.number, _POINT: dict(trial.params)}
            attributes["folder"] = trial.number if trial.folder_number is None else trial.folder_number
            with without_experimental_warnings():
                self.study.enqueue_trial(dict(trial.params), user_attrs=attributes)
        return len(failed)

    def report(self, number: int, step: int, value: float) -> bool:
        """Store what the watched metric was at a step; return whether the trial should stop early."""
        trial = self.open_trials[number]
        if step in self._frozen(number).intermediate_values:
            return False  # a resumed job repeats the steps since its checkpoint
        trial.report(value if self._watched_sign() > 0 else -value, step)
        with without_experimental_warnings():
            return trial.should_prune()

    def tell(self, number: int, status: str, values: Mapping[str, float] | None = None, reason: str = "") -> None:
        """Store how a trial ended: finished (with all objectives), pruned or failed."""
        if reason:
            self.open_trials[number].set_user_attr("reason", reason)
        state = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[status]
        ordered = [values[metric] for metric in self.settings.directed()] if values else None
        self.study.tell(number, ordered, state=state)
        del self.open_trials[number]

    def importance(self) -> dict[str, float] | None:
        """Return each parameter's share in the spread of the first objective; None with too few trials to tell."""
        done = [trial for trial in self.trials() if trial.status == "finished"]
        first = next(iter(self.settings.directed()))
        if len(done) < 4 or len({trial.values[first] for trial in done}) < 2:
            return None
        target = (lambda trial: trial.values[0]) if len(self.settings.objectives) > 1 else None
        try:
            with without_experimental_warnings():
                return dict(optuna.importance.get_param_importances(self.study, target=target))
        except (ImportError, RuntimeError, ValueError) as error:
            log.info("No parameter importance: %s", error)
            return None

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _watched_sign(self) -> int:
        direction = SweepSettings(objectives=[self.settings.watched_metric]).directed()
        own = self.settings.directed()
        wanted = own.get(self.settings.watched_metric) or direction[self.settings.watched_metric]
        return 1 if wanted == next(iter(own.values())) else -1

    def _record(self, frozen: FrozenTrial) -> Trial:
        values = dict(zip(self.settings.directed(), frozen.values or [], strict=False))
        sign = self._watched_sign()
        return Trial(
            number=frozen.number,
            params=_point(frozen),
            status=_STATUS[frozen.state],
            values=values if frozen.state == TrialState.COMPLETE else {},
            steps={step: sign * value for step, value in frozen.intermediate_values.items()},
            reason=str(frozen.user_attrs.get("reason", "")),
            folder_number=frozen.user_attrs.get("folder"),
        )

    def _enqueue_grid(self) -> None:
        for index, params in enumerate(self.space.enumerate()):
            if self.settings.n_trials is not None and index >= self.settings.n_trials:
                return
            if _key(params) not in self.seen:
                self._enqueue(params)

    def _enqueue_untried(self) -> bool:
        if not self.space.enumerable:
            return True  # a continuum: the sampler's next point is another one
        untried = [params for params in self.space.enumerate() if _key(params) not in self.seen]
        if not untried:
            return False
        self._enqueue(self.random.choice(untried))
        return True

    def _enqueue(self, params: Params) -> None:
        with without_experimental_warnings():
            self.study.enqueue_trial(params, user_attrs={_POINT: params})
        self.seen[_key(params)] = len(self.study.get_trials(deepcopy=False)) - 1

    def _check_same(self, *, fresh: bool) -> None:
        """Refuse to mix two sweeps in one folder."""
        own = {
            "parameters": [dimension.describe() for dimension in self.space.dimensions],
            "objectives": self.settings.directed(),
            "overrides that do not vary": redact_command(self.fixed),
        }
        known = self.study.user_attrs.get("sweep")
        if known is None or fresh:
            self.study.set_user_attr("sweep", own)
            return
        different = [key for key in own if json.dumps(own[key]) != json.dumps(known.get(key))]
        if different:
            details = "; ".join(f"{key} were {known.get(key)}, now {own[key]}" for key in different)
            raise ConfigError(
                f"hydra.sweep.dir: {self.folder.path} holds another sweep ({details}). Give the same command to "
                "continue it, or another folder: hydra.sweeper.name=<name>"
            )


def _direction(way: str) -> StudyDirection:
    return StudyDirection.MAXIMIZE if way == "maximize" else StudyDirection.MINIMIZE


def _key(params: Mapping[str, Any]) -> str:
    return json.dumps(dict(params), sort_keys=True)


def _point(trial: FrozenTrial) -> Params:
    return dict(trial.params) or dict(trial.user_attrs.get(_POINT, {}))


def _repair(folder: SweepFolder) -> None:
    """Undo what a kill in the middle of a write leaves: optuna's lock, and half a last line.

    The caller holds the sweep's own lock, so nobody else writes.
    """
    lock = folder.journal.with_name(folder.journal.name + ".lock")
    lock.unlink(missing_ok=True)
    if folder.journal.exists():
        data = folder.journal.read_bytes()
        complete = data.rfind(b"\n") + 1
        if complete < len(data):
            with folder.journal.open("r+b") as file:
                file.truncate(complete)


# --- optuna's parts as the settings name them -------------------------------------------------------------------------


@contextlib.contextmanager
def without_experimental_warnings() -> Iterator[None]:
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
    seed, startup = (settings.seed + known) % 2**32, settings.startup_trials
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
