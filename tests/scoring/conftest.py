from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # broken_folders.py, tests/tiny_models.py


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
