"""The leaderboard as a table in wandb: a summary run in the group of the sweep's jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmx.results.sweep import SweepRow

__all__ = ["upload_leaderboard"]


def upload_leaderboard(
    path: Path, rows: Sequence[SweepRow], objectives: Sequence[str], *, project: str, group: str
) -> str:
    """Write the leaderboard to a wandb run of its own, offline where there is no key or no network.

    Returns:
        Where it went: "online", or "offline" with the reason.
    """
    import wandb

    from rmx.trackers import WandbTracker

    tracker = WandbTracker(path, project=project, run_name=f"{path.name}-leaderboard", group=group, tags=["sweep"])
    try:
        names = list(dict.fromkeys(name for row in rows for name in row.params))
        columns: list[str | int] = [
            "rank",
            "trial",
            *names,
            *objectives,
            "accuracy_low",
            "accuracy_high",
            "loss",
            "pairs_per_second",
        ]
        columns += ["seconds", "status", "within_noise"]
        table = wandb.Table(columns=columns)
        for row in rows:
            cells: list[Any] = [row.rank, row.name, *(_text(row.params.get(name)) for name in names)]
            cells += [row.values.get(metric) for metric in objectives]
            cells += [row.accuracy_low, row.accuracy_high, row.loss, row.pairs_per_second, row.seconds, row.status]
            table.add_data(*cells, row.vs_winner.within_noise if row.vs_winner else None)
        tracker.run.log({"leaderboard": table})
        winner = next((row for row in rows if row.rank == 1), None)
        if winner is not None:
            tracker.summary(
                {"winner": winner.name, **{f"best/{key}": value for key, value in winner.values.items()}}, []
            )
    finally:
        tracker.close(0)
    return f"offline ({tracker.offline_because})" if tracker.offline_because else "online"


def _text(value: Any) -> str | None:
    """Spell parameters as text: a wandb column has one type, and a swept key may hold `none` and `0.1`."""
    return None if value is None else str(value)
