"""audit.json on the page: what was read and left out, what is suspicious, how long the texts are.

The file is written by `rmx.data`; parts that an older or newer version does not have are left out, not an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rmx.plots import Picture
from rmx.plots.style import BLUE, VERMILION, figure, legend
from rmx.report.facts import flat
from rmx.report.render import interval, percent, shown_number

__all__ = ["AuditFacts", "audit_facts"]

COUNTS = ("read", "kept", "merged", "repeated", "unused", "train")  # of a source, in the order of the table
TRUNCATION = ("read", "kept", "truncated", "dropped", "max_tokens", "longest", "refused", "all_equal")
CHECKS = ("repeats", "overlap", "roles", "control_tokens")  # shown in full behind a click


@dataclass(frozen=True)
class AuditFacts:
    """The parts of the section; each may be empty."""

    findings: list[tuple[str, str]]  # level, text
    sources: list[tuple[str, list[str], str]]  # name, cells of COUNTS, reasons for what is missing
    columns: list[tuple[str, str, str, str, str]]  # source, column, use, share of rows, what it looks like
    sets: list[tuple[str, list[str]]]  # name, cells
    truncation: list[tuple[str, list[str]]]
    unit: str
    rule: str
    checks: list[tuple[str, Any]]
    figures: list[Markup]


def audit_facts(content: Mapping[str, Any]) -> AuditFacts:
    """Read what audit.json holds.

    >>> found = audit_facts({"findings": [{"level": "note", "text": "few rows"}], "repeats": {"identical_pairs": 2}})
    >>> found.findings, found.checks
    ([('note', 'few rows')], [('repeats › identical_pairs', 2)])
    """
    findings = content.get("findings")
    lengths = _part(content, "tokens") or _part(content, "characters")
    known = {"rows", "sets", "tokens", "characters", "truncation", "findings"}
    # A file of another shape is shown as it is.
    rest = {key: value for key, value in content.items() if key in CHECKS or key not in known}
    return AuditFacts(
        findings=[
            (str(item.get("level", "note")), str(item.get("text", "")))
            for item in (findings if isinstance(findings, list) else [])
            if isinstance(item, Mapping)
        ],
        sources=[_source(name, account) for name, account in _parts(content, "rows", "sources")],
        columns=[row for name, account in _parts(content, "rows", "sources") for row in _columns(name, account)],
        sets=[_set(name, sizes, _part(lengths, "sets", name)) for name, sizes in _parts(content, "sets")],
        truncation=[
            (
                name,
                [
                    *(shown_number(report.get(key)) for key in TRUNCATION),
                    shown_number(sum(_part(report, "equal_pairs").values())) if "equal_pairs" in report else "–",
                    ", ".join(f"{field} of {count}" for field, count in _part(report, "unprinted").items()) or "–",
                ],
            )
            for name, report in _parts(content, "truncation")
        ],
        unit=str(lengths.get("unit", "characters")),
        rule=str(lengths.get("rule", "")),
        checks=[(key, value) for key, value in flat(rest) if value not in ("", None)],
        figures=[Markup(picture.inline(words)) for picture, words in _histograms(lengths)],
    )


def _source(name: str, account: Mapping[str, Any]) -> tuple[str, list[str], str]:
    reasons = [
        f"{shown_number(count)} {key}: {reason}"
        for key in ("rejected", "filtered")
        for reason, count in _part(account, key).items()
    ]
    if account.get("adds_up") is False:
        reasons.append("the counts do not add up: this is a bug")
    return name, [shown_number(account.get(key)) for key in COUNTS], "; ".join(reasons) or "nothing left out"


def _columns(source: str, account: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """The columns of a source, and what its messages hold besides."""
    for name, column in _parts(account, "columns"):
        use, looks = str(column.get("use", "")), str(column.get("looks", ""))
        yield source, name, "not read" if use == "unused" else use, percent(column.get("share"), 0), looks
    for name, count in _part(account, "message_fields").items():
        yield source, str(name), "not read", "–", f"field of {shown_number(count)} messages"


def _set(name: str, sizes: Mapping[str, Any], lengths: Mapping[str, Any]) -> tuple[str, list[str]]:
    sequence = _part(lengths, "sequence")
    cells = [shown_number(sizes.get(key)) for key in ("comparisons", "pairs", "prompts", "ties")]
    cells += [shown_number(sequence.get(key)) for key in ("p50", "p95", "max")]
    cells += [percent(lengths.get("shared_prefix_share"), 0), percent(lengths.get("longer_preferred"))]
    rule = lengths.get("length_only_accuracy")
    ends = interval(lengths.get("length_only_accuracy_low"), lengths.get("length_only_accuracy_high"))
    return name, [*cells, f"{percent(rule)} ({ends})" if rule is not None else "–"]


def _histograms(lengths: Mapping[str, Any]) -> list[tuple[Picture, str]]:
    """Response lengths of each set, preferred against other; the bins double every two steps."""
    unit = str(lengths.get("unit", "characters"))
    found = []
    for name, stats in _parts(lengths, "sets"):
        table = _part(stats, "histogram")
        edges, preferred, other = (table.get(key) or [] for key in ("edges", "preferred", "other"))
        if not preferred or len(edges) != len(preferred) + 1 or len(other) != len(preferred):
            continue
        drawn, (axes,) = figure(f"Length of responses: {name}", f"{unit} beyond what both sides share", "responses")
        for counts, label, color, dashes in (
            (preferred, "preferred", BLUE, "-"),
            (other, "other", VERMILION, (0, (5, 2))),
        ):
            axes.stairs(counts, range(len(edges)), fill=True, color=color, alpha=0.25)
            axes.stairs(counts, range(len(edges)), color=color, linewidth=1.8, linestyle=dashes, label=label)
        ticks = range(0, len(edges), max(1, len(edges) // 8))
        axes.set_xticks(ticks, [f"{edges[tick]:g}" for tick in ticks])
        legend(axes, loc="best")
        median = _part(stats, "response").get("p50")
        words = f"Histogram of response lengths in {unit}, set {name}: median {shown_number(median)}."
        found.append((Picture(f"lengths_{name}", drawn), words))
    return found


def _part(value: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The object under a path of keys; empty where there is none."""
    found: Any = value
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _parts(value: Mapping[str, Any], *keys: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The named objects under a path of keys."""
    return [(str(name), item) for name, item in _part(value, *keys).items() if isinstance(item, Mapping)]
