"""comparison.html: several runs side by side, tested pair by pair against the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rmx.errors import DataError
from rmx.metrics import holm, paired_comparison
from rmx.plots import Line, Picture, overlay_figure
from rmx.plots.style import PALETTE
from rmx.report.facts import SetFacts, set_facts
from rmx.report.render import write_page
from rmx.results import DecidedPair, RunRecord, decided_pairs, eval_sets, read_run

__all__ = ["write_comparison"]

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))


@dataclass(frozen=True)
class Paired:
    """One run against the first on the pairs that both scored."""

    label: str
    result: dict[str, float] | None  # None: no pair in common
    adjusted_p: float | None  # Holm's, over all runs compared on this set


@dataclass(frozen=True)
class SetComparison:
    """All runs on one evaluation set."""

    name: str
    rows: list[tuple[str, SetFacts | None]]
    paired: list[Paired]


def write_comparison(folders: Sequence[Path | str], path: Path | str = "comparison.html") -> Path:
    """Compare runs: their numbers side by side, and a paired test of each against the first.

    Args:
        folders: two or more run folders; the first is the one that the others are held against.
        path: the page to write.

    Raises:
        DataError: fewer than two folders, or one of them is not that of a run.
        OutputError: the page cannot be written.
    """
    if len(folders) < 2:
        raise DataError(f"a comparison needs two runs or more, got {len(folders)}")
    records = dict(zip(_labels([Path(folder) for folder in folders]), map(read_run, folders), strict=True))
    sets = list(dict.fromkeys(name for record in records.values() for name in record.predictions))
    facts = {
        "title": "Comparison of " + " and ".join(records)
        if len(records) == 2
        else f"Comparison of {len(records)} runs",
        "labels": list(records),
        "folders": [str(Path(folder).resolve()) for folder in folders],
        "sets": [_compare(name, records) for name in sets],
        "curves": _curves(records),
        "notes": [f"{label}: {note}" for label, record in records.items() for note in record.notes],
    }
    return write_page(Path(path), "compare.html", facts)


def _labels(folders: Sequence[Path]) -> list[str]:
    """Names that tell the runs apart: the ends of their paths, as long as they need to be."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(len(part) for part in parts) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise DataError(f"the same run was given twice: {', '.join(str(folder) for folder in folders)}")


def _compare(name: str, records: Mapping[str, RunRecord]) -> SetComparison:
    scored = {label: record.predictions.get(name) for label, record in records.items()}
    rows = [(label, set_facts(predictions) if predictions else None) for label, predictions in scored.items()]
    first, *others = (decided_pairs([predictions] if predictions else []) for predictions in scored.values())
    results = [_paired(first, other) for other in others]
    adjusted = iter(holm([result["p_value"] for result in results if result]))
    labels = list(records)[1:]
    paired = [
        Paired(label, result, next(adjusted) if result else None) for label, result in zip(labels, results, strict=True)
    ]
    return SetComparison(name, rows, paired)


def _paired(
    first: Mapping[tuple[str, str], DecidedPair], second: Mapping[tuple[str, str], DecidedPair]
) -> dict[str, float] | None:
    """The test on the pairs that both runs scored; None without one."""
    common = [key for key in first if key in second]
    if not common:
        return None
    return paired_comparison(
        [first[key].margin for key in common],
        [second[key].margin for key in common],
        weight=[first[key].weight for key in common],
        comparison=[first[key].comparison[1] for key in common],
    )


def _curves(records: Mapping[str, RunRecord]) -> list[Markup]:
    names = dict.fromkeys(name for record in records.values() for name in eval_sets(record.rows))
    prefixes = ["train", *("eval" if name == "eval" else f"eval_{name}" for name in names)]
    pages = []
    for prefix in prefixes:
        for metric, label in (("loss", "loss per pair"), ("accuracy", "accuracy")):
            key = f"{prefix}/{metric}"
            lines = [
                Line(record.curve(key), name, PALETTE[i % len(PALETTE)], dashes=DASHES[i % len(DASHES)])
                for i, (name, record) in enumerate(records.items())
            ]
            drawn = overlay_figure(key, label, lines)
            if drawn is not None:
                words = f"{key} over the steps of {', '.join(records)}."
                pages.append(Markup(Picture(key, drawn).inline(words)))
    return pages
