"""Where the files are that ship with rmx."""

from __future__ import annotations

from pathlib import Path

__all__ = ["conf_folder", "option_files"]


def conf_folder() -> Path:
    """Return the shipped conf/: inside the package in a wheel, beside it in a checkout.

    >>> (conf_folder() / "config.yaml").is_file()
    True
    """
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def option_files(own: Path | None = None) -> dict[str, list[str]]:
    """Return group -> the names of its options, of the shipped folder and of the user's own.

    >>> option_files()["callbacks"]
    ['early_stopping']
    """
    folders = [conf_folder(), *([own] if own is not None else [])]
    files = sorted(path for folder in folders for path in folder.glob("[!_.]*/*.yaml"))
    names = dict.fromkeys(path.parent.name for path in files)
    return {name: sorted(path.stem for path in files if path.parent.name == name) for name in names}
