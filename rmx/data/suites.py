"""Rows of the public benchmarks for reward models → `SuiteRow`: a prompt, its responses, and which are right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, Literal

from rmx.data.accounting import RowFault
from rmx.data.read.raw import BLANK
from rmx.data.read.sources import locate
from rmx.data.rows import asking
from rmx.data.rows.plan import Columns
from rmx.errors import DataError, counted
from rmx.metrics.benchmarks import PRIOR_SETS
from rmx.records import Message

__all__ = ["OWN_ROWS", "SUITES", "Suite", "SuiteRow", "read_suite"]

_KEYS = asking.Keys("")  # rmx bench columns={...}
_SNIFF = 64  # rows that a mapping is held against

Suite = Literal["rewardbench", "rewardbench2", "rm_bench", "judgebench", "ppe", "pairs", "best_of_n"]


@dataclass(frozen=True, slots=True)
class SuiteRow:
    """One row of a benchmark. K responses; unless `pairs` says otherwise, each right one is to beat each wrong one."""

    id: str
    section: str  # subset, domain or file, as the benchmark reports it
    prompt: tuple[Message, ...]
    responses: tuple[tuple[Message, ...], ...]  # K
    quality: tuple[float, ...]  # K: 1 right, 0 wrong, or the score of each response
    pairs: tuple[tuple[int, int], ...]  # (better, worse)
    tie: bool = False  # the annotators saw no winner

    @property
    def right(self) -> int:
        """How many of the first responses are right."""
        return sum(value == 1 for value in self.quality)


def read_suite(
    suite: Suite, paths: Sequence[str], notes: list[str], columns: Mapping[str, str] = MappingProxyType({})
) -> list[SuiteRow]:
    """Read a benchmark's rows from files or a dataset of the hub, in order; `notes` gets what was chosen on the way.

    Args:
        suite: a key of `SUITES`.
        paths: as in `data.path`.
        notes: gets a line for each choice.
        columns: rmx's column name → the file's, for the suites whose rows are the user's own (`OWN_ROWS`).

    Raises:
        DataError: there is nothing to read, a column that no row has, or a row that has not the published shape: a
            benchmark is complete or void.
    """
    rows: list[SuiteRow] = []
    seen: set[str] = set()
    for file in locate(paths, None, None, None, notes):
        given = file.rows()
        head = list(islice(given, _SNIFF))
        objects = [row for _, row, _ in head if row is not None]
        if mistake := asking.mapping_mistakes(file.place, _KEYS, columns, objects):
            raise mistake
        as_ours = Columns(columns, (), objects) if columns else None
        for line, row, fault in chain(head, given):
            if fault is BLANK:
                continue
            try:
                if row is None:
                    raise fault or RowFault("not an object")
                if row.get("tools"):  # a benchmark of this kind has none, and leaving them out changes the question
                    raise RowFault("wrong type", "tools: a benchmark's rows have no tools; score them by rmx score")
                mapped = as_ours.adapt(row)[1] if as_ours is not None else row
                made = SUITES[suite](dict(mapped), f"{file.label}:{line:d}".lstrip(":"), file.path.name.split(".")[0])
            except RowFault as problem:
                raise _not_the_shape(suite, f"{file.place}:{line}", problem, row, objects) from None
            if made.id in seen:
                made = SuiteRow(f"{made.id}@{line:d}", *[getattr(made, name) for name in SuiteRow.__slots__[1:]])
            seen.add(made.id)
            rows.append(made)
    if not rows:
        raise DataError(f"data: {', '.join(paths)} has no rows (suite={suite})")
    return rows


def _not_the_shape(
    suite: Suite, place: str, problem: RowFault, row: dict[str, Any] | None, head: Sequence[dict[str, Any]]
) -> DataError:
    """What is wrong with a row, and, where it lacks a column, which ones there are and how they are named."""
    said = f"{place}: {problem} (suite={suite})"
    if problem.reason != "missing column" or row is None:
        return DataError(said)
    if suite in OWN_ROWS and not any(row.get(part) is not None for part in OWN_ROWS[suite]):
        return DataError(f"{said}\n{asking.no_format(place, _KEYS, head or [row], [_shape(suite)])}")
    own = f"; name it with {_KEYS.columns({problem.detail: 'ITS_NAME'})}" if suite in OWN_ROWS else ""
    return DataError(f"{said}; columns found: {', '.join(sorted(row)) or 'none'}{own}")


def _shape(suite: Suite) -> str:
    return f"suite={suite} ({', '.join(OWN_ROWS[suite])})"


# --- Cells ---


def _cell(row: dict[str, Any], name: str) -> Any:
    if row.get(name) is None:
        raise RowFault("missing column", name)
    return row[name]


def _messages(value: Any, role: str, column: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        return ({"role": role, "content": value},)
    if (
        isinstance(value, list)
        and value
        and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value)
    ):
        return tuple(dict(message) for message in value)
    raise RowFault("wrong type", f"{column}: a text or a list of messages")


def _texts(row: dict[str, Any], name: str) -> list[str]:
    value = _cell(row, name)
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        raise RowFault("wrong type", f"{name}: a list of texts")
    return found


def _answers(texts: Sequence[str]) -> tuple[tuple[Message, ...], ...]:
    return tuple(({"role": "assistant", "content": text},) for text in texts)


def _id(row: dict[str, Any], line: str, *names: str) -> str:
    return next((str(row[name]) for name in (*names, "id") if row.get(name) is not None), line)


def _right_first(row: dict[str, Any], line: str, section: str, right: Sequence[str], wrong: Sequence[str]) -> SuiteRow:
    pairs = tuple((i, len(right) + j) for i in range(len(right)) for j in range(len(wrong)))
    quality = (1.0,) * len(right) + (0.0,) * len(wrong)
    prompt = _messages(_cell(row, "prompt"), "user", "prompt")
    return SuiteRow(_id(row, line), section, prompt, _answers([*right, *wrong]), quality, pairs)


# --- Suites ---


# Test sets of earlier preference data, a file each: conversations, and those of PRIOR_SETS count in the overall score.
PREFERENCE_SETS = {*PRIOR_SETS, "anthropic_harmless", "mtbench_gpt4", "mtbench_human"}


def _rewardbench(row: dict[str, Any], line: str, file: str) -> SuiteRow:
    name = file.partition("-")[0]  # shp-00000-of-00001; a column subset there says what the set is divided into
    subset = name if name in PREFERENCE_SETS else str(_cell(row, "subset"))
    if subset in PREFERENCE_SETS:
        whole = not isinstance(_cell(row, "chosen"), str)  # the prompt is also in both conversations
        return _pairs({**row, "subset": subset, "prompt": None if whole else _cell(row, "prompt")}, line, file)
    chosen, rejected = _texts(row, "chosen"), _texts(row, "rejected")
    if len(chosen) != 1 or len(rejected) != 1:
        raise RowFault("wrong type", "chosen, rejected: one text each; rewardbench2 has lists")
    return _right_first(row, line, subset, chosen, rejected)


def _rewardbench2(row: dict[str, Any], line: str, file: str) -> SuiteRow:
    chosen, rejected = _texts(row, "chosen"), _texts(row, "rejected")
    said = row.get("num_correct")
    if said is not None and int(said) != len(chosen):
        raise RowFault("wrong type", f"num_correct is {int(said)}, and chosen has {len(chosen)} texts")
    section = str(_cell(row, "subset"))
    if section.lower() != "ties" and len(chosen) != 1:
        raise RowFault("wrong type", "chosen: one text, outside the subset Ties")
    return _right_first(row, line, section, chosen, rejected)


def _rm_bench(row: dict[str, Any], line: str, file: str) -> SuiteRow:
    chosen, rejected = _texts(row, "chosen"), _texts(row, "rejected")
    if len(chosen) != 3 or len(rejected) != 3:
        raise RowFault("wrong type", "chosen, rejected: three styles each")
    named = str(row.get("domain") or file)
    domain = next((name for name in ("chat", "math", "code", "safety") if named.startswith(name)), named)
    return _right_first(row, line, domain, chosen, rejected)


def _judgebench(row: dict[str, Any], line: str, file: str) -> SuiteRow:
    label = _cell(row, "label")
    if label not in {"A>B", "B>A"}:
        raise RowFault("wrong type", "label: A>B or B>A")
    texts = [str(_cell(row, "response_A")), str(_cell(row, "response_B"))]
    source = str(row.get("source") or file)
    groups = {"mmlu-pro": "knowledge", "livebench-reasoning": "reasoning", "livebench-math": "math"}
    groups["livecodebench"] = "coding"
    section = next((name for start, name in groups.items() if source.startswith(start)), source)
    right, wrong = texts if label == "A>B" else reversed(texts)
    asked = {"prompt": _cell(row, "question"), "id": row.get("pair_id")}
    return _right_first(asked, line, section, [right], [wrong])


def _ppe(row: dict[str, Any], line: str, file: str) -> SuiteRow:
    texts: list[str] = []
    while row.get(f"response_{len(texts) + 1}") is not None:
        texts.append(str(row[f"response_{len(texts) + 1}"]))
    if len(texts) < 2:
        raise RowFault("missing column", "response_1, response_2, ...")
    prompt, identity = _messages(_cell(row, "prompt"), "user", "prompt"), _id(row, line, "question_id")
    if "winner" in row:  # human preference: one pair, or a tie
        winner = str(_cell(row, "winner"))
        if winner not in {"model_a", "model_b"} and "tie" not in winner:
            raise RowFault("wrong type", "winner: model_a, model_b or a tie")
        better = {"model_a": (0, 1), "model_b": (1, 0)}.get(winner)
        quality = tuple(float(better is not None and better[0] == k) for k in range(2))
        section = str(row.get("language") or "human preference")
        won = () if better is None else (better,)
        return SuiteRow(identity, section, prompt, _answers(texts[:2]), quality, won, tie=better is None)
    scores = [float(score) for score in _cell(row, "scores")]
    if len(scores) != len(texts):
        raise RowFault("wrong type", f"scores: {len(scores)} for {counted(len(texts), 'response')}")
    pairs = tuple(
        (int(i), int(j)) if scores[int(i)] > scores[int(j)] else (int(j), int(i))
        for i, j in _cell(row, "sampled_conflict_pairs")
    )
    benchmark = str(row.get("benchmark") or file)
    return SuiteRow(identity, benchmark, prompt, _answers(texts), tuple(scores), pairs)


def _pairs(row: dict[str, Any], line: str, file: str) -> SuiteRow:
    section = str(row.get("subset") or row.get("source") or file)
    sides = [_messages(_cell(row, name), "assistant", name) for name in ("chosen", "rejected")]
    if row.get("prompt") is not None:
        prompt = _messages(row["prompt"], "user", "prompt")
    else:  # the prompt is what both conversations begin with
        shared = 0
        while shared < min(map(len, sides)) - 1 and sides[0][shared] == sides[1][shared]:
            shared += 1
        prompt, sides = sides[0][:shared], [side[shared:] for side in sides]
    return SuiteRow(_id(row, line), section, prompt, tuple(sides), (1.0, 0.0), ((0, 1),))


def _best_of_n(row: dict[str, Any], line: str, file: str) -> SuiteRow:
    texts, scores = _texts(row, "responses"), [float(score) for score in _cell(row, "scores")]
    if len(texts) != len(scores) or len(texts) < 2:
        raise RowFault(
            "wrong type", f"scores: {len(scores)} for {counted(len(texts), 'response')}; two or more, one score each"
        )
    pairs = tuple((i, j) for i in range(len(texts)) for j in range(len(texts)) if scores[i] > scores[j])
    prompt = _messages(_cell(row, "prompt"), "user", "prompt")
    return SuiteRow(_id(row, line), str(row.get("subset") or file), prompt, _answers(texts), tuple(scores), pairs)


SUITES: dict[Suite, Callable[[dict[str, Any], str, str], SuiteRow]] = {
    "rewardbench": _rewardbench,
    "rewardbench2": _rewardbench2,
    "rm_bench": _rm_bench,
    "judgebench": _judgebench,
    "ppe": _ppe,
    "pairs": _pairs,
    "best_of_n": _best_of_n,
}
# Suites whose rows are the user's own, with the columns that each row has; the others have published shapes.
OWN_ROWS: dict[Suite, tuple[str, ...]] = {
    "pairs": ("prompt", "chosen", "rejected"),
    "best_of_n": ("prompt", "responses", "scores"),
}
