"""A winner by noise is not a winner: run the best trials of a sweep again with several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from rich.table import Table
from rich.text import Text

from rmx.errors import ConfigError, DataError
from rmx.results.sweep import SweepRow, read_sweep
from rmx.sweep.space import Dimension, SearchSpace
from rmx.sweep.strategy import SweepSettings

__all__ = ["Confirmation", "mean_and_spread", "read_confirmation", "seeds_table"]

# Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom (Fisher & Yates 1963, table III).
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Confirmation:
    """What to run: `space` has the candidates (trials of the sweep `of`) and the seeds."""

    of: Path
    fixed: list[str]
    space: SearchSpace


def read_confirmation(
    path: Path, settings: SweepSettings, fixed: Sequence[str], dimensions: Sequence[Dimension]
) -> Confirmation:
    """Read sweep.json of the sweep to confirm; `fixed` are further overrides for all runs.

    Raises:
        ConfigError: there is no finished trial, or the command line varies something itself.
    """
    path = path.absolute()
    if dimensions:
        raise ConfigError(
            f"{dimensions[0].name}: experiment=confirm varies the seed alone; give a single value, or leave it out"
        )
    try:
        trials = read_sweep(path).trials
    except DataError as error:
        raise ConfigError(f"hydra.sweeper.confirm: {path} is not the folder of a sweep: {error}") from error
    chosen = [trial for trial in trials if trial.rank is not None][: settings.top]
    if not chosen:
        raise ConfigError(f"hydra.sweeper.confirm: no trial of {path} has finished yet")
    if any("=***" in word for trial in chosen for word in trial.overrides):
        raise ConfigError(
            f"hydra.sweeper.confirm: {path} was run with a secret on the command line, which is not kept; give the "
            "key in the environment instead"
        )
    own = [word for word in fixed if _key(word) not in ("experiment", "seed")]
    said = {_key(word) for word in own} | {"seed"}  # what the command line says wins over the candidate's own
    expansion = {trial.name: [word for word in trial.overrides if _key(word) not in said] for trial in chosen}
    candidates = Dimension("candidate", choices=tuple(expansion))
    seeds = Dimension("seed", choices=tuple(str(seed) for seed in settings.seeds))
    return Confirmation(path, own, SearchSpace((candidates, seeds), {"candidate": expansion}))


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, standard deviation (n - 1) and half the 95 % interval of the mean, t s / √n (Student 1908).

    >>> mean, deviation, half = mean_and_spread([0.60, 0.62, 0.64])
    >>> round(mean, 3), round(deviation, 3), round(half, 4)  # 4.303 × 0.02 / √3
    (0.62, 0.02, 0.0497)
    """
    if len(values) < 2:
        return fmean(values), math.nan, math.nan
    deviation = stdev(values)
    t = _T95[min(len(values) - 1, len(_T95)) - 1]
    return fmean(values), deviation, t * deviation / math.sqrt(len(values))


def seeds_table(rows: Sequence[SweepRow], settings: SweepSettings) -> Table:
    """Return a line per candidate: the objective over its seeds."""
    metric = settings.objectives[0]
    table = Table(title=f"{metric} over seeds", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for head in ("candidate", "seeds", "mean", "95 % of the mean", "std", "min", "max"):
        table.add_column(head, justify="left" if head == "candidate" else "right", no_wrap=True)
    sign = -1 if settings.directed()[metric] == "maximize" else 1
    found: dict[str, list[float]] = {}
    for row in rows:
        if metric in row.values:
            found.setdefault(str(row.params["candidate"]), []).append(row.values[metric])
    for name, values in sorted(found.items(), key=lambda item: sign * fmean(item[1])):
        mean, deviation, half = mean_and_spread(values)
        cells = [name, str(len(values)), f"{mean:.4f}", "", "", f"{min(values):.4f}", f"{max(values):.4f}"]
        if len(values) > 1:
            cells[3], cells[4] = f"± {half:.4f}", f"{deviation:.4f}"
        table.add_row(*(Text(cell) for cell in cells))
    return table
