"""One folder, examined: every trap asked for, then the ten rows through every consumer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from rmx.scoring.examine.consumers import Scored, ask_consumers
from rmx.scoring.examine.opened import Opened, open_folder_as_it_is
from rmx.scoring.examine.traps import HEAD_TRAPS, TRAPS, Trap
from rmx.scoring.examine.weight_traps import HALF_TOLERANCE, Found, alone, clean, trap, unknown

__all__ = ["Answer", "Examination", "examine", "trap_texts"]

CONSUMERS_DIFFER = "consumers_differ"
_MEANING = "the score of a text depends on who loads the folder"
_REMEDY = "see which consumer differs in the table below; where no other trap is named, report it to rmx with the table"


@dataclass(frozen=True)
class Answer:
    """What was found out about one trap."""

    name: str
    trapped: bool | None  # None: it cannot be told for this folder
    detail: str
    meaning: str
    remedy: str


@dataclass(frozen=True)
class Examination:
    """All answers for one folder, and the rewards of ten rows by consumer."""

    folder: str
    answers: list[Answer]
    consumers: list[Scored]  # empty where there is no reward to compare
    why_no_consumers: str | None = None

    @property
    def traps(self) -> list[str]:
        """Names of the traps that were found."""
        return [answer.name for answer in self.answers if answer.trapped]

    def as_json(self) -> dict[str, Any]:
        """For programs: {"folder", "clean", "traps": [names], "checks": [...], "consumers": [...]}."""
        return {
            "folder": self.folder,
            "clean": not self.traps,
            "traps": self.traps,
            "checks": [asdict(answer) for answer in self.answers],
            "consumers": [_finite(asdict(scored)) for scored in self.consumers],
            "why_no_consumers": self.why_no_consumers,
        }


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: null stands for them.

    >>> _finite({"rewards": [1.0, float("nan")]})
    {'rewards': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def examine(path: str) -> Examination:
    """Look at a reward model folder or hub id for the known traps, and compare the scores of its consumers.

    Nothing is written, and nothing in the folder is changed.

    Raises:
        ModelError: there is no reward model to look at: no folder, no config, no weights, no tokenizer.
    """
    opened = open_folder_as_it_is(path)
    answers = [_answer(each, each.look(opened)) for each in TRAPS if not each.of_weights]
    no_head = next((answer.name for answer in answers if answer.trapped and answer.name in HEAD_TRAPS), None)
    stopped = f"there is no reward to look at: {no_head}" if no_head else None
    for each in TRAPS:
        if each.of_weights:
            answers.append(_answer(each, unknown(stopped) if stopped else each.look(opened)))
            if each.name == "non_finite" and answers[-1].trapped:
                stopped = "there is no reward to look at: non_finite"
    if stopped:
        return Examination(path, answers, [], stopped)
    consumers = ask_consumers(opened, allowed=_allowed(opened))
    differ = [scored.name for scored in consumers if scored.agrees is False]
    found = trap(", ".join(differ)) if differ and not any(a.trapped for a in answers) else clean("all that answered")
    if differ and not found.trapped:
        found = unknown(f"{', '.join(differ)}: as the traps above explain")
    answers.append(Answer(CONSUMERS_DIFFER, found.trapped, found.detail, _MEANING, _REMEDY))
    return Examination(path, answers, consumers)


def trap_texts() -> dict[str, tuple[str, str]]:
    """Every trap's name → what it does to scores, and what to do about it.

    >>> trap_texts()["consumers_differ"][0]
    'the score of a text depends on who loads the folder'
    """
    return {each.name: (each.meaning, each.remedy) for each in TRAPS} | {CONSUMERS_DIFFER: (_MEANING, _REMEDY)}


def _answer(each: Trap, found: Found) -> Answer:
    return Answer(each.name, found.trapped, found.detail, each.meaning, each.remedy)


def _allowed(opened: Opened) -> float | None:
    """A folder that plain loading opens in half precision is compared with what half precision may move."""
    stored = opened.config.get_text_config().dtype or opened.config.dtype
    if stored in (None, torch.float32) and not opened.loading:
        return None
    return HALF_TOLERANCE * float(torch.tensor(alone(opened, torch.float32)).std())
