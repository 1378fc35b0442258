"""docs/coming_from/*.md, from the tables: what a key of another program is called in rmx."""

from __future__ import annotations

from pathlib import Path

from rmx.files import write_text
from rmx.importing.peer_tables import PEERS, UNSAID, Entry, PeerTable, peer_table

__all__ = ["page_of", "write_pages"]


def page_of(table: PeerTable) -> str:
    """Return the page of one program as Markdown.

    >>> page_of(peer_table("trl")).splitlines()[0]
    '# Coming from TRL'
    """
    lines = [
        f"# Coming from {table.title}",
        "",
        "<!-- Written by `make coming-from` from rmx/importing/; change the tables there. -->",
        "",
        f"What a command of {table.title} is called in rmx, key by key.",
        "",
        f"    {table.start}",
        "",
        "prints the rmx command that means the same, and below it every key without a counterpart and every key whose",
        f"meaning differs. The keys are those of {table.title} {table.version} ({table.source}); what is",
        "none of them is named, too. What the program does unless told otherwise is in the command where rmx would",
        "do something else.",
        "",
        "## Whatever the keys",
        "",
        *(f"- {note}" for note in table.notes),
    ]
    for section in dict.fromkeys(entry.section for entry in table.entries.values()):
        lines += ["", f"## {section}", "", f"| {table.title} | rmx | |", "|---|---|---|"]
        lines += [_row(entry) for entry in table.entries.values() if entry.section == section]
    if table.aliases:
        lines += ["", "## Older names", "", "| then | now |", "|---|---|"]
        lines += [f"| `{old}` | `{new}` |" for old, new in table.aliases.items()]
    return "\n".join(lines) + "\n"


def _row(entry: Entry) -> str:
    if entry.rule is not None:
        ours, note = entry.means or "", entry.differs or ""
    elif entry.idle is not None:
        ours, note = "nothing to do", entry.idle
    elif entry.to is not None:
        ours, note = f"`{entry.to}`", entry.differs or entry.none or ""
    else:
        ours, note = "none", entry.none or ""
    if entry.values and any(str(theirs) != str(mine) for theirs, mine in entry.values.items()):
        pairs = (f"{theirs} is {'so anyway' if mine is None else _yaml(mine)}" for theirs, mine in entry.values.items())
        note = "; ".join([*pairs, note] if note else pairs)
        ours = "so anyway" if entry.to is None else ours
    if entry.default is not UNSAID and entry.to is not None:
        note = f"default {_yaml(entry.default)}" + (f"; {note}" if note else "")
    return f"| `{entry.name}` | {ours} | {note} |".replace("  |", " |")


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def write_pages(folder: Path) -> None:
    """Write the page of each program into a folder.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in PEERS:
        write_text(folder / f"{name}.md", page_of(peer_table(name)))
