"""sweep.html: who won, by how much more than noise, at what cost."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from rmx.plots import Picture
from rmx.report.render import interval, percent, seconds_in_words, shown_number, write_page
from rmx.report.run_page import Card
from rmx.report.sweep_figures import sweep_figures
from rmx.results import SweepRecord, SweepRow, read_sweep

__all__ = ["write_sweep_report"]


def write_sweep_report(folder: Path | str) -> Path:
    """Write `sweep.html` into a sweep folder, from its `sweep.json` and the metrics of its trials.

    Returns:
        The page's path.

    Raises:
        DataError: the folder has no readable sweep.json of a known format.
        OutputError: the page cannot be written.
    """
    sweep = read_sweep(folder)
    return write_page(sweep.folder / "sweep.html", "sweep.html", sweep_page_facts(sweep))


def sweep_page_facts(sweep: SweepRecord) -> dict[str, Any]:
    """Everything that the page says."""
    drawn = {name: Markup(Picture(name, item).inline(words)) for name, (item, words) in sweep_figures(sweep).items()}
    metrics = [metric for metric, _ in sweep.objectives if metric not in ("eval/accuracy", "eval/loss")]
    updated = sweep.facts.get("updated")
    return {
        "title": str(sweep.facts.get("name") or sweep.folder.resolve().name),
        "sweep": sweep,
        "cards": _cards(sweep),
        "extra_metrics": metrics,
        "links": {trial.number: link for trial in sweep.trials if (link := _link(sweep, trial))},
        "tied": [t for t in sweep.trials if t.vs_winner and t.vs_winner.within_noise],
        "failed": [t for t in sweep.trials if t.status in ("failed", "killed")],
        "several": [drawn[name] for name in ("parallel_coordinates", "learning_curves") if name in drawn],
        "single": [drawn[name] for name in drawn if name not in ("parallel_coordinates", "learning_curves")],
        "about": _about(sweep),
        "updated": datetime.fromtimestamp(updated, UTC).strftime("%Y-%m-%d %H:%M UTC") if updated else None,
    }


def _cards(sweep: SweepRecord) -> list[Card]:
    cards = []
    winner = sweep.winner
    if winner is not None:
        metric = sweep.objectives[0][0]
        if metric == "eval/accuracy" and winner.accuracy is not None:
            context = f"{interval(winner.accuracy_low, winner.accuracy_high)}, {winner.name}"
            cards.append(Card("Best accuracy", percent(winner.accuracy), context))
        else:
            cards.append(Card(f"Best {metric}", shown_number(winner.values.get(metric)), winner.name))
    done = sum(trial.status == "finished" for trial in sweep.trials)
    others = [(status, sum(t.status == status for t in sweep.trials)) for status in ("pruned", "failed", "killed")]
    rest = ", ".join(f"{count} {status}" for status, count in others if count) or "none pruned, none failed"
    cards.append(Card("Trials finished", f"{done} of {len(sweep.trials)}", rest))
    total = sum(trial.seconds for trial in sweep.trials)
    early = sum(trial.seconds for trial in sweep.trials if trial.status == "pruned")
    context = f"process time over all trials, {percent(early / total, 0)} in pruned ones" if total else "not known"
    cards.append(Card("Compute", seconds_in_words(total), context))
    compared = [trial.vs_winner for trial in sweep.trials if trial.vs_winner]
    if compared:
        tied = sum(difference.within_noise for difference in compared)
        cards.append(
            Card("Within noise of the winner", f"{tied} of {len(compared)}", "finished trials that may be as good")
        )
    return cards


def _link(sweep: SweepRecord, trial: SweepRow) -> str | None:
    """A relative link to the trial's own page, if it has one inside the sweep folder."""
    page = sweep.folder / trial.folder / "report.html"
    inside = trial.folder and page.resolve().is_relative_to(sweep.folder.resolve())
    return f"./{quote(trial.folder)}/report.html" if inside and page.is_file() else None


def _about(sweep: SweepRecord) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [
        (
            "objectives",
            ", ".join(f"{metric} ({'more' if more else 'less'} is better)" for metric, more in sweep.objectives),
        )
    ]
    for key in ("sampler", "pruner", "pruner_metric", "evaluation", "version", "stopped_because"):
        if sweep.facts.get(key):
            rows.append((key.replace("_", " "), sweep.facts[key]))
    fixed = sweep.facts.get("fixed")
    if fixed:
        rows.append(("fixed for all trials", " ".join(str(word) for word in fixed)))
    return rows
