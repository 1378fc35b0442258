"""Every trap is found where it is, and nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_folders import BROKEN, sound

from rmx.cli import main
from rmx.errors import ModelError
from rmx.scoring.examine.examined import examine
from rmx.scoring.examine.traps import TRAPS
from rmx.scoring.examine.weight_traps import alignment


@pytest.fixture(scope="module")
def clean_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def folder(clean_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean_folder, tmp_path / "model"))


def test_every_trap_has_a_broken_folder() -> None:
    assert [*(trap.name for trap in TRAPS), "consumers_differ"] == list(BROKEN)


def test_a_sound_folder_is_clean(clean_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0; all consumers that are installed give the rewards of rmx to 1e-5."""
    assert main(["verify", str(clean_folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clean"] is True and found["traps"] == []
    scored = [row for row in found["consumers"] if row["rewards"] is not None]
    assert len(scored) >= 5 and {len(row["rewards"]) for row in scored} == {10}
    assert max(row["max_difference"] for row in scored) < 1e-5


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_broken_folder_has_exactly_its_trap(name: str, folder: Path) -> None:
    BROKEN[name](folder)
    found = examine(str(folder))
    assert found.traps == [name]
    answer = next(answer for answer in found.answers if answer.name == name)
    assert answer.meaning and answer.remedy
    assert bool(found.consumers) != bool(found.why_no_consumers)


def test_the_table_shows_who_reads_the_wrong_token(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With pad = eos, all of transformers read one token early; rmx does not."""
    BROKEN["pad_is_end"](folder)
    assert main(["verify", str(folder)]) == 1
    text = capsys.readouterr().out
    assert "1 trap: pad_is_end" in text and "what to do:   choose another padding token" in text
    lines = {line.split("  ")[0]: line for line in text.splitlines() if "reference" in line or "DIFFERS" in line}
    assert "reference" in lines["rmx.load(...).score"]
    for name in ("transformers, one padded batch", "TRL's GRPO and RLOO", 'pipeline("text-classification")'):
        assert "DIFFERS" in lines[name]


def test_a_head_under_another_class_of_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "is no model folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["verify"])
    assert ended.value.code == 2


def test_a_folder_without_a_tokenizer_is_a_bad_call(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="save it there"):
        examine(str(folder))


def test_nothing_in_the_folder_is_changed(folder: Path) -> None:
    def state() -> dict[str, Any]:
        return {file.name: (file.stat().st_mtime_ns, file.stat().st_size) for file in folder.iterdir()}

    before = state()
    examine(str(folder))
    assert state() == before


def test_alignment_by_hand() -> None:
    """Four points of spread 1 on the first axis of two: t(e1) = 4, and t(w) = 4 cos^2 with mean 2 over directions.

    So e1 has ratio 2, the largest there is: no random direction reaches it but by rounding.
    """
    hidden = torch.tensor([[1.0, 7.0], [-1.0, 7.0], [1.0, 7.0], [-1.0, 7.0]])
    ratio, p = alignment(torch.tensor([3.0, 0.0]), hidden)
    assert ratio == pytest.approx(2.0, rel=0.05)
    assert p <= 2e-4
    ratio, p = alignment(torch.tensor([1.0, 1.0]), hidden)
    assert ratio == pytest.approx(1.0, rel=0.05)
    assert p == pytest.approx(0.5, abs=0.03)
