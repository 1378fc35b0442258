"""report.html: what a run reached, beside what chance, length alone and a perfect model would reach."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rmx.plots import Picture, RunPictures, draw_run
from rmx.report.audit_section import audit_facts
from rmx.report.facts import SetFacts, curve_words, flat, set_facts
from rmx.report.render import interval, percent, seconds_in_words, shown_number, signed, write_page
from rmx.results import RunRecord, eval_sets, read_object

__all__ = ["write_run_report"]

CONFIG_LINES = 400  # of run.yaml shown


@dataclass(frozen=True)
class Mark:
    """One line of the accuracy chart: a value, its interval if it was estimated, and what it is."""

    name: str
    value: float
    low: float | None
    high: float | None
    kind: str  # "model" or "baseline"


@dataclass(frozen=True)
class Card:
    """A headline number, with the context that makes it mean something."""

    name: str
    value: str
    context: str


@dataclass(frozen=True)
class Section:
    """One evaluation set of the page."""

    facts: SetFacts
    cards: list[Card]
    marks: list[Mark]
    figures: list[Markup]
    length_warning: str | None

    @property
    def anchor(self) -> str:
        """The id of the section."""
        return "set-" + "".join(letter if letter.isalnum() else "-" for letter in self.facts.name)


def write_run_report(run: RunPictures | Path | str, *, texts: Mapping[str, Mapping[str, str]] | None = None) -> Path:
    """Write `report.html` into a run folder, from the files that are there.

    Args:
        run: the run's output folder, or what `rmx.plots.draw_run` made of it.
        texts: `prompt`, `chosen` and `rejected` text by pair id. Without it the page holds no text of the data; with
            it the worst mistakes can be opened with a click.

    Returns:
        The page's path.

    Raises:
        DataError: the folder does not exist, or is not that of a run.
        OutputError: the page cannot be written.
    """
    drawn = run if isinstance(run, RunPictures) else draw_run(run)
    return write_page(drawn.record.folder / "report.html", "run.html", run_facts(drawn, texts))


def run_facts(run: RunPictures, texts: Mapping[str, Mapping[str, str]] | None) -> dict[str, Any]:
    """Everything that the page says."""
    record, pictures = run.record, run.pictures
    folder = record.folder.resolve()
    sets = [found for p in record.predictions.values() if (found := set_facts(p, texts)) is not None]
    sections = []
    for facts in sets:
        tail = "" if facts.name == "eval" else f"_{facts.name}"
        wanted = [f"{name}{tail}" for name in ("reward_distributions", "margins", "reliability", "reward_vs_length")]
        drawn = [_inline(pictures[name], _score_words(name, facts)) for name in wanted if name in pictures]
        warning = length_warning(facts.length) if facts.length else None
        sections.append(Section(facts, _cards(record, facts), _marks(facts), drawn, warning))
    curves = [
        _inline(picture, f"{_title(picture)}: {curve_words(record.curve(_curve_key(name)))}.")
        for name, picture in pictures.items()
        if name.startswith("training_")
    ]
    results = read_object(folder / "all_results.json") or {}
    environment = read_object(folder / "environment.json") or {}
    config = _config(folder)
    return {
        "title": f"{folder.parent.name} / {folder.name}",
        "sections": sections,
        "curves": curves,
        "audit": audit_facts(audit) if (audit := read_object(folder / "audit.json")) else None,
        "results": sorted(flat(results)),
        "environment": flat({key: item for key, item in environment.items() if key != "command"}),
        "command": environment.get("command"),
        "repeat": _repeat(folder) if config else None,
        "config": config,
        "last": _last_evaluations(record) if not sections else [],
        "notes": record.notes + run.notes + _disagreements(sets, results),
        "has_texts": any(mistake.texts for facts in sets for mistake in facts.mistakes),
    }


# --- headline ---


def _cards(record: RunRecord, facts: SetFacts) -> list[Card]:
    n = facts.numbers
    cards = []
    if "accuracy" in n:
        context = f"95 % interval {interval(n['accuracy_low'], n['accuracy_high'])}, {shown_number(n['pairs'])} pairs"
        cards.append(Card("Accuracy", percent(n["accuracy"]), context))
    best = f"; the true rewards {facts.ceiling['loss']:.4f} on average" if facts.ceiling else ""
    cards.append(Card("Log loss", f"{n['loss']:.4f}", f"nats per pair; a coin has {math.log(2):.4f}{best}"))
    if facts.calibration:
        c = facts.calibration
        fitted = "none fits" if c["temperature"] is None else f"temperature {c['temperature']:.3g}"
        cards.append(
            Card("Calibration error", percent(c["ece"]), f"ECE; Brier {c['brier']:.3f} (a coin 0.250); {fitted}")
        )
    if facts.length and facts.length["length_controlled_accuracy"] is not None:
        low, high = facts.length["length_controlled_accuracy_low"], facts.length["length_controlled_accuracy_high"]
        context = f"{interval(low, high)}; longer and shorter chosen responses count alike"
        value = percent(facts.length["length_controlled_accuracy"])
        cards.append(Card("Length-controlled accuracy", value, context))
    if facts.truth:
        context = f"of margins; of single rewards {signed(facts.truth['pearson'])}"
        cards.append(Card("Correlation with true reward", signed(facts.truth["margin_pearson"]), context))
    seconds = (read_object(record.folder / "all_results.json") or {}).get("train_runtime")
    if isinstance(seconds, int | float):
        cards.append(Card("Training time", seconds_in_words(seconds), "wall clock"))
    return cards


def _marks(facts: SetFacts) -> list[Mark]:
    """The model's accuracy, then what it is to be held against."""
    n = facts.numbers
    if "accuracy" not in n:
        return []
    marks = [Mark("this model", n["accuracy"], n["accuracy_low"], n["accuracy_high"], "model")]
    if facts.ceiling:
        marks.append(Mark("the true rewards, on average", facts.ceiling["accuracy"], None, None, "baseline"))
        marks.append(Mark("the true rewards, on these labels", facts.ceiling["drawn_accuracy"], None, None, "baseline"))
    if facts.length:
        marks.append(_length_rule(facts.length))
    return [*marks, Mark("chance", 0.5, None, None, "baseline")]


def _length_rule(length: Mapping[str, float | None]) -> Mark:
    """What counting tokens alone would reach, in the direction that does better on this set."""
    longer, low, high = (length[f"length_only_accuracy{end}"] or 0.0 for end in ("", "_low", "_high"))
    if longer >= 0.5:
        return Mark("always the longer response", longer, low, high, "baseline")
    return Mark("always the shorter response", 1 - longer, 1 - high, 1 - low, "baseline")


def length_warning(length: Mapping[str, float | None]) -> str | None:
    """A sentence when accuracy depends on which response is longer by more than the two intervals allow.

    >>> length_warning({"accuracy_longer_low": 0.09, "accuracy_longer_high": 0.26,
    ...                 "accuracy_shorter_low": 0.83, "accuracy_shorter_high": 0.957})
    'This model leans to the shorter response: it is right far more often where that one is preferred.'
    """
    ends = [length.get(f"accuracy_{kind}_{end}") for kind in ("longer", "shorter") for end in ("low", "high")]
    longer_low, longer_high, shorter_low, shorter_high = (math.nan if end is None else end for end in ends)
    if longer_low > shorter_high:
        leaning = "longer"
    elif shorter_low > longer_high:
        leaning = "shorter"
    else:
        return None
    return f"This model leans to the {leaning} response: it is right far more often where that one is preferred."


def _last_evaluations(record: RunRecord) -> list[tuple[str, list[tuple[str, float]]]]:
    """The last logged numbers of each set, for runs without predictions."""
    found = []
    for name in eval_sets(record.rows):
        prefix = "eval/" if name == "eval" else f"eval_{name}/"
        keys = sorted({key for row in record.rows for key in row if key.startswith(prefix)})
        curves = [record.curve(key) for key in keys]
        found.append((name, [(c.key.removeprefix(prefix), float(c.values[-1])) for c in curves if c.values.size]))
    return found


def _disagreements(sets: list[SetFacts], results: Mapping[str, Any]) -> list[str]:
    """Say so when the accuracy computed here is not the one that the run reported."""
    if len(sets) != 1 or "accuracy" not in sets[0].numbers:
        return []
    reported = results.get("predict_accuracy", results.get("eval_accuracy"))
    here = sets[0].numbers["accuracy"]
    if not isinstance(reported, int | float) or abs(reported - here) < 1e-6:
        return []
    return [
        f"all_results.json reports an accuracy of {reported:.6f}, the predictions give {here:.6f}: "
        "the files are of different runs, or one was changed"
    ]


# --- figures ---


def _inline(picture: Picture, words: str) -> Markup:
    return Markup(picture.inline(words))


def _title(picture: Picture) -> str:
    return picture.figure.axes[0].get_title(loc="left")


def _curve_key(file_name: str) -> str:
    prefix, _, metric = file_name.removeprefix("training_").rpartition("_")
    return f"{prefix or 'train'}/{metric}"


def _score_words(name: str, facts: SetFacts) -> str:
    n = facts.numbers
    if name.startswith("reward_distributions"):
        if "chosen_reward" not in n:
            return "Histogram of rewards."
        means = f"chosen responses have the mean {n['chosen_reward']:.3g}, rejected ones {n['rejected_reward']:.3g}"
        return f"Histogram of rewards: {means}, standard deviation of all {n['reward_std']:.3g}."
    if name.startswith("margins"):
        return f"Histogram of margins: {percent(n['accuracy'])} of pairs are right, mean margin {n['margin']:.3g}."
    if name.startswith("reliability") and facts.calibration:
        bins = "; ".join(
            f"{percent(b['confidence'], 0)} sure, {percent(b['accuracy'], 0)} right" for b in facts.calibration["bins"]
        )
        return f"Reliability diagram, from least to most confident pairs: {bins}."
    correlation = facts.length["reward_pearson"] if facts.length else None
    return f"Scatter of reward against tokens, correlation {signed(correlation)}."


# --- repeating the run ---


def _config(folder: Path) -> str | None:
    path = folder / "run.yaml"
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[:CONFIG_LINES] + (["# ... cut here"] if len(lines) > CONFIG_LINES else []))


def _repeat(folder: Path) -> str:
    return f"python -m rmx --config-dir {shlex.quote(str(folder))} --config-name run"
