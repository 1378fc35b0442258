from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/tiny_models.py

from rmx.models.tiny import CHATML


@dataclass(frozen=True)
class Bound:
    """What of a bound template is saved."""

    name: str = "chatml"
    jinja: str = CHATML
    start_token: str | None = None
    end_token: str = "<|im_end|>"


@pytest.fixture
def template() -> Bound:
    return Bound()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
