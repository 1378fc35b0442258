"""The pages in docs/reference/ are those that the code makes now."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmx.reference.__main__ import main
from rmx.reference.look_up import everything
from rmx.reference.reference_pages import pages

COMMITTED = Path(__file__).parents[2] / "docs" / "reference"


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


def test_the_committed_pages_are_up_to_date(made: dict[str, str]) -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in COMMITTED.glob("*.md")}
    differ = sorted(name for name in {*made, *committed} if made.get(name) != committed.get(name))
    assert differ == [], f"docs/reference is not what the code says ({', '.join(differ)}): run `make reference`"


def test_every_entry_is_on_a_page(made: dict[str, str]) -> None:
    text = "\n".join(made.values())
    for entry in everything():
        if entry.kind != "group":  # a group is a page of its own
            assert f"`{entry.name}`" in text or f"## {entry.name}\n" in text or f"## rmx {entry.name}\n" in text, (
                entry.name
            )


def test_every_row_of_a_table_has_as_many_cells_as_its_head(made: dict[str, str]) -> None:
    for name, text in made.items():
        cells = 0
        for line in text.splitlines():
            if not line.startswith("| "):
                cells = 0
                continue
            count = line.replace("\\|", "").count("|")
            assert count == (cells or count), f"{name}: {line[:80]}"
            cells = count


def test_pages_that_are_no_longer_made_are_removed(tmp_path: Path) -> None:
    (tmp_path / "keys-gone.md").write_text("old")
    assert main(tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(pages())
