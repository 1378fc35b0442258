"""Two processes that hold half of the weights each: one or both killed, in a step or in a save; then continued."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_harness import Child, InNthSave, die, final, free_port, needs_fork, staging, start, train, workflow
from safetensors.torch import load_file, save_file
from test_faults_disk import limit_file_size

from rmx.errors import ArtefactError
from rmx.parallel import Sharded
from rmx.training import phase
from rmx.training.sharded import ShardedWeights

pytestmark = needs_fork

SETTINGS = {"num_train_epochs": 2, "save_steps": 1, "save_total_limit": 2, "eval_strategy": "no"}
PATIENCE = 90.0  # seconds for a process to notice that the other is gone; 30 if they have not met yet


def pair(
    models: Path, folder: Path, *, prepare: Callable[[int], None] = lambda rank: None, **settings: Any
) -> list[Child]:
    """Start both processes of a run; `prepare` is called in each of them before."""
    port = free_port()

    def work(rank: int) -> None:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
            "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        flow = workflow(folder / "run", models, **SETTINGS, **settings)
        flow.parallel = Sharded(timeout_minutes=0.5)
        prepare(rank)
        train(flow)

    return [start(lambda rank=rank: work(rank), folder / f"log{rank}") for rank in (0, 1)]


def ended(children: list[Child], folder: Path) -> dict[str, Any]:
    """What a run that got to its end left."""
    codes = [child.wait().code for child in children]
    assert codes == [0, 0], [child.text[-2000:] for child in children]
    left = final(folder / "run")
    newest = folder / "run" / "checkpoints" / left["checkpoints"][-1]
    # The parts' headers list the same places in another order each time, so their contents are compared.
    names = sorted(name for name in left["tensors"] if name.startswith("shards/"))
    parts = [load_file(newest / name) for name in names]
    left["parts"] = [{name: tensor.numpy().tobytes() for name, tensor in part.items()} for part in parts]
    left["tensors"] = {name: value for name, value in left["tensors"].items() if name not in names}
    return left


def assert_same(left: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Name what differs."""
    assert not [key for key in wanted if left[key] != wanted[key]]


def all_ended(children: list[Child], seconds: float) -> bool:
    """Wait so long for the end of both."""
    until = time.monotonic() + seconds
    while not all([child.ended() for child in children]):
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def kill(children: list[Child], victims: list[int], ready: Callable[[], bool]) -> bool:
    """Kill as soon as `ready`; whoever is left has to end by itself, and to say why. False if both ended before."""
    while not ready():
        if any([child.ended() for child in children]):
            assert all_ended(children, PATIENCE)
            assert [child.code for child in children] == [0, 0], [child.text[-2000:] for child in children]
            return False
        time.sleep(0.0005)
    for victim in victims:
        os.kill(children[victim].pid, signal.SIGKILL)
    noticed = all_ended(children, PATIENCE)
    for child in children:  # nobody is left behind, whatever comes of it
        if not child.ended():
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
    assert noticed, [child.text[-2000:] for child in children]
    for rank, child in enumerate(children):
        if rank in victims:
            assert child.code in (-signal.SIGKILL, 0)  # 0: it had just ended
        else:
            assert child.code in (1, 0) and "Traceback" not in child.text, child.text[-2000:]
    return True


def chain(models: Path, folder: Path, chance: random.Random, kills: int) -> tuple[int, int]:
    """Kill a run again and again, then let it end; return the kills, and those that hit a save."""
    done = inside = 0
    while done < kills:
        children = pair(models, folder)
        in_save = InNthSave(folder / "run", chance.randint(1, 3))
        until = time.monotonic() + chance.uniform(0.5, 4.0)
        ready = in_save if chance.random() < 0.6 else lambda until=until: time.monotonic() > until
        if not kill(children, chance.choice([[0], [1], [0, 1]]), ready):
            break  # it got to its end
        done += 1
        inside += staging(folder / "run")
    return done, inside


@pytest.fixture(scope="module")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes leave that nobody disturbs; it is written in parts."""
    folder = tmp_path_factory.mktemp("undisturbed")
    left = ended(pair(models, folder), folder)
    assert len(left["parts"]) == 2 and all(len(part) > 20 for part in left["parts"])
    return left


def test_a_save_that_is_cut_off_leaves_the_checkpoint_before(
    models: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """The second process dies while parts are written; the first one ends, and both continue identically."""
    assert kill(pair(models, tmp_path), [1], InNthSave(tmp_path / "run", 2))
    assert_same(ended(pair(models, tmp_path), tmp_path), undisturbed)


# --- The artefact -----------------------------------------------------------------------------------------------------


def at_weight(number: int, act: Callable[[], None]) -> None:
    """In a child: call `act` when the n-th weight of the artefact is gathered."""
    gathered, seen = ShardedWeights.whole, [0]

    def patched(self: ShardedWeights, tensor: Any) -> Any:
        seen[0] += 1
        if seen[0] == number:
            act()
        return gathered(self, tensor)

    ShardedWeights.whole = patched  # type: ignore[method-assign]


def unfinished(folder: Path) -> list[Path]:
    return list((folder / "run").glob(".model.*.unfinished"))


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_artefact_that_is_cut_off_is_not_there(
    victim: int, models: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """One of both dies at the tenth weight; the other ends by itself, and the next run starts the artefact anew."""
    children = pair(models, tmp_path, prepare=lambda rank: at_weight(10, die) if rank == victim else None)
    assert all_ended(children, PATIENCE), [child.text[-2000:] for child in children]
    assert children[victim].code == -signal.SIGKILL
    assert children[1 - victim].code == 1 and "Traceback" not in children[1 - victim].text
    assert not (tmp_path / "run" / "model").exists()
    assert len(unfinished(tmp_path)) == (victim == 0)  # who lives clears up
    assert_same(ended(pair(models, tmp_path), tmp_path), undisturbed)
    assert not unfinished(tmp_path)


def test_a_full_disk_while_the_artefact_is_written(models: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """The first process may not write on: both end with its message and exit code 2, and nothing is left."""

    def prepare(rank: int) -> None:
        if rank == 0:
            at_weight(10, lambda: limit_file_size(20_000))

    children = [child.wait() for child in pair(models, tmp_path, prepare=prepare)]
    assert [child.code for child in children] == [2, 2], [child.text[-2000:] for child in children]
    for child in children:
        assert "model: cannot be written (File too large)" in child.text and "Traceback" not in child.text
    assert not (tmp_path / "run" / "model").exists() and not unfinished(tmp_path)
    assert_same(ended(pair(models, tmp_path), tmp_path), undisturbed)


@pytest.mark.parametrize(
    ("name", "text"),
    [("transformer.h.0.mlp.c_fc.weight", "the saved model is not the trained one, do not use it"),
     pytest.param("score.weight", "the head on disk is not the trained one", marks=pytest.mark.slow)],
)  # fmt: skip
def test_an_artefact_that_scores_otherwise_is_an_error_of_both(
    name: str, text: str, models: Path, tmp_path: Path
) -> None:
    """A weight is another one on disk; both processes read their part of it, and both end with the message."""

    def prepare(rank: int) -> None:
        save = phase.save_artefact

        def spoilt(*arguments: Any, **options: Any) -> Path:
            folder = save(*arguments, **options)
            weights = load_file(folder / "model.safetensors")
            save_file(weights | {name: weights[name] + 1}, folder / "model.safetensors")
            return folder

        phase.save_artefact = spoilt

    children = [child.wait() for child in pair(models, tmp_path, prepare=prepare)]
    for child in children:
        assert child.code == ArtefactError.exit_code and text in child.text, child.text[-2000:]
        assert "Traceback" not in child.text


@pytest.mark.slow
def test_a_save_in_the_background_that_is_cut_off(models: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Both die while parts are written beside a step; the run ends as one that saved at once and was not disturbed."""
    assert kill(pair(models, tmp_path, async_save=True), [0, 1], InNthSave(tmp_path / "run", 2))
    assert staging(tmp_path / "run")
    assert_same(ended(pair(models, tmp_path, async_save=True), tmp_path), undisturbed)


@pytest.mark.slow
def test_fifty_kills(
    models: Path, undisturbed: dict[str, Any], figure: Callable[[str, str, Any], None], tmp_path: Path
) -> None:
    """One of the processes or both, at random times and within saves; at least ten of them within."""
    chance, kills = random.Random(13), 50
    done = inside = runs = 0
    while done < kills:
        folder = tmp_path / str(runs)
        killed, hit = chain(models, folder, chance, min(10, kills - done))
        assert_same(ended(pair(models, folder), folder), undisturbed)
        done, inside, runs = done + killed, inside + hit, runs + 1
    assert inside >= 10, "too few kills hit a save: the drill shows nothing"
    figure("F8 kills of divided runs", f"{done} kills, {inside} inside a save, {runs} runs", f"{runs} identical")
