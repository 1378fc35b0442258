"""Whatever number a page, a file or a verb shows, `rmx explain` knows it: real outputs, each name asked for."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from pathlib import Path

import pytest

from rmx.cli import main
from rmx.metrics import calibration, length_bias, pair_metrics
from rmx.reference.look_up import look_up
from rmx.reference.shown_numbers import SHOWN_NUMBERS
from rmx.run.header import final_table

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
# Columns of a page that name a thing and hold no number.
NAMES = {
    "", "source", "column", "read as", "looks like", "set", "id", "texts", "the chosen response is", "run", "reading",
    "section", "metric", "what", "value",
}  # fmt: skip
TAG = r"<[^>]+>"


def unexplained(names: object) -> list[str]:
    return sorted({name for name in names if not [e for e in look_up(name) if e.kind in ("metric", "key")]})  # type: ignore[attr-defined]


def headings(page: Path) -> set[str]:
    found = re.findall(r"<th\b[^>]*>(.*?)</th>", page.read_text(), re.S)
    return {html.unescape(re.sub(TAG, "", text)).strip() for text in found} - NAMES


def written(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shown") / "pairs.jsonl"
    rows = [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_numbers_of_a_run(real_run: Path) -> None:
    logged = {key for row in written(real_run / "metrics.jsonl") for key in row}
    results = {key for path in real_run.glob("*_results.json") for key in json.loads(path.read_text())}
    predicted = {key for path in real_run.glob("generated_predictions*.jsonl") for row in written(path) for key in row}
    assert len(logged) > 30 and len(results) > 60 and "truncated" in predicted
    kept = predicted - {"id", "source", "tie", "labelled_tie", "pair", "truth_chosen", "truth_rejected", "weight"}
    assert unexplained(logged | results | kept) == []


def test_the_final_table(real_run: Path) -> None:
    """Every row of the table that ends a run, `  95 % interval` too."""
    _, rows = final_table(json.loads((real_run / "all_results.json").read_text()))
    labels = [row[0].strip() for row in rows]
    assert "best possible accuracy" in labels and len(labels) >= 13
    assert unexplained(labels) == []


def test_the_line_of_a_step(real_run: Path) -> None:
    """`12,244 tokens/s (11,780 unique), 0.038 TFLOP/s (padded: 0.0901), MFU unknown, 0:38 left`: each word."""
    line = next(line for line in (real_run / "run.log").read_text().splitlines() if "TFLOP/s" in line)
    words = ["loss", "accuracy", "margin", "pairs/s", "tokens/s", "unique", "TFLOP/s", "padded", "MFU", "left"]
    assert [word for word in words if word not in line] == []
    assert unexplained(words) == []


def test_the_report_and_its_cards(real_run: Path) -> None:
    page = real_run / "report.html"
    cards = {html.unescape(name) for name in re.findall(r'<span class="name">(.*?)</span>', page.read_text())}
    assert {"Accuracy", "Log loss", "Calibration error", "Length-controlled accuracy"} <= cards
    assert {"Correlation with true reward", "Training time"} <= cards
    assert {"confidence", "P(chosen)", "limit in tokens", "longer wins"} <= headings(page)
    assert unexplained(cards | headings(page)) == []


def test_a_page_of_two_runs(real_run: Path, tmp_path: Path) -> None:
    again = shutil.copytree(real_run, tmp_path / "again")
    assert main(["report", str(real_run), str(again), "--output", str(tmp_path / "two.html")]) == 0
    found = headings(tmp_path / "two.html")
    assert {"ECE", "Brier", "common pairs", "p"} <= found
    assert unexplained(name for name in found if not re.fullmatch(r"only .* right", name)) == []
    assert look_up("only this one right")


def test_what_the_metrics_compute() -> None:
    """The keys of the functions behind the pages, those that no page shows included."""
    names = {
        *pair_metrics([1.0, 0.0], [0.0, 1.0]),
        *calibration([1.0, -1.0, 2.0]),
        *length_bias([1.0, 0.0, 2.0], [0.0, 1.0, 0.0], [2, 3, 3], [3, 2, 3]),
    }
    assert unexplained(names - {"bins"}) == []


def test_the_counts_of_the_audit(real_run: Path) -> None:
    audit = json.loads((real_run / "audit.json").read_text())
    counted = {
        key for report in audit["truncation"].values() for key, value in report.items() if isinstance(value, int)
    }
    counted |= {key for source in audit["rows"]["sources"].values() for key, value in source.items()
                if isinstance(value, int) and not isinstance(value, bool)}  # fmt: skip
    assert {"truncated", "kept", "literal_rows", "merged"} <= counted
    assert unexplained(counted - {"blank_lines"}) == []


def test_what_rmx_bench_shows(real_run: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench"
    assert main(["bench", f"model={real_run / 'model'}", "suite=pairs", f"data={pairs}", f"output={out}"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    shown = set(re.split(r"\s{2,}", first.strip().replace(" score", "  score"))) - {"pairs"}
    assert shown == {"rows", "score", "95 % interval"}
    result = json.loads((out / "results.json").read_text())
    columns = {key for line in result["lines"] for key in line} - {"section", "kind"}
    assert unexplained(shown | columns | set(result["counts"]) | headings(out / "report.html")) == []
    from rmx.scoring.benchmark import CORRECTNESS

    judged = {"answers", "refused", "judge_ties", "judge ties", "inconsistent"}
    assert unexplained({*CORRECTNESS, *CORRECTNESS.values(), "best of n"} | judged) == []


def test_what_rmx_score_writes(real_run: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    models = f"[{real_run / 'model'},{real_run / 'model-merged'}]"
    assert main(["score", f"model={models}", f"input={pairs}", f"output={out}"]) == 0
    with out.open() as table:
        columns = set(next(csv.reader(table)))
    assert {"reward", "ranks", "disagreement"} <= columns
    assert unexplained(columns - {"id", "where", "error", "prompt", "response"}) == []


def test_what_rmx_verify_shows(real_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its numbers, and the name of each trap."""
    main(["verify", str(real_run / "model")])
    page = capsys.readouterr().out
    assert re.search(r"ten rows, scored by +first +last +largest difference", page)
    assert unexplained({"first", "last", "largest difference", "max_difference"}) == []
    traps = re.findall(r"^  (?:TRAP|ok|-) +([a-z_]+) ", page, re.M)
    assert len(traps) >= 19
    assert [name for name in traps if [entry.kind for entry in look_up(name)] != ["trap"]] == []


def test_no_number_is_told_twice() -> None:
    names = [number.name for number in SHOWN_NUMBERS]
    assert len(set(names)) == len(names)
