"""`python -m rmx.reference`: write the pages of docs/reference/ again."""

from __future__ import annotations

import sys
from pathlib import Path

from rmx.config.shipped import conf_folder
from rmx.errors import counted
from rmx.files import write_text
from rmx.reference.reference_pages import pages

__all__ = ["main"]


def main(folder: Path | None = None) -> int:
    """Write every page, and remove pages that are no longer made.

    Args:
        folder: where to; by default docs/reference of this checkout.

    Returns:
        0; 2 where rmx is installed without its docs/.
    """
    docs = conf_folder().parent / "docs"
    if folder is None and not docs.is_dir():
        sys.stderr.write(f"rmx: {docs}: there is no such folder; `make reference` works in a checkout of rmx\n")
        return 2
    folder = folder or docs / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for old in folder.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        write_text(folder / name, text)
    sys.stdout.write(f"{folder}: {counted(len(made), 'page')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
