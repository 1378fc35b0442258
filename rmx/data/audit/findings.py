"""`audit`: what is in the data and what is wrong with it, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rmx.data.accounting import REMARKS, Splits
from rmx.data.audit import checks
from rmx.data.audit.lengths import character_lengths, token_lengths
from rmx.data.spool import Spool
from rmx.errors import DataError, counted
from rmx.records import Comparison, EncodedComparison

__all__ = ["Audit", "Finding", "audit"]

_FEW = 100  # training comparisons below which no reward model is learned
_PART_OF_SPOOL = 100_000  # rows of a set larger than memory that content is looked for in
_BIASED = 0.6  # accuracy of the length-only rule that is worth a warning


class Report(Protocol):
    """What the audit takes over from tokenising one set; see `rmx.tokens.TruncationReport`."""

    def to_dict(self) -> dict[str, Any]:
        """Counts of kept, truncated and dropped comparisons."""

    def summary(self) -> str:
        """One line for the screen."""

    def findings(self) -> Iterable[tuple[Literal["warning", "note"], str]]:
        """Level and text of what the user should know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the user should know."""

    level: Literal["error", "warning", "note"]
    text: str


@dataclass(slots=True)
class Audit:
    """The numbers of an audit, and what follows from them.

    `numbers` is plain data for audit.json: `rows` (accounting by source), `sets` (sizes and kinds of supervision),
    `repeats`, `overlap`, `roles`, `control_tokens`, `characters` and, after tokenising, `tokens` (lengths, who is
    longer, histograms, shared prefix) and `truncation`.
    """

    numbers: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    overlap_allowed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The content of audit.json."""
        return {**self.numbers, "findings": [{"level": f.level, "text": f.text} for f in self.findings]}

    def require_no_leak(self) -> None:
        """Stop when a pair stands in training and evaluation both.

        Raises:
            DataError: names the set, the count, the first places, and what to do.
        """
        if self.overlap_allowed:
            return
        for name, found in self.numbers["overlap"].items():
            if found["with_pair_in_train"]:
                places = "\n".join(f"  {place}" for place in found["examples"])
                raise DataError(
                    f"data: {found['with_pair_in_train']} of {found['comparisons']} comparisons of evaluation set "
                    f"{name!r} stand in the training rows too; its accuracy would mean nothing:\n{places}\n"
                    "  data.on_overlap=drop_train leaves them out of training, allow only reports them"
                )

    def summary(self) -> str:
        """The audit in under a page."""
        return "\n".join(_lines(self))


def audit(
    splits: Splits,
    encoded: Mapping[str, Sequence[EncodedComparison]] | None = None,
    *,
    reports: Mapping[str, Report] | None = None,
) -> Audit:
    """Look at all rows of all sets.

    Args:
        splits: what a data spec has read.
        encoded: the same sets as token ids, where there are any; adds statistics in tokens.
        reports: what tokenising did to each set.

    >>> from rmx.data import SyntheticData
    >>> found = audit(SyntheticData(size=200).read())
    >>> found.numbers["overlap"]["eval"]["with_prompt_in_train"]
    0
    """
    sets = {name: _looked_at(members) for name, members in {"train": splits.train, **splits.evals}.items()}
    rows = [row for members in sets.values() for row in members]
    numbers: dict[str, Any] = {
        "rows": splits.accounting.as_dict(),
        "looked_at": {name: len(members) for name, members in sets.items()},
        "sets": {name: checks.shape(members) for name, members in sets.items()},
        "repeats": checks.repeats(sets),
        "overlap": checks.overlap(splits.train, splits.evals),
        "roles": checks.roles(rows),
        "control_tokens": checks.control_tokens(rows),
        "characters": character_lengths(sets),
    }
    if encoded is not None:
        numbers["tokens"] = token_lengths(encoded)
    if reports:
        numbers["truncation"] = {name: report.to_dict() for name, report in reports.items()}
    findings = list(_findings(numbers, splits))
    for name, report in (reports or {}).items():
        findings += [Finding(level, f"{name}: {text}") for level, text in report.findings()]
    return Audit(numbers, findings, splits.overlap_allowed)


def _looked_at(rows: Sequence[Comparison]) -> Sequence[Comparison]:
    """The rows, or of a set on disk an evenly spaced part; overlap and accounting are of all rows in any case."""
    if not isinstance(rows, Spool) or len(rows) <= _PART_OF_SPOOL:
        return rows
    return list(rows.take(i * len(rows) // _PART_OF_SPOOL for i in range(_PART_OF_SPOOL)))


def _findings(numbers: Mapping[str, Any], splits: Splits) -> Iterator[Finding]:
    for name, found in numbers["overlap"].items():
        if found["with_pair_in_train"]:
            text = f"{found['with_pair_in_train']} of {found['comparisons']} comparisons stand in the training rows too"
            yield Finding("warning" if splits.overlap_allowed else "error", f"{name}: {text}")
        elif found["with_prompt_in_train_normalised"]:
            text = f"{found['with_prompt_in_train_normalised']} of {found['comparisons']} prompts stand in training too"
            yield Finding("warning", f"{name}: {text}")
    for name, account in numbers["rows"]["sources"].items():
        for remark, count in account["remarks"].items():
            level: Literal["warning", "note"] = "warning" if " against " in remark else "note"
            yield Finding(level, f"{name}: {counted(count, 'row')} with {remark}: {REMARKS[remark]}")
    repeats, roles = numbers["repeats"], numbers["roles"]
    pairs = sum(found["pairs"] for found in numbers["sets"].values())
    if repeats["contradictions"]:
        place, other = repeats["contradiction_examples"][0]
        told = counted(repeats["contradictions"], "pair is", "pairs are")
        text = f"{told} preferred both ways round, first {place} against {other}"
        yield Finding("warning", text)
    if repeats["identical_pairs"]:
        place, other = repeats["identical_examples"][0]
        share = repeats["identical_pairs"] / max(pairs, 1)
        told = counted(repeats["identical_pairs"], "pair repeats", "pairs repeat")
        text = f"{told} another one ({share:.1%}), first {place} = {other}"
        yield Finding("warning" if share > 0.01 else "note", text)
    for name, count in numbers["looked_at"].items():
        size = len(splits.train if name == "train" else splits.evals[name])
        if count < size:
            yield Finding("note", f"{name}: numbers of content are of {count} of its {size} comparisons")
    if 0 < len(splits.train) < _FEW:
        yield Finding("warning", f"only {len(splits.train)} training comparisons")
    if roles.get("repeated_roles"):
        text = (
            f"{counted(roles['repeated_roles'], 'comparison has', 'comparisons have')} two turns of one role in a row; "
        )
        yield Finding("note", text + "templates that demand alternation need data.repeated_roles=merge")
    if roles.get("no_prompt"):
        yield Finding(
            "note",
            f"{counted(roles['no_prompt'], 'comparison has', 'comparisons have')} no prompt: whole texts are compared",
        )
    if roles.get("assistant_first"):
        yield Finding("note", f"{roles['assistant_first']} conversations begin with the assistant")
    control = numbers["control_tokens"]
    if control["comparisons"]:
        kinds = ", ".join(list(control["tokens"])[:5])
        spelt = counted(control["comparisons"], "comparison spells", "comparisons spell")
        yield Finding(
            "note",
            f"{spelt} control tokens ({kinds}); they stay letters",
        )
    lengths = numbers["characters"]
    for name, found in lengths["sets"].items():
        if name != "train" and found.get("length_only_accuracy_low", 0.0) > _BIASED:
            text = (
                f"{name}: {lengths['rule']} is right in {found['length_only_accuracy']:.1%} of pairs: length is a clue"
            )
            yield Finding("warning", text)


def _lines(found: Audit) -> Iterator[str]:
    numbers = found.numbers
    for name, account in numbers["rows"]["sources"].items():
        parts = [f"{counted(account['read'], 'row')} read", f"{account['kept']} kept"]
        for key in ("rejected", "filtered"):
            if account[key]:
                reasons = ", ".join(f"{count} {reason}" for reason, count in account[key].items())
                parts.append(f"{sum(account[key].values())} {key} ({reasons})")
        parts += [f"{account[key]} {key}" for key in ("merged", "split", "unused", "repeated") if account[key]]
        yield f"{name}: {', '.join(parts)}; {account['detected']}"
        if account.get("columns_in_words"):
            yield f"{name}: columns: {account['columns_in_words']}"
    yield ""
    lengths, characters = numbers.get("tokens", numbers["characters"]), numbers["characters"]
    unit = lengths["unit"]
    head = ("set", "comparisons", "pairs", "prompts", f"median {unit}", "95 %", "shared", "longer wins", "length only")
    yield _row(head)
    for name, sizes in numbers["sets"].items():
        stats = lengths["sets"].get(name)
        if stats is None:
            continue
        cells = [name, str(sizes["comparisons"]), str(sizes["pairs"]), str(sizes["prompts"])]
        cells += [f"{stats['sequence']['p50']:.0f}", f"{stats['sequence']['p95']:.0f}"]
        cells.append(f"{stats['shared_prefix_share']:.0%}")
        whole = characters["sets"][name]  # of whole texts, whatever is truncated later
        if "pairs" in whole:
            low, high = whole["length_only_accuracy_low"], whole["length_only_accuracy_high"]
            cells.append(f"{whole['longer_preferred']:.1%}")
            cells.append(f"{whole['length_only_accuracy']:.1%} ({low:.1%}–{high:.1%})")
        yield _row(cells)
    for name, report in numbers.get("truncation", {}).items():
        yield f"{name}: {report['kept']} of {report['read']} comparisons kept, {report['truncated']} truncated to " + (
            f"{report['max_tokens']} tokens, {report['dropped']} dropped (longest {report['longest']}), "
            f"{report['all_equal']} left out whose sides are the same tokens"
        )
    if found.findings:
        yield ""
    for finding in found.findings:
        yield f"{finding.level}: {finding.text}"


def _row(cells: Sequence[str]) -> str:
    widths = (12, 11, 7, 7, 18, 7, 6, 11, 0)
    first, *rest = cells
    return "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=False))]).rstrip()
