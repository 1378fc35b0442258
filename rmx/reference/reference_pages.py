"""The pages of docs/reference/: the same entries as `rmx explain` shows, as Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rmx.cli.page import GROUPS
from rmx.reference.config_keys import group_entries, key_entries
from rmx.reference.endings import error_entries, exit_code_entries
from rmx.reference.entries import ReferenceEntry
from rmx.reference.kept_files import file_entries
from rmx.reference.metric_names import metric_entries
from rmx.reference.python_names import python_entries
from rmx.reference.shown_numbers import shown_number_entries
from rmx.reference.verbs import verb_entries

__all__ = ["pages"]

_NOT_SHOWN = ("written as", "in", "calls")  # facts that the page says once for all entries
_NOTE = "Written by `make reference` from the code; `rmx explain NAME` shows an entry in the terminal.\n"
_METRICS = """\
`metrics.jsonl` has a line for every log and every evaluation: `train/loss`, `eval/loss`, and `eval_<set>/loss` with
several evaluation sets. The result files (`train_results.json`, ...) have the last of them under the names
`train_loss`, `eval_loss`, `eval_<set>_loss` and `predict_loss`.

r⁺ and r⁻ are the rewards of the chosen and the rejected response, w is the weight of a pair, σ the logistic function.
Means are weighted by w and exact over all pairs, never means of batches. A number that is not defined is absent.
"""
_SHOWN = "What report pages, `audit.json`, `rmx bench`, `rmx score` and `rmx verify` have beside those."
_KEYS = """\
A key is set as `key=value` on the command line, or in a YAML file. What is not taken is refused with the reason before
anything is loaded; nothing is accepted and ignored.
"""


def pages() -> dict[str, str]:
    """Return file name → text, for every page of docs/reference/."""
    keys = key_entries()
    found = {f"keys-{prefix}.md": _key_page(prefix, keys) for prefix in ("run", *GROUPS, "hydra")}
    found |= {
        "metrics.md": _page(
            "Metrics",
            _METRICS,
            _table(metric_entries(), ("formula", "unit", "there if")),
            f"## Shown by pages and verbs\n\n{_SHOWN}",
            _table(shown_number_entries(), ("formula", "unit", "shown by")),
        ),
        "files.md": _page("Files", "", *_by_section(file_entries(), ("there",))),
        "errors.md": _page("Errors", _errors_text(), _table(error_entries(), ("what to do", "exit code", "is a"))),
        "exit-codes.md": _page("Exit codes", "", _table(exit_code_entries(), ("what to do",))),
        "verbs.md": _page("Verbs", "", *(_whole(entry, f"rmx {entry.name}") for entry in verb_entries())),
        "python.md": _page("Python", "", *(_whole(entry, entry.name) for entry in python_entries())),
    }
    return {"README.md": _contents(found), **found}


# --- Pages ------------------------------------------------------------------------------------------------------------


def _key_page(prefix: str, keys: Iterable[ReferenceEntry]) -> str:
    """The options of a group, and its keys: a table for each target."""
    title = "Keys of the run" if prefix == "run" else f"Keys of {prefix}"
    parts = [*_options(prefix)]
    mine = [entry for entry in keys if _prefix(entry) == prefix]
    if not mine:  # experiment: its files set keys of others
        return _page(f"Options of {prefix}", "", *parts)
    taken = [entry for entry in mine if entry.section != "refused"]
    facts = ("takes", "default", "set by options")
    parts += [*_by_section(taken, facts, "Keys" if parts else "")]
    refused = [entry for entry in mine if entry.section == "refused"]
    if refused:
        text = "Arguments of `transformers.TrainingArguments` that rmx refuses, and what to use instead."
        parts.append(f"## Refused\n\n{text}\n\n{_table(refused, ())}")
    return _page(title, _KEYS, *parts)


def _options(group: str) -> Iterator[str]:
    entries = [entry for entry in group_entries() if entry.section == group]
    if entries:
        yield f"## Options\n\n{_table(entries, ('sets', 'chooses'), name='option')}"


def _errors_text() -> str:
    return (
        "The message of an error names the key, or the file and line, what was found and what is allowed. It ends with "
        "`more: rmx explain CLASS`, which shows the entry below.\n"
    )


def _contents(found: dict[str, str]) -> str:
    lines = [f"- [{_title(text)}]({name})" for name, text in found.items()]
    return "\n".join(["# Reference", "", _NOTE, *lines]) + "\n"


def _title(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")


# --- Parts of pages ---------------------------------------------------------------------------------------------------


def _page(title: str, about: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", _NOTE.strip(), *filter(None, [about.strip()]), *parts]).rstrip() + "\n"


def _by_section(entries: list[ReferenceEntry], facts: tuple[str, ...], unnamed: str = "") -> Iterator[str]:
    """A table for each section, in the order in which they come; `unnamed` heads the one without a name."""
    sections = dict.fromkeys(entry.section for entry in entries)
    for section in sections:
        table = _table([entry for entry in entries if entry.section == section], facts)
        yield f"## {section or unnamed}\n\n{table}" if section or unnamed else table


def _table(entries: Iterable[ReferenceEntry], facts: tuple[str, ...], name: str = "") -> str:
    """A row per entry; a fact that no entry has gets no column, and one that few have stands with the meaning."""
    entries = list(entries)
    shown = [label for label in facts if any(entry.fact(label) for entry in entries)]
    columns = [label for label in shown if sum(bool(entry.fact(label)) for entry in entries) * 2 >= len(entries)]
    lines = [_row([name or (entries[0].kind if entries else ""), *columns, "meaning"])]
    lines.append(_row(["---"] * (len(columns) + 2)))
    for entry in entries:
        beside = [fact for fact in entry.facts if fact[0] not in {*columns, *_NOT_SHOWN}]
        remarks = "".join(f"<br>*{label}:* {_cell(text)}" for label, text in beside)
        cells = [f"`{entry.name}`", *(_cell(entry.fact(label)) for label in columns), _cell(entry.meaning) + remarks]
        lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """A text as a table can hold it: bars, tags and signs of Markdown stand for themselves.

    >>> print(_cell("[a | b] <set> 2*x a_b _c_ `d | e`"))
    [a \\| b] &lt;set> 2\\*x a_b \\_c\\_ `d \\| e`
    """
    parts = re.split(r"(`[^`]*`)", text)
    plain = [re.sub(r"([*~]|(?<!\w)_|_(?!\w))", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    code = [*parts[1::2], ""]
    return "".join(a + b for a, b in zip(plain, code, strict=True)).replace("|", "\\|")


def _whole(entry: ReferenceEntry, title: str) -> str:
    """An entry with its long text."""
    facts = "".join(f"{label}: `{text}`\n\n" for label, text in entry.facts)
    text = entry.more() if entry.more is not None else ""
    return f"## {title}\n\n{entry.meaning}\n\n{facts}```text\n{text}\n```"


def _prefix(entry: ReferenceEntry) -> str:
    """The page of a key: `run` for those of the root, `hydra` for all of Hydra's.

    >>> _prefix(ReferenceEntry("key", "seed", "")), _prefix(ReferenceEntry("key", "hydra.sweeper.seed", ""))
    ('run', 'hydra')
    """
    return entry.name.partition(".")[0] if "." in entry.name else "run"
