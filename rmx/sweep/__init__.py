"""Sweeps: many runs, each a process of its own, and at the end a leaderboard one can believe.

    space     what varies                      settings      how to search: the keys of hydra.sweeper
    study     points and results (optuna)      runner        the loop: ask, run, prune, restart, tell
    guard     one job's keeper                 jobs/batches  jobs on this machine, jobs on a cluster
    leaderboard, output, upload                what comes out

Nothing here knows Hydra; `hydra_plugins/rmx_sweeper` translates. A sweep folder holds:

    trial-000/ trial-001/ ...   run folders (output_dir of each job)
    jobs/trial-000.log .json    what the job printed; its processes with start, end and exit code
    best -> trial-007           the winner
    leaderboard.csv             one line per trial, ranked
    sweep.json                  everything a report needs, see below; rewritten whole after every trial
    study.journal               optuna's storage: `optuna-dashboard study.journal` opens it

sweep.json: `format` (1), `name`, `command`, `version`, `updated` (unix seconds), `sampler`, `pruner`, `pruner_metric`,
`evaluation` (the set that `accuracy` is of), `objectives` [{metric, direction}], `parameters` [{name, kind:
choice|int|float, values | low, high, step, log}], `fixed` [overrides of all], `counts` {status: trials}, `winner`
(number or null), `importance` {parameter: share} or null, `stopped_because`, and `trials` by number, each with the
fields of `rmx.sweep.leaderboard.Row`; `steps` is {optimizer step: pruner_metric} and `folder` is relative.

Exit codes of a sweep: 0 every trial finished or was pruned; 1 none finished; 2 wrong input; 3 a winner, but some
trials failed or were killed; 4 stopped by fail_fast or max_failures; 130/143 stopped by a signal.
"""

from __future__ import annotations

from rmx.sweep.choices import SweepSettings
from rmx.sweep.space import Dimension, SearchSpace

__all__ = ["Dimension", "SearchSpace", "SweepSettings"]
