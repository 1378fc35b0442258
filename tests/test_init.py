"""`import rmx` is light, and what it promises is there."""

from __future__ import annotations

import subprocess
import sys

import rmx


def test_every_exported_name_is_there() -> None:
    assert rmx.__all__ == ["Scorer", "Workflow", "__version__", "check", "compose", "errors", "instantiate", "load"]
    for name in rmx.__all__:
        assert getattr(rmx, name) is not None
    assert set(dir(rmx)) == set(rmx.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    try:
        rmx.nope  # noqa: B018
    except AttributeError as error:
        assert "no attribute 'nope'" in str(error)


def test_importing_rmx_imports_nothing_heavy() -> None:
    code = (
        "import sys, rmx; heavy = {'torch', 'hydra', 'omegaconf', 'yaml', 'transformers', 'numpy'}; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
