"""Links, anchors and pictures of docs/, without mkdocs: what a page points to is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from docs_pages import DOCS, ROOT, pages

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
_SOURCE = re.compile(r"<img [^>]*src=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} (.+?)(?: \{#([\w-]+)\})?$")
_CODE = re.compile(r"^ *(`{3,})[^`]*$.*?^ *\1$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its code blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", _CODE.sub("", page.read_text(encoding="utf-8")))


@cache
def anchors(page: Path) -> set[str]:
    """The ids of a page's headings, as Python-Markdown makes them."""
    found: list[str] = []
    for line in _CODE.sub("", page.read_text(encoding="utf-8")).splitlines():
        heading = _HEADING.match(line)
        if heading:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            ascii_text = text.encode("ascii", "ignore").decode()
            slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_text).strip().lower())
            slug = heading[2] or slug
            found.append(slug if slug not in found else f"{slug}_{found.count(slug)}")
    return {*found, *re.findall(r'id="([^"]+)"', page.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    text = prose(page)
    for target in [*_LINK.findall(text), *_SOURCE.findall(text)]:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.is_file() or not file.is_relative_to(DOCS):
            broken.append(f"{target}: there is no such file below docs/")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            broken.append(f"{target}: no heading; {file.name} has {', '.join(sorted(anchors(file)))}")
    assert broken == [], f"{page.relative_to(ROOT)}\n" + "\n".join(broken)


def test_every_picture_is_shown_and_has_its_script() -> None:
    """No orphans: each picture stands on a page, and a function of docs/pictures/draw.py draws it."""
    shown = "".join(page.read_text(encoding="utf-8") for page in pages())
    drawn = (DOCS / "pictures" / "draw.py").read_text(encoding="utf-8")
    pictures = sorted((DOCS / "pictures").glob("*.svg"))
    assert len(pictures) >= 5
    assert [picture.name for picture in pictures if picture.name not in shown] == []
    assert [picture.name for picture in pictures if f"def {picture.stem}()" not in drawn] == []


def test_every_page_has_one_title_and_pictures_have_words() -> None:
    wrong = []
    for page in pages():
        lines = _CODE.sub("", page.read_text(encoding="utf-8")).splitlines()
        titles = [line for line in lines if line.startswith("# ")]
        if len(titles) != 1:
            wrong.append(f"{page.relative_to(ROOT)}: {len(titles)} titles")
        wrong += [f"{page.relative_to(ROOT)}: a picture without words" for line in lines if "![](" in line]
    assert wrong == []
