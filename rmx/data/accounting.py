"""Where every row went: kept, rejected for a reason, filtered, or left over. The numbers add up exactly.

    read + split = kept + merged + sum(rejected by reason) + sum(filtered by reason) + unused     per source
    kept + repeated = train + sum(evals)                               comparisons, over the sets of that source

`merged` are rows that joined a comparison of another row (one scored response a row), `split` are the second and
further comparisons of a row (a tree of messages), `repeated` are the second and
further copies of comparisons that a mixture uses for several epochs.

Reasons are a fixed vocabulary (`REASONS`), so that counts can be compared between runs; the detail of one reject
names a column or a turn number, never what the row says.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmx.errors import DataError, OutputError
from rmx.files import write_lines
from rmx.records import Comparison

__all__ = ["REASONS", "REMARKS", "Accounting", "Reject", "RowFault", "SourceAccount", "Splits", "write_rejects"]

REASONS: dict[str, str] = {
    "broken JSON": "the line is not one complete JSON value",
    "repeated key": "one JSON object names a key twice, and which value is meant is not clear",
    "not UTF-8": "the line holds bytes that are no UTF-8 text",
    "lone surrogate": "an escape such as \\ud800 stands for half a character",
    "not an object": "the line is JSON, but no object with named columns",
    "broken table row": "a CSV line has more cells than the header",
    "unreadable file part": "the file breaks off or is damaged from this place on",
    "missing column": "a column that the format needs is absent or null",
    "wrong type": "a value has a type that the format does not know",
    "empty response": "a response has no text",
    "empty turn": "a message of the prompt has no text",
    "identical responses": "the two sides say the same, so there is nothing to learn",
    "prompts differ": "the two sides answer different prompts",
    "unknown role": "a message's role has no meaning here",
    "wrong order": "the turns are not system?, then user/assistant/tool, answered by the assistant",
    "number not usable": "a margin, target, weight, score or rank is not a finite number in its range",
    "no preference": "the row names no winner: a tie, equal scores, or a gap below the limit",
    "unknown winner": "the winner column holds a value that names no side",
    "too few responses": "fewer than two responses",
    "nested too deep": "the JSON nests deeper than any message does",
    "text not read": "a column holds text, messages or media that no part of the comparison says",
}


# What is remarkable about rows that are used all the same.
REMARKS: dict[str, str] = {
    "label against scores": "the other response has the better score; the label counts, and scores make no margin",
    "label between equal scores": "both responses have the same score; the label counts",
    "margin against the votes": "the votes prefer the response that the margin puts behind; the margin is left out",
    "no scores": "no score on one side or both, so that they make no margin and are not compared with min_gap",
    "response without a score": "a response without a rank or score was left out of its comparison",
}


class RowFault(Exception):
    """One row cannot be used. `reason` is a key of `REASONS`; `detail` names a column, never its content."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Reject:
    """One rejected row: its place and the reason."""

    file: str
    line: int
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" + (f" ({self.detail})" if self.detail else "")

    def as_dict(self) -> dict[str, Any]:
        """The row of rejects.jsonl."""
        return {
            "where": f"{self.file}:{self.line}",
            "file": self.file,
            "line": self.line,
            "reason": self.reason,
            "detail": self.detail,
        }


# Uses of a column that are no part of a comparison, and what is said of them.
_GROUPS = {
    "fact": "facts",
    "repeats other columns": "repeat other columns",
    "ignored": "left out by ignore",
    "unused": "not read",
}


@dataclass(slots=True)
class SourceAccount:
    """The row counts of one source."""

    files: list[str] = field(default_factory=list)
    format: str = ""
    detected: str = ""  # one sentence: what was recognised, and by which columns
    read: int = 0  # rows, blank lines not counted
    blank: int = 0
    kept: int = 0  # comparisons
    rejected: Counter[str] = field(default_factory=Counter)
    filtered: Counter[str] = field(default_factory=Counter)  # good rows left out: by `where`, or "no preference"
    unused: int = 0  # good rows beyond max_samples, a cap, or a fraction
    merged: int = 0  # rows that joined another row's comparison
    split: int = 0  # comparisons of a row beyond its first
    remarks: Counter[str] = field(default_factory=Counter)  # key of `REMARKS` → rows
    repeated: int = 0  # copies beyond the first
    train: int = 0
    evals: dict[str, int] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)  # what was chosen unasked: a split, and so files left out
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)  # name → use, rows, share, looks
    message_fields: Counter[str] = field(default_factory=Counter)  # column.field → messages with what is not read
    max_bad_fraction: float | None = None  # share of bad rows that its spec lets pass; None: not one (on_bad_row=error)

    @property
    def bad(self) -> int:
        """Rows rejected, over all reasons."""
        return sum(self.rejected.values())

    @property
    def left_out(self) -> int:
        """Good rows that were not used.

        >>> SourceAccount(read=2, kept=5, split=4, filtered=Counter({"where": 1})).left_out  # one row made 5
        1
        """
        return sum(self.filtered.values()) + self.unused

    def adds_up(self) -> bool:
        """Whether every row read is kept, rejected, filtered or unused, and every kept row stands in one set."""
        rows = self.kept + self.merged + self.bad + self.left_out
        return self.read + self.split == rows and self.kept + self.repeated == self.train + sum(self.evals.values())

    def columns_in_words(self, trivial: bool = False) -> str:
        """What the columns are, in one line; empty when each is called what it is, unless `trivial` asks for it.

        >>> lang = {"use": "unused", "share": 0.5, "looks": "text"}
        >>> SourceAccount(columns={"question": {"use": "prompt"}, "lang": lang}).columns_in_words()
        'prompt = question; not read: lang (text, in 50% of rows)'
        """
        groups: dict[str, list[str]] = {}
        for name, column in self.columns.items():
            use = column["use"]
            if use not in _GROUPS:
                groups.setdefault("", []).append(name if use == name else f"{use} = {name}")
            elif use == "unused":
                groups.setdefault(use, []).append(f"{name} ({column['looks']}, in {column['share']:.0%} of rows)")
            else:
                groups.setdefault(use, []).append(name)
        plain = set(groups) <= {""} and all(name == column["use"] for name, column in self.columns.items())
        if plain and not self.message_fields and not trivial:
            return ""
        words = ["; ".join(groups.get("", []))]
        words += [f"{said}: {', '.join(groups[use])}" for use, said in _GROUPS.items() if use in groups]
        if self.message_fields:
            fields_ = (f"{name} ({count})" for name, count in self.message_fields.most_common(8))
            words.append(f"not read in messages: {', '.join(fields_)}")
        return "; ".join(word for word in words if word)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {
            "files": self.files,
            "format": self.format,
            "detected": self.detected,
            "choices": self.choices,
            "read": self.read,
            "blank_lines": self.blank,
            "kept": self.kept,
            "rejected": dict(sorted(self.rejected.items())),
            "filtered": dict(sorted(self.filtered.items())),
            "unused": self.unused,
            "merged": self.merged,
            "split": self.split,
            "remarks": dict(sorted(self.remarks.items())),
            "repeated": self.repeated,
            "train": self.train,
            "evals": dict(self.evals),
            "columns": self.columns,
            "columns_in_words": self.columns_in_words(),
            "message_fields": dict(self.message_fields.most_common()),
            "adds_up": self.adds_up(),
        }


@dataclass(slots=True)
class Accounting:
    """The row counts of all sources, and the rejected rows one by one."""

    sources: dict[str, SourceAccount] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the reader decided and the user should know

    def adds_up(self) -> bool:
        """Whether every source adds up."""
        return all(account.adds_up() for account in self.sources.values())

    def merge(self, other: Accounting) -> None:
        """Take in the sources of `other`; a source of the same name gets a numbered one."""
        for name, account in other.sources.items():
            unique, number = name, 2
            while unique in self.sources:
                unique, number = f"{name}-{number}", number + 1
            self.sources[unique] = account
        self.rejects.extend(other.rejects)
        self.notes.extend(note for note in other.notes if note not in self.notes)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; the rejected rows themselves are in rejects.jsonl."""
        return {
            "sources": {name: account.as_dict() for name, account in self.sources.items()},
            "rejects": len(self.rejects),
            "notes": list(self.notes),
            "adds_up": self.adds_up(),
        }


@dataclass(slots=True)
class Splits:
    """What a data spec reads: training comparisons, named evaluation sets, and where every row went."""

    train: Sequence[Comparison]
    evals: dict[str, Sequence[Comparison]]
    accounting: Accounting
    overlap_allowed: bool = False  # whether pairs may stand in training and evaluation both

    def __repr__(self) -> str:
        """Sizes only: rows may hold what nobody wants in a log."""
        sizes = ", ".join(f"{name}={len(rows)}" for name, rows in {"train": self.train, **self.evals}.items())
        return f"Splits({sizes})"


def write_rejects(rejects: list[Reject], output_dir: Path | None) -> Path | None:
    """Write rejects.jsonl (place and reason, never content), whole or not at all; None when there is nothing to do.

    Raises:
        OutputError: the folder cannot be written to.
    """
    if output_dir is None or not rejects:
        return None
    path = Path(output_dir) / "rejects.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"output_dir: cannot write {path} ({error.strerror}); choose another output_dir") from error
    return write_lines(path, (json.dumps(reject.as_dict()) for reject in rejects))


def judge(accounting: Accounting, rejects_file: Path | None, key: str = "data") -> None:
    """Raise when a source has bad rows and allows none, or too many, or when it has no good row at all.

    `key` is what stands before the names of keys: `data`, or `--` for the flags of a verb, which has fewer.

    Raises:
        DataError: naming the count, the reasons, the first five places and what to do.
    """
    flags = key == "--"
    if_wrong = "say what the columns are with --columns" if flags else f"give {key}.format or {key}.columns"
    for name, account in accounting.sources.items():
        allowed = (account.max_bad_fraction or 0.0) * account.read
        if account.kept and account.bad <= allowed:
            continue
        rejects = [reject for reject in accounting.rejects if reject.file in account.files]
        reasons = [f"{count} {reason}" for reason, count in account.rejected.most_common()]
        left_out = [f"{count} left out: {reason}" for reason, count in account.filtered.most_common()]
        lines = [f"data {name}: {account.kept} of {account.read} rows can be used: {', '.join(reasons + left_out)}"]
        lines += [f"  {reject}" for reject in rejects[:5]]
        if len(rejects) > 5:
            listed = f"; all are in {rejects_file}" if rejects_file else ""
            lines.append(f"  ... and {len(rejects) - 5} more{listed}")
        if not account.kept:
            lines.append(f"  Read as {account.detected}; if that is wrong, {if_wrong}")
        elif account.max_bad_fraction is None:
            lines.append(f"  Repair the rows, or leave them out with {key}.on_bad_row=skip")
        else:
            limit = (
                f"{account.max_bad_fraction:.0%} of the rows"
                if flags
                else (f"{key}.max_bad_fraction={account.max_bad_fraction:g} allows")
            )
            lines.append(f"  That is more than {limit}; read as {account.detected}: if that is wrong, {if_wrong}")
        raise DataError("\n".join(lines))
