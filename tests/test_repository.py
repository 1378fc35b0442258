"""Files beside the code: what they say is so."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml

import rmx

ROOT = Path(__file__).resolve().parents[1]
PROSE = ["AGENTS.md", "RELEASING.md", "CONTRIBUTING.md", "README.md"]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def test_the_version_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {project["version"], citation["version"]} == {rmx.__version__}
    assert citation["license"] == project["license"]


def test_llms_txt_lists_the_pages_as_they_are() -> None:
    """`make llms` has been run."""
    made = runpy.run_path(str(ROOT / "docs/_hooks/llms.py"))["listing"]()
    text = (ROOT / "docs/llms.txt").read_text(encoding="utf-8")
    assert text == made
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert sorted(links) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("name", PROSE)
def test_make_targets_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = {
        word for words in re.findall(r"\bmake ((?:[a-z-]+ ?)+)`|^    make ([a-z-]+)", text, re.M) for word in words
    }
    named = {word for words in named for word in words.split()}
    assert named
    assert named - targets() == set()


@pytest.mark.parametrize("name", PROSE)
def test_paths_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:rmx|tests|docs|conf|benchmarks|hydra_plugins)/[\w./-]*[\w/]", text))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_issue_forms_are_what_the_site_takes(name: str) -> None:
    """A form has a name, a description and a body of elements with an id and a label each."""
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / name).read_text(encoding="utf-8"))
    assert form["name"] and form["description"]
    ids = [item["id"] for item in form["body"]]
    assert len(ids) == len(set(ids))
    for item in form["body"]:
        assert item["type"] in {"textarea", "input", "dropdown", "checkboxes"}
        assert item["attributes"]["label"]
        assert all(isinstance(option, str) for option in item["attributes"].get("options", []))
