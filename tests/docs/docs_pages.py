"""Pages of docs/ as code: their fenced blocks, the files they name, the commands in them and what those printed.

    ```json title="pairs.jsonl"     a file: it is written before the rest of the page runs
    ```python                       runs, in one namespace per page (`>>>` as a doctest)
    ```bash                         commands; every `rmx ...` is composed and checked
    ```console                      `$ command` and what it printed; `make docs-test` runs it and compares

A comment above a block changes what is done with it:

    <!-- numbers vary -->           words are compared, numbers are not
    <!-- only shown -->             it is not run (it needs a download, a GPU or a network)

In an output, a line `...` stands for any lines, and `...` inside a line for any text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`]*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_MARK = re.compile(r"^\s*<!-- (numbers vary|only shown) -->\s*$")


@dataclass(frozen=True)
class Step:
    """A command of a console block and the lines it printed."""

    command: str
    output: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    line: int  # of its first line of content
    language: str
    title: str | None
    mark: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @cached_property
    def steps(self) -> list[Step]:
        """The commands of a bash or console block, continued lines joined."""
        steps: list[Step] = []
        joined = self.text.replace("\\\n", " ")
        for line in joined.splitlines():
            if self.language == "console" and line.startswith("$ "):
                steps.append(Step(line[2:].strip()))
            elif self.language == "console" and steps:
                steps[-1].output.append(line)
            elif self.language == "bash" and line.strip() and not line.startswith("#"):
                steps.append(Step(line.strip()))
        return steps

    @property
    def is_run(self) -> bool:
        """Whether `make docs-test` runs its commands."""
        return self.language == "console" and self.mark != "only shown" and any(step.output for step in self.steps)


def pages() -> list[Path]:
    """Every page, in alphabetical order."""
    return sorted(DOCS.rglob("*.md"))


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    opening: re.Match[str] | None = None
    start, held, mark = 0, [], None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opening is None and fence:
            opening, start, held = fence, number + 1, []
        elif opening is not None and fence and fence["ticks"] == opening["ticks"] and not fence["info"].strip():
            info = opening["info"].strip()
            title = _TITLE.search(info)
            language = info.split()[0] if info else ""
            yield Block(page, start, language, title and title[1], mark, dedent("\n".join(held)) + "\n")
            opening, mark = None, None
        elif opening is not None:
            held.append(line)
        elif found := _MARK.match(line):
            mark = found[1]
        elif line.strip():
            mark = None
    assert opening is None, f"{page}: a block that begins on line {start - 1} is never closed"


def rmx_words(command: str) -> list[str] | None:
    """The words behind `rmx` in a shell command, or None: pipes, redirections and assignments are left away.

    >>> rmx_words("HF_HUB_OFFLINE=1 rmx data.size=100 | tail -3")
    ['data.size=100']
    >>> rmx_words("torchrun --nproc-per-node=8 -m rmx parallel=fsdp  # two of them")
    ['parallel=fsdp']
    >>> rmx_words("make install") is None
    True
    """
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words and words[0] == "rmx":
        words = words[1:]
    elif "-m" in words[:-1] and words[words.index("-m") + 1] == "rmx":
        words = words[words.index("-m") + 2 :]
    else:
        return None
    ends = [place for place, word in enumerate(words) if re.fullmatch(r"[|;&<>]+|\d?>+.*|<.*", word)]
    return words[: ends[0]] if ends else words


def matches(shown: list[str], printed: list[str], numbers_vary: bool) -> str | None:
    """None where what a page shows is what was printed; otherwise the first shown line that was not.

    Runs of blanks and box lines count as one blank, so that a table may be as wide as its numbers.

    >>> matches(["a 1", "...", "d"], ["a  1", "b", "c", "d"], numbers_vary=False)
    >>> matches(["a 1"], ["a 2"], numbers_vary=False)
    'a 1'
    >>> matches(["a 1", "b"], ["a 27.5", "b"], numbers_vary=True)
    """
    shown = [line for line in shown if _plain(line).strip()]
    lines = [" ".join(_plain(line).split()) for line in printed if _plain(line).strip()]
    place, free = 0, False
    for text in shown:
        pattern = _pattern(text, numbers_vary)
        if text.strip() == "...":
            free = True
            continue
        found = next((i for i in range(place, len(lines) if free else place + 1) if _hit(pattern, lines, i)), None)
        if found is None:
            return text
        place, free = found + 1, False
    return None if free or place == len(lines) else f"(the page ends, but this was printed) {lines[place]}"


def _hit(pattern: re.Pattern[str], lines: list[str], place: int) -> bool:
    return place < len(lines) and pattern.fullmatch(lines[place]) is not None


def _plain(line: str) -> str:
    return re.sub(r"[─│╭╮╰╯]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", line))


def _pattern(line: str, numbers_vary: bool) -> re.Pattern[str]:
    escaped = re.escape(" ".join(_plain(line).split())).replace(r"\.\.\.", ".*")
    if numbers_vary:
        escaped = re.sub(
            r"(?:\\?[+-])?\d[\d,]*(?:\\\.\d+)?(?:e\\?[+-]?\d+)?", r"[+-]?[\\d,.:]+(?:e[+-]?\\d+)?", escaped
        )
    return re.compile(escaped)
