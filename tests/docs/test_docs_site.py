"""The site, built strict: every page is in its menu, and a reader's browser fetches nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_pages import DOCS, ROOT, pages

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (pip install 'rmx[docs]')")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built_and_in_the_menu(site: Path) -> None:
    front = (site / "index.html").read_text(encoding="utf-8")
    menu = set(re.findall(r'<a href="([^"]+)" class="md-nav__link', front))
    names = [page.relative_to(DOCS).with_suffix(".html").as_posix() for page in pages()]
    assert [name for name in names if not (site / name).is_file()] == []
    assert [name for name in names if name not in menu and name != "index.html"] == []


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Scripts, styles, fonts and pictures are the site's own; links to read elsewhere are fine."""
    fetched = []
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched += re.findall(r'<(?:script|img|iframe|source)[^>]+src="(https?:[^"]+)"', text)
        fetched += re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect|preload|icon)"[^>]+href="(https?:[^"]+)"', text)
    for style in site.rglob("*.css"):
        fetched += re.findall(r"url\((https?:[^)]+)\)", style.read_text(encoding="utf-8"))
    assert fetched == []


def test_examples_in_docstrings_are_shown_as_code(site: Path) -> None:
    """`>>>` outside of a fence would be three quotations, one inside the other."""
    text = (site / "api.html").read_text(encoding="utf-8")
    assert "<blockquote>" not in text
    assert text.count("&gt;&gt;&gt;") >= 10
