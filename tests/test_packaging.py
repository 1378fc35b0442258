"""The wheel, built from the sdist, runs on its own: configuration, templates and plugin travel with it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)  # sdist, then the wheel from it
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_everything_travels(unpacked: Path) -> None:
    shipped = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert shipped == {path.relative_to(unpacked / "rmx/conf") for path in (unpacked / "rmx/conf").rglob("*.yaml")}
    assert list((unpacked / "rmx/templates").rglob("*.jinja"))
    assert list((unpacked / "rmx/report").rglob("*.html*"))
    assert list((unpacked / "hydra_plugins/rmx_sweeper").glob("*.py"))
    assert not (unpacked / "hydra_plugins/__init__.py").exists()  # a namespace, shared with other plugins
    assert (unpacked / "rmx/py.typed").is_file()


def test_it_composes_from_another_folder(unpacked: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "rmx", "--cfg", "job", "model=qwen3", "peft=lora"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "_target_: rmx.workflow.Workflow" in done.stdout
    where = subprocess.run(
        [sys.executable, "-c", "import rmx; print(rmx.__file__)"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(unpacked))
