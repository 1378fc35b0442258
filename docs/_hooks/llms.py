"""Writes docs/llms.txt: every page of the documentation with its title and first sentence, for language models.

The format is that of llmstxt.org: a heading, a summary, and lists of links by section.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
SECTIONS = {"": "Start", "start": "Start", "concepts": "Concepts", "guides": "Guides", "coming_from": "Coming from"}
HEAD = """# rmx

> Train, evaluate and use reward models: a language model with one scalar head, learned from preference pairs. A
> command is a Hydra configuration (`rmx model=llama3 data=hh_rlhf peft=lora`); a key is an argument of a Python call.

`rmx --help` lists every group, option and key; `rmx ... --cfg job` prints the configuration of a command without
running it. AGENTS.md in the repository says how to work on the code.
"""


def title_and_summary(text: str) -> tuple[str, str]:
    """Return a page's heading and its first sentences of prose, 60 characters at least.

    >>> title_and_summary("# A page\\n\\n<!-- note -->\\n\\n    code\\n\\nIt is *short*. More.\\n")
    ('A page', 'It is *short*. More.')
    """
    lines = text.splitlines()
    title = next(line[2:].strip() for line in lines if line.startswith("# "))
    body = re.sub(r"<!--.*?-->|^```.*?^```", "", text, flags=re.S | re.M)
    paragraphs = [part for part in re.split(r"\n\s*\n", body) if part.strip()]
    prose = (part for part in paragraphs if not re.match(r"[#|>!]|    |- |\d+\. ", part.lstrip("\n")))
    first = " ".join(next(prose, "").split())
    first = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", first).rstrip(":")
    sentence = re.match(r".{60,}?[.?!](?= |$)", first)
    return title, sentence[0] if sentence else first


def listing() -> str:
    """Return the whole file."""
    found: dict[str, list[str]] = {}
    for page in sorted(DOCS.rglob("*.md"), key=lambda path: (path.parent != DOCS, path.as_posix())):
        place = page.relative_to(DOCS)
        title, summary = title_and_summary(page.read_text(encoding="utf-8"))
        folder = place.parts[0] if len(place.parts) > 1 else ""
        section = SECTIONS.get(folder, folder.replace("_", " ").capitalize())
        section = "Reference" if folder == "" and place.stem != "index" else section
        found.setdefault(section, []).append(f"- [{title}]({place.as_posix()}){': ' + summary if summary else ''}")
    order = ["Start", "Concepts", "Guides", "Coming from"]
    sections = sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))
    return HEAD + "".join(f"\n## {name}\n\n" + "\n".join(found[name]) + "\n" for name in sections)


if __name__ == "__main__":
    (DOCS / "llms.txt").write_text(listing(), encoding="utf-8")
