"""Where the files are that ship with rmx."""

from __future__ import annotations

from pathlib import Path

__all__ = ["conf_folder"]


def conf_folder() -> Path:
    """Return the shipped conf/: inside the package in a wheel, beside it in a checkout.

    >>> (conf_folder() / "config.yaml").is_file()
    True
    """
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"
