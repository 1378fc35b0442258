"""The run that several modules compare the reference with."""

from __future__ import annotations

from pathlib import Path

import pytest
from reference.tiny_run import run_everything


@pytest.fixture(scope="session")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_everything(tmp_path_factory.mktemp("reference"))
