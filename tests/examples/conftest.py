from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "scoring")]  # broken_folders.py


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
