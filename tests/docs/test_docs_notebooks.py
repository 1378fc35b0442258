"""The notebooks run from top to bottom: offline, in an empty folder."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

import pytest
from docs_pages import ROOT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter, about itself
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, assertions included; a cell that raises fails the test with its message."""
    for name in ("PYTHONPATH", "HF_HUB_OFFLINE", "IPYTHONDIR", "COLUMNS"):  # what execute sets is taken back
        monkeypatch.setenv(name, os.environ.get(name, ""))
    execute = runpy.run_path(str(ROOT / "docs/notebooks/execute.py"))["execute"]
    notebook = execute(path, tmp_path)
    said = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert any(out.output_type == "stream" for out in said)


def test_there_are_three_and_they_are_plain() -> None:
    """Valid, with ids, and with outputs that hold no paths of a machine and no pictures."""
    assert [path.stem for path in NOTEBOOKS] == ["first_reward_model", "labels_to_trust", "sweep_and_winner"]
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not re.search(r'"[^"]*(?<![\w.])/(?:home|root|work|tmp|Users)/', path.read_text(encoding="utf-8"))
        outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
        assert {out.output_type for out in outputs} == {"stream"}  # lines, as in a terminal
        assert "ipywidgets" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_it_links_to_exists(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []
