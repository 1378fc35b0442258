"""Features crossed: each cell of a pairwise covering array is a small whole run, of which invariants are checked.

`tests/crossing.py` says what is crossed. A part of the array is run always; all of it, and two ranks, with `-m slow`.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import crossing
import numpy as np
import pytest
from crossing import BAD, GENERATED, NAMED_ROWS, ROWS, STEPS, Cell
from tiny_models import save_base
from transformers import TrainerCallback

import rmx
from rmx.data import Splits
from rmx.errors import InputError, Interrupted
from rmx.metrics import pair_metrics
from rmx.plots import RunPictures
from rmx.workflow import Workflow

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FAST = crossing.fast_cells()
REST = [cell for cell in crossing.cells() if cell not in FAST]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models by family, made when they are first asked for."""
    parent = tmp_path_factory.mktemp("bases")

    class Made(dict):
        def __missing__(self, family: str) -> Path:
            self[family] = save_base(family, parent)
            return self[family]

    return Made()


@pytest.mark.parametrize("cell", FAST, ids=str)
def test_a_cell_of_the_fast_part(
    cell: Cell, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures are in the report; that they are files too takes half of the time, and is tested elsewhere."""
    monkeypatch.setattr(RunPictures, "save", lambda drawn: [])
    check_cell(cell, bases, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("cell", REST, ids=str)
def test_a_cell_of_the_rest(cell: Cell, bases: dict[str, Path], tmp_path: Path) -> None:
    check_cell(cell, bases, tmp_path)


def test_the_array_covers_every_pair_that_can_be_meant() -> None:
    """The pairs that no cell has are exactly those that `settled` takes out of every cell that has them."""
    covered = set().union(*map(crossing.pairs_of, crossing.cells()))
    example = crossing.cells()[0]
    for (a, values), (b, others) in combinations(crossing.FEATURES.items(), 2):
        for v in values:
            for u in others:
                if (b, u, a, v) not in covered:
                    changed = crossing.replace(example, **{a: v, b: u})
                    assert (b, u, a, v) not in crossing.pairs_of(crossing.settled(changed)), (a, v, b, u)
    for name, values in crossing.FEATURES.items():
        assert {getattr(cell, name) for cell in FAST} == set(values), name


@pytest.mark.parametrize(("values", "words", "message"), crossing.REFUSED, ids=lambda value: str(value)[:60])
def test_what_is_not_allowed_is_refused_with_the_key(
    values: dict[str, Any], words: list[str], message: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """One message, of input, that names the key; and nothing that looks like a result is left behind."""
    cell = Cell(**{**crossing.PLAIN, **values})
    crossing.write_files(cell, tmp_path / "files")
    base = None if cell.family == "tiny" else bases[cell.family]
    with pytest.raises(InputError) as caught:
        rmx.instantiate(rmx.compose(crossing.overrides(cell, tmp_path / "files", base, tmp_path / "run") + words)).run()
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)
    left = ("model", "train_results.json", "eval_results.json", "generated_predictions*")
    assert not [name for name in left if list((tmp_path / "run").glob(name))]


@pytest.mark.slow
@pytest.mark.parametrize("cell", crossing.rank_cells(), ids=str)
def test_two_ranks_give_what_one_gives(cell: Cell, bases: dict[str, Path], tmp_path: Path) -> None:
    """Half the batch on each of two ranks: the same rows, invariants, pairs in training, and predictions."""
    crossing.write_files(cell, tmp_path / "files")
    words = crossing.overrides(
        cell, tmp_path / "files", None if cell.family == "tiny" else bases[cell.family], tmp_path
    )
    words += ["trainer.use_cpu=true", "trainer.optim=sgd", "trainer.per_device_train_batch_size=4"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    for name, start, more in (
        ("one", [sys.executable], []),
        ("two", launch, ["trainer.per_device_train_batch_size=2"]),
    ):
        command = [*start, "-m", "rmx", *words, f"output_dir={tmp_path / name}", *more]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = tmp_path / "one", tmp_path / "two"
    splits = rmx.instantiate(rmx.compose(words)).data.read()
    check_rows(cell, splits, two)
    check_files(cell, two, None)
    found = [[row for row in read_rows(run / "metrics.jsonl") if row["phase"] == "train"] for run in (one, two)]
    assert [row.get("train/pairs") for row in found[0]] == [row.get("train/pairs") for row in found[1]]
    if "predict" in cell.phases:
        check_predictions(cell, splits, two)
    for path in one.glob("generated_predictions*"):
        first, second = ([row["chosen"] for row in read_rows(run / path.name)] for run in (one, two))
        assert second == pytest.approx(first, abs=0.02 if cell.precision != "fp32" else 1e-4)


# --- one cell ---


def check_cell(cell: Cell, bases: dict[str, Path], folder: Path) -> None:
    files, run = folder / "files", folder / "run"
    crossing.write_files(cell, files)
    words = crossing.overrides(cell, files, None if cell.family == "tiny" else bases[cell.family], run)
    recorded: list[dict[str, np.ndarray]] = []
    with no_temporary_files_outside(folder):
        if cell.resume == "stopped":
            with pytest.raises(Interrupted):
                recording(rmx.instantiate(rmx.compose(words)), recorded, stop_at=2).run()
        workflow = recording(rmx.instantiate(rmx.compose(words)), recorded)
        results = workflow.run()
    splits = workflow.data.read()
    check_rows(cell, splits, run)
    check_files(cell, run, results)
    if cell.trains:
        check_train_sums(run, recorded)
    if "predict" in cell.phases:
        check_predictions(cell, splits, run)


class StopAfter(TrainerCallback):
    """Sends this process SIGTERM after a step; which one is no part of the settings that a resumed run compares."""

    step = -1

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == StopAfter.step:
            os.kill(os.getpid(), signal.SIGTERM)


def recording(workflow: Workflow, rows: list[dict[str, np.ndarray]], stop_at: int = -1) -> Workflow:
    """The workflow with a loss that writes down every micro-batch of pairs that it trains on, with its terms."""
    loss = workflow.loss

    @functools.wraps(getattr(loss, "func", loss))
    def recorded(winner: Any, loser: Any, pairs: Any) -> Any:
        terms = loss(winner, loser, pairs)
        if winner.requires_grad:
            columns = {"chosen": winner, "rejected": loser, "loss": terms, "weight": pairs.weight, "tie": pairs.tie}
            rows.append({name: column.detach().double().numpy() for name, column in columns.items()})
        return terms

    StopAfter.step = stop_at
    workflow.loss, workflow.callbacks = recorded, {"stop": StopAfter()}
    return workflow


_temporary: list[str] = []
sys.addaudithook(lambda event, args: _temporary.append(str(args[0])) if event.startswith("tempfile.mk") else None)


@contextmanager
def no_temporary_files_outside(folder: Path) -> Iterator[None]:
    """See that nothing is spooled outside the run's own folder and the cache of token ids."""
    _temporary.clear()
    yield
    homes = (str(folder), os.environ["RMX_CACHE"])
    assert not [path for path in _temporary if not path.startswith(homes)]


def read_json(text: str) -> Any:
    """Strict JSON: NaN and infinity are none."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [read_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def is_long(comparison: Any) -> bool:
    return any("And so on." in message["content"] for message in comparison.prompt)


def check_rows(cell: Cell, splits: Splits, run: Path) -> None:
    """Every row of every file is accounted for, and so is every comparison that is too long."""
    accounting = splits.accounting
    assert accounting.adds_up()
    assert sum(account.train for account in accounting.sources.values()) == len(splits.train)
    for name, account in accounting.sources.items():
        named, generated = name in ("easy", "hard"), account.format == "synthetic"
        assert account.read == (NAMED_ROWS if named else GENERATED if generated else ROWS), name
        assert account.bad == (len(BAD) if cell.bad_rows == "skip" and not named and not generated else 0), name
    wanted = {"fraction": ["eval"], "named": ["easy", "hard"], "both": ["eval", "easy", "hard"], "none": []}
    assert list(splits.evals) == wanted[cell.evals]
    if not {"train", "audit"} & set(cell.phases):
        return
    found = read_json((run / "audit.json").read_text(encoding="utf-8"))
    assert found["rows"] == read_json(json.dumps(accounting.as_dict()))
    for name, rows in {"train": splits.train, **splits.evals}.items():
        if not rows:
            continue
        cut, report = sum(map(is_long, rows)), found["truncation"][name]
        dropped = cut if cell.truncation == "drop" else 0
        assert (report["kept"], report["dropped"]) == (len(rows) - dropped, dropped), name
        assert report["truncated"] == cut - dropped, name


def check_files(cell: Cell, run: Path, results: dict[str, Any] | None) -> None:
    """What was asked for is there and can be read; what was not asked for did not happen."""
    phases = set(cell.phases)
    several = cell.evals == "both" or cell.evals == "named"
    made = {
        "model": cell.trains,
        "checkpoints": cell.trains,
        "train_results.json": cell.trains,
        "eval_results.json": "eval" in phases,
        "predict_results.json": "predict" in phases,
        "generated_predictions.jsonl": "predict" in phases and not several,
        "audit.json": bool({"audit", "train"} & phases),
        "report.html": cell.trains or cell.scores,
        "tensorboard": cell.trackers == "tensorboard" and (cell.trains or cell.scores),
        "model-merged": False,
        "rejects.jsonl": cell.bad_rows == "skip",
        "run.yaml": True,
    }
    assert {name: (run / name).exists() for name in made} == made
    assert bool(list(run.glob("generated_predictions_*.jsonl"))) == ("predict" in phases and several)
    for path in run.glob("*.json"):
        read_json(path.read_text(encoding="utf-8"))
    for path in run.glob("*.jsonl"):
        read_rows(path)
    logged = read_rows(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []
    evaluated = {row["phase"] for row in logged if row["phase"].startswith("eval")}
    assert bool(evaluated) == ("eval" in phases or (cell.trains and cell.evals != "none"))
    steps = [row["step"] for row in logged if row["phase"] == "train" and "train/pairs_per_second" in row]
    assert steps == (list(range(1, STEPS + 1)) if cell.trains else [])
    if results is not None and (run / "all_results.json").exists():
        stored = read_json((run / "all_results.json").read_text(encoding="utf-8"))
        assert {**stored, "output_dir": str(run)} == results
    if (run / "report.html").exists():
        Page().feed_whole((run / "report.html").read_text(encoding="utf-8"))
    assert not [path for path in run.rglob(".*") if path.name not in (".rmx.lock", ".lock")]


class Page(HTMLParser):
    """A page whose elements are closed in the order in which they were opened."""

    VOID = ("meta", "link", "br", "img", "input", "hr", "col", "source", "wbr")

    def feed_whole(self, text: str) -> None:
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == [] and {"html", "body", "h1"} <= self.seen

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_train_sums(run: Path, recorded: list[dict[str, np.ndarray]]) -> None:
    """Each line of training, and the whole of it, says what `pair_metrics` says of the same pairs."""
    pairs = {name: np.concatenate([rows[name] for rows in recorded]) for name in recorded[0]}
    lines = [row for row in read_rows(run / "metrics.jsonl") if row["phase"] == "train" and row["step"] <= STEPS]
    windows = [row for row in lines if "train/pairs_per_second" in row]
    start = 0
    for row in windows:
        end = start + int(row["train/pairs"])
        same({key.removeprefix("train/"): v for key, v in row.items()}, {k: v[start:end] for k, v in pairs.items()})
        start = end
    assert start == len(pairs["chosen"])
    whole = read_json((run / "train_results.json").read_text(encoding="utf-8"))
    same({key.removeprefix("train_"): value for key, value in whole.items()}, pairs)


COMPARED = (
    "pairs", "loss", "accuracy", "tie_rate", "margin", "chosen_reward", "rejected_reward", "reward_std",
)  # fmt: skip


def same(found: dict[str, Any], pairs: dict[str, np.ndarray]) -> None:
    expected = pair_metrics(**{**pairs, "tie": pairs["tie"] > 0})
    for name in COMPARED:
        if name in expected:
            assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
        else:
            assert found[name] is None, name  # all pairs are ties


def check_predictions(cell: Cell, splits: Splits, run: Path) -> None:
    """Every pair of every set has its line, once and in order; the model's folder gives the same scores."""
    several, scored = len(splits.evals) > 1, []
    for name, rows in splits.evals.items():
        found = read_rows(run / (f"generated_predictions_{name}.jsonl" if several else "generated_predictions.jsonl"))
        kept = [row for row in rows if not (cell.truncation == "drop" and is_long(row))]
        pairs = [(row, pair) for row in kept for pair in row.pairs]
        assert [row["id"] for row in found] == [row.id for row, _ in pairs]
        assert [row.get("pair", [0, 1]) for row in found] == [
            [pair.winner, pair.loser] if len(row.responses) > 2 else [0, 1] for row, pair in pairs
        ]
        assert all(math.isfinite(row[side]) for row in found for side in ("chosen", "rejected", "loss"))
        assert [row.get("weight", 1.0) for row in found] == [pair.weight for _, pair in pairs]
        assert [row.get("labelled_tie", False) for row in found] == [pair.tie for _, pair in pairs]
        scored += zip(found, pairs, strict=True)
    columns = {side: [row[side] for row, _ in scored] for side in ("chosen", "rejected", "loss")}
    expected = pair_metrics(
        **columns, weight=[pair.weight for _, (_, pair) in scored], tie=[pair.tie for _, (_, pair) in scored],
        comparison=[row.id for _, (row, _) in scored],
    )  # fmt: skip
    results = read_json((run / "predict_results.json").read_text(encoding="utf-8"))
    for name, value in expected.items():
        assert results[f"predict_{name}"] == pytest.approx(value, abs=1e-9), name
    if not cell.trains:
        return
    precision, tolerance = ("bf16", 0.03) if cell.precision == "bf16_everywhere" else ("fp32", 1e-4)
    scorer = rmx.load(run / "model", precision=precision)
    for side, place in (("chosen", "winner"), ("rejected", "loser")):
        # All responses of a comparison have the same cut prompt, that of the longest; a text alone is cut by its own.
        alike = [(r, c, p) for r, (c, p) in scored if not is_long(c) or r[f"{side}_tokens"] == crossing.MAX_TOKENS]
        texts = [[*comparison.prompt, *comparison.responses[getattr(pair, place)]] for _, comparison, pair in alike]
        assert scorer.score(texts) == pytest.approx([row[side] for row, _, _ in alike], abs=tolerance)
