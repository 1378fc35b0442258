"""Sweeps: many runs, each a process of its own, and at the end a leaderboard one can believe.

    strategy     how to search: the keys of hydra.sweeper
    space        what varies: the dimensions, and the overrides of a point
    study        every trial and which point comes next: all that is used of optuna
    runner       the loop: ask, run, prune, restart, tell; and how a sweep ended
    trials       one trial, its processes, and the names of files in a sweep folder
    jobs         jobs as processes of this machine, each with its own GPUs
    batches      jobs on a cluster, in batches through a Hydra launcher
    guard        one job's keeper: starts it, outlives nothing, records its end
    leaderboard  who won, and by more than noise?
    summary      sweep.json, leaderboard.csv and the link to the best trial
    on_screen    the tables that the sweep prints
    confirm      the best trials again, with several seeds
    upload       the leaderboard in wandb

Nothing here knows Hydra; `hydra_plugins/rmx_sweeper` translates. A sweep folder holds:

    trial-000/ trial-001/ ...   run folders (output_dir of each job)
    jobs/trial-000.log .json    what the job printed; its processes with start, end and exit code
    best -> trial-007           the winner
    leaderboard.csv             one line per trial, ranked
    sweep.json                  everything a report needs (rmx.results.sweep); rewritten whole after every trial
    study.journal               optuna's storage: `optuna-dashboard study.journal` opens it

Exit codes of a sweep: 0 every trial finished or was pruned; 1 none finished; 2 wrong input; 3 a winner, but some
trials failed or were killed; 4 stopped by fail_fast or max_failures; 130/143 stopped by a signal.
"""

from __future__ import annotations

from rmx.sweep.space import Dimension, SearchSpace
from rmx.sweep.strategy import SweepSettings

__all__ = ["Dimension", "SearchSpace", "SweepSettings"]
