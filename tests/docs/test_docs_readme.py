"""README.md: its commands are composed, its links and pictures exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs_pages import ROOT, rmx_words

from rmx.cli import VERBS
from rmx.cli.flags import parse
from rmx.config.composing import Composer

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in README.splitlines() if re.match(r"    rmx\b", line)]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_composed(command: str) -> None:
    words = rmx_words(command)
    assert words is not None
    if words and words[0] in VERBS:
        return  # verbs have their own keys, and their tests
    arguments, composer = parse(words), Composer()
    for overrides in composer.single_runs(arguments.overrides) if arguments.multirun else [arguments.overrides]:
        assert [str(mistake) for mistake in composer.checked(overrides)[1]] == []


def test_it_has_commands_and_all_that_it_links_to() -> None:
    links = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README)
    assert len(COMMANDS) >= 5
    assert len(links) >= 15
    assert [link for pair in links for link in pair if link and not (ROOT / link).exists()] == []


def test_every_picture_has_a_text_that_stands_for_it() -> None:
    pictures = re.findall(r"<img [^>]*>", README)
    assert len(pictures) == 5
    assert all(re.search(r'alt="[^"]{40,}"', picture) for picture in pictures)


def test_the_pictures_of_runs_hold_no_paths_of_a_machine() -> None:
    svg = (ROOT / "docs/pictures/readme/terminal.svg").read_text(encoding="utf-8")
    assert "accuracy" in svg and "rmx" in svg
    assert "outputs/first" in svg
    assert not re.search(r">[^<]*/(?:home|root|work|tmp|Users)/", svg)
    assert "http" not in svg.replace("http://www.w3.org", "").replace("https://www.textualize.io", "")


def test_readme_fits_in_ten_minutes() -> None:
    """A page, not a manual: what is longer belongs into docs/."""
    assert len(Path(ROOT / "README.md").read_text(encoding="utf-8").split()) < 1500
