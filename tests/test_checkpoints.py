"""Checkpoints: sealing, rotation, choosing, drift, and state without pickle; the drills are in tests/faults."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash

from rmx.checkpoints import CheckpointFolder, read_manifest, verify
from rmx.checkpoints.keep import STATE
from rmx.checkpoints.tensors import load_state, save_state, state_bytes
from rmx.errors import CheckpointError, ModelError, OutputError
from rmx.losses import bradley_terry
from rmx.records import EncodedComparison, Pair
from rmx.tokens.fingerprint import content_hash, rows_facts
from rmx.training.drift import differences, dotted, plain_values, refuse_drift


def make(folder: CheckpointFolder, step: int, content: str = "x", best: int | None = None) -> None:
    with folder.staged(step, needed_bytes=1) as stage:
        (stage / "weights").write_text(content)
        (stage / "sub").mkdir()
        (stage / "sub" / "more").write_text("y")
        (stage / STATE).write_text(json.dumps({"best_step": best, "scheduled": True}))


# --- Sealing and choosing ---------------------------------------------------------------------------------------------


def test_manifest_lists_everything(tmp_path: Path) -> None:
    """Size and hash of each file, folders below included, and the facts."""
    folder = CheckpointFolder(tmp_path / "checkpoints", {"config": {"seed": 1}})
    make(folder, 3)
    manifest = verify(folder.path(3))
    assert set(manifest.files) == {"weights", "sub/more", STATE} and manifest.facts == {"config": {"seed": 1}}
    assert manifest.files["weights"] == {"bytes": 1, "xxh3_128": xxhash.xxh3_128(b"x").hexdigest()}
    assert [path.name for path in folder.folder.iterdir()] == ["checkpoint-3"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    """No stage stays, and the checkpoint of the same step that stood there is still valid."""
    folder = CheckpointFolder(tmp_path)
    make(folder, 1)
    for error in (KeyError("x"), OSError(28, "full")):
        with pytest.raises((KeyError, OutputError)), folder.staged(1, needed_bytes=1) as stage:
            (stage / "weights").write_text("new")
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert (folder.path(1) / "weights").read_text() == "x" and verify(folder.path(1))


def test_same_step_again_replaces(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    make(folder, 1)
    make(folder, 1, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert (folder.path(1) / "weights").read_text() == "new"


@pytest.mark.parametrize(
    ("steps", "limit", "keep", "left"),
    [
        ([1, 2, 3, 10], 2, [], [3, 10]),  # by number, not by name or time
        ([1, 2, 3, 10], 2, [1], [1, 10]),  # the best one counts
        ([1, 2, 3, 10], 1, [2], [2, 10]),  # but the newest is never given up for it
        ([1, 2, 3, 10], 1, [], [10]),
        ([1, 2, 3, 10], None, [], [1, 2, 3, 10]),
        ([1, 2, 3, 10], 9, [7], [1, 2, 3, 10]),
    ],
)
def test_rotation(steps: list[int], limit: int | None, keep: list[int], left: list[int], tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in reversed(steps):
        make(folder, step)
    folder.rotate(limit, keep=keep)
    assert folder.steps() == left


def test_what_a_kill_leaves_is_tidied(tmp_path: Path) -> None:
    """Half-written and half-deleted ones go; one that was about to be replaced comes back."""
    folder = CheckpointFolder(tmp_path)
    make(folder, 1)
    make(folder, 2)
    for name in (".checkpoint-3.abc.unfinished", ".checkpoint-0.def.unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
    folder.path(2).rename(tmp_path / ".checkpoint-2.replaced")
    found = folder.newest_valid()
    assert found is not None and found[0] == folder.path(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_newest_valid(tmp_path: Path) -> None:
    """Damaged ones are set aside under names that never collide."""
    folder = CheckpointFolder(tmp_path)
    assert folder.newest_valid() is None
    for _ in range(2):
        make(folder, 1)
        make(folder, 2)
        (folder.path(2) / "weights").write_text("z")
        found = folder.newest_valid()
        assert found is not None and found[0].name == "checkpoint-1"
    assert {"damaged-1-checkpoint-2", "damaged-2-checkpoint-2"} <= {path.name for path in tmp_path.iterdir()}


def test_the_best_belongs_to_it(tmp_path: Path) -> None:
    """A checkpoint whose best one is damaged or gone cannot end the run as it would have ended."""
    folder = CheckpointFolder(tmp_path)
    make(folder, 1)
    make(folder, 2)
    make(folder, 3, best=2)
    folder.delete(2)
    found = folder.newest_valid()
    assert found is not None and found[0].name == "checkpoint-1"


# --- State without pickle ---------------------------------------------------------------------------------------------


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    """Types of keys and sequences, infinities, shared and 0-dimensional tensors, dtypes."""
    shared = torch.arange(4, dtype=torch.uint8)
    state: dict[str, Any] = {
        "state": {
            0: {"step": torch.tensor(3.0), "m": torch.ones(2, dtype=torch.bfloat16), "map": shared},
            7: {"map": shared},
        },
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 7], "fused": None, "big": math.inf}],
    }
    save_state(state, tmp_path, "optimizer")
    back = load_state(tmp_path, "optimizer")
    assert back["param_groups"] == state["param_groups"] and list(back["state"]) == [0, 7]
    assert type(back["param_groups"][0]["betas"]) is tuple
    for key, value in state["state"][0].items():
        assert torch.equal(back["state"][0][key], value) and back["state"][0][key].dtype == value.dtype
    assert state_bytes(state) == 4 + 4 + 4 + 4


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adafactor", "RMSprop", "NAdam", "RAdam", "Adagrad"])
def test_optimizers_of_torch(name: str, tmp_path: Path) -> None:
    """Their state goes through the files and continues to the same weights."""

    def steps(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, count: int) -> None:
        for i in range(count):
            weight.grad = torch.full_like(weight, 0.1 + i)
            optimizer.step()

    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = getattr(torch.optim, name)([weight], lr=0.1)
    steps(optimizer, weight, 3)
    save_state(optimizer.state_dict(), tmp_path, "optimizer")
    copy = torch.nn.Parameter(weight.detach().clone())
    other = getattr(torch.optim, name)([copy], lr=0.5)
    other.load_state_dict(load_state(tmp_path, "optimizer"))
    steps(optimizer, weight, 2)
    steps(other, copy, 2)
    assert torch.equal(weight, copy)


def test_state_that_needs_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"scheduler\.f: a function cannot be stored without pickle"):
        save_state({"f": make}, tmp_path, "scheduler")


# --- Drift ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    path: str = "a.jsonl"
    arguments: dict[str, Any] = field(default_factory=dict)


def row(id_: str = "1", prefix: tuple[int, ...] = (1, 2), **pair: Any) -> EncodedComparison:
    return EncodedComparison(id_, "s", list(prefix), ([3], [4, 5]), (Pair(0, 1, **pair),))


def test_describe() -> None:
    """Dataclasses, partial functions and callbacks as plain values; argument names as on the command line."""
    loss = functools.partial(bradley_terry, label_smoothing=0.1)
    described = plain_values({"trainer": Spec(arguments={"learning_rate": 0.1}), "loss": loss})
    assert dotted(described) == {
        "trainer._target_": "test_checkpoints.Spec",
        "trainer.path": "a.jsonl",
        "trainer.learning_rate": 0.1,
        "loss._target_": "rmx.losses.bradley_terry",
        "loss.label_smoothing": 0.1,
    }  # fmt: skip


def test_content_hash_sees_everything_that_training_reads() -> None:
    """Order, ids, tokens (also which side of the prefix they are on), pairs; not the type of the token list."""
    base = content_hash([row(), row("2")])
    import numpy as np

    as_array = EncodedComparison("1", "s", np.array([1, 2], np.int32), ([3], [4, 5]), (Pair(0, 1),))
    assert content_hash([as_array, row("2")]) == base
    others = [
        [row("2"), row()], [row(), row("3")], [row(prefix=(1, 3)), row("2")], [row()], [row(margin=1.0), row("2")],
        [row(weight=0.5), row("2")], [EncodedComparison("1", "s", [1], ([2, 3], [4, 5]), (Pair(0, 1),)), row("2")],
    ]  # fmt: skip
    assert len({base, *map(content_hash, others)}) == len(others) + 1


def facts(rows: int = 3, ranks: int = 1, threads: int = 1, **config: Any) -> dict[str, Any]:
    return {
        "config": {"data": {"path": "a.jsonl"}, "trainer": {"arguments": {"learning_rate": 0.1}}, "seed": 1, **config},
        "rows": rows_facts({"train": [row(str(i)) for i in range(rows)], "eval": [row()]}),
        "ranks": ranks,
        "environment": {"threads": threads},
    }


def test_refused_and_allowed(tmp_path: Path) -> None:
    there = facts()
    assert refuse_drift(tmp_path, there, facts(), []) == ([], True)
    with pytest.raises(CheckpointError, match=r"seed: 1 there, 2 here"):
        refuse_drift(tmp_path, there, facts(seed=2), ["trainer"])
    assert refuse_drift(tmp_path, there, facts(seed=2), ["seed"]) == ([], True)
    other_rate = facts(trainer={"arguments": {"learning_rate": 0.2, "logging_steps": 3}})
    with pytest.raises(CheckpointError, match=r"resume_allow=\[trainer.learning_rate\]"):
        refuse_drift(tmp_path, there, other_rate, [])
    assert refuse_drift(tmp_path, there, other_rate, ["trainer"]) == ([], True)
    with pytest.raises(CheckpointError, match=r"rows.train.comparisons: 3 there, 4 here"):
        refuse_drift(tmp_path, there, facts(rows=4), [])
    assert refuse_drift(tmp_path, there, facts(rows=4), ["data"]) == ([], True)
    with pytest.raises(CheckpointError, match=r"trainer.comparisons_per_step: 8 there, 16 here"):
        refuse_drift(tmp_path, there, facts(ranks=2), [])
    other_way = {"arguments": {"learning_rate": 0.1, "per_device_train_batch_size": 4}}
    assert refuse_drift(tmp_path, there, facts(ranks=2, trainer=other_way), []) == ([], True)  # 4 x 2 are 8, too


def test_a_moved_file_and_another_machine(tmp_path: Path) -> None:
    """The same rows from another path are the same; another thread count is a note."""
    assert refuse_drift(tmp_path, facts(), facts(data={"path": "/b.jsonl"}), []) == ([], True)
    assert refuse_drift(tmp_path, facts(), facts(threads=2), []) == (["threads was 1 and is 2"], True)
    assert differences({"a": 1}, {"b": 1}) == {"b": ("(not set)", 1), "a": (1, "(not set)")}


def test_manifest_text_is_stable(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, facts())
    make(folder, 1)
    manifest = read_manifest(folder.path(1))
    assert manifest.text() == (folder.path(1) / "manifest.json").read_text()
    assert read_manifest(folder.path(1)).facts == json.loads(json.dumps(facts()))
