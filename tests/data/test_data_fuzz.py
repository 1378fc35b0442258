"""Files of junk, mutated and good lines: every line is accounted for, no good row is lost or changed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmx.data import PreferenceData
from rmx.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: text.strip() and "Human:" not in text and "Assistant:" not in text
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["prompt", "chosen", "rejected", "margin", "target", "tools", "system", "weight", "tie", "id"])


@st.composite
def good_line(draw: Any) -> tuple[bytes, dict[str, Any]]:
    row = {"prompt": draw(TEXT), "chosen": draw(TEXT) + "+", "rejected": draw(TEXT) + "-"}
    return json.dumps(row, ensure_ascii=draw(st.booleans())).encode(), row


@st.composite
def mutated_line(draw: Any) -> bytes:
    """A good row with a value replaced by anything, or with bytes cut out or put in."""
    line, row = draw(good_line())
    if draw(st.booleans()):
        return json.dumps({**row, draw(KEYS): draw(JSON)}).encode()
    start = draw(st.integers(0, len(line)))
    return (line[:start] + draw(st.binary(max_size=5)) + line[start + draw(st.integers(0, 9)) :]).replace(b"\n", b"")


JUNK = st.binary(max_size=40).map(lambda data: data.replace(b"\n", b""))
LINES = st.lists(
    good_line() | mutated_line().map(lambda line: (line, None)) | JUNK.map(lambda line: (line, None)), max_size=12
)


def check(lines: list[tuple[bytes, dict[str, Any] | None]]) -> None:
    """Read the lines behind a first good row, which fixes the format."""
    first = {"prompt": "First?", "chosen": "yes", "rejected": "no"}
    everything = [(json.dumps(first).encode(), first), *lines]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.jsonl"
        path.write_bytes(b"\n".join(line for line, _ in everything))
        spec = PreferenceData(
            path=str(path),
            format="preference",
            allow_empty_prompt=True,
            on_bad_row="skip",
            max_bad_fraction=1.0,
            validation_fraction=0.0,
        )
        try:
            splits = spec.read(Path(folder))
        except DataError as question:  # most rows have another column: asked about, whatever else they hold
            assert "is not read, and may be part" in str(question) or "is damaged" in str(question)
            assert any(set(_keys(line)) - {"prompt", "chosen", "rejected"} for line, row in lines if row is None)
            return
        account = splits.accounting.sources["fuzz"]
        rejects = [json.loads(line) for line in _lines(Path(folder) / "rejects.jsonl")]
    trailing = 1 if not everything[-1][0] else 0  # a file that ends with a line break has no line after it
    assert account.read + account.blank == len(everything) - trailing
    assert splits.accounting.adds_up()
    assert account.bad == len(rejects)
    by_line = {int(row.where.rsplit(":", 1)[1]): row for row in splits.train}
    assert not by_line.keys() & {reject["line"] for reject in rejects}
    for number, (_, row) in enumerate(everything, 1):
        if row is not None:
            found = by_line[number]
            texts = [found.prompt[0]["content"], *(response[0]["content"] for response in found.responses)]
            assert texts == [row["prompt"], row["chosen"], row["rejected"]]


def _keys(line: bytes) -> list[str]:
    try:
        row = json.loads(line)
    except ValueError:
        return []
    return list(row) if isinstance(row, dict) else []


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(LINES)
def test_fuzzed_files(lines: list[tuple[bytes, dict[str, Any] | None]]) -> None:
    check(lines)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(LINES)
def test_three_thousand_fuzzed_files(lines: list[tuple[bytes, dict[str, Any] | None]]) -> None:
    check(lines)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".parquet", ".arrow", ".jsonl.zst"])
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=80))
def test_any_bytes_under_any_name(suffix: str, data: bytes) -> None:
    """Nothing but a DataError comes out of a file of any bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"fuzz{suffix}"
        path.write_bytes(data)
        with pytest.raises(DataError):
            PreferenceData(path=str(path), on_bad_row="skip").read(Path(folder))
