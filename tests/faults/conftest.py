"""What the fault tests share: base models, undisturbed runs to compare with, and the table that ends `make drills`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_harness import base_model, final, finish, workflow

TABLE: list[tuple[str, str, str]] = []


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for base models; they are made before the first fork, and the imports that training needs are done."""
    import rmx.training.phase  # noqa: F401

    folder = tmp_path_factory.mktemp("models")
    for family in ("gpt2", "llama"):
        base_model(family, folder)
    return folder


@pytest.fixture(scope="session")
def reference(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """A function that gives what a run with these settings leaves when nothing happens to it; made once for each."""
    known: dict[str, dict[str, Any]] = {}

    def of(**changes: Any) -> dict[str, Any]:
        key = repr(sorted(changes.items()))
        if key not in known:
            folder = tmp_path_factory.mktemp("reference")
            finish(lambda: workflow(folder / "run", models, **changes), folder / "log")
            known[key] = final(folder / "run")
        return known[key]

    return of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Forks of a process that computes in several threads may hang."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def figure() -> Callable[[str, str, Any], None]:
    """Add a row to the drills' table: fault, what was done, how it ended."""

    def add(fault: str, done: str, ended: Any) -> None:
        TABLE.append((fault, done, str(ended)))

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table."""
    if TABLE:
        terminalreporter.write_sep("-", "drills")
        widths = [max(len(row[i]) for row in TABLE) for i in range(3)]
        for row in TABLE:
            terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
