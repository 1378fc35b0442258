"""What a run leaves: predictions without gaps (F20), one run per folder, escaped names (F19), no secret (F18)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_harness import Child, die, needs_fork, run_child, start, train, workflow

from rmx.run.open_run import OpenRun

pytestmark = needs_fork


# --- Predictions ------------------------------------------------------------------------------------------------------


def predicting(folder: Path, models: Path, die_after: int | None = None) -> Callable[[], None]:
    """Train and predict; die while the n-th row is written."""

    def work() -> None:
        if die_after is not None:
            from rmx.scoring.evaluation import Evaluation

            original = Evaluation.rows

            def rows(self: Evaluation) -> Any:
                for number, row in enumerate(original(self)):
                    if number == die_after:
                        die()
                    yield row

            Evaluation.rows = rows  # type: ignore[method-assign]
        flow = workflow(folder, models, save_steps=5, eval_strategy="no")
        flow.phases = ["train", "predict"]
        flow.train()
        flow.predict()

    return work


def test_killed_while_predicting(models: Path, tmp_path: Path) -> None:
    """No half file, and after the resume every id once; what the killed run had begun to write is gone."""
    assert run_child(predicting(tmp_path / "run", models, die_after=3), tmp_path / "log").code == -9
    path = tmp_path / "run" / "generated_predictions.jsonl"
    assert not path.exists() and list((tmp_path / "run").glob(".*.unfinished"))
    child = run_child(predicting(tmp_path / "run", models), tmp_path / "log")
    assert child.code == 0, child.text
    ids = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 6
    assert not list((tmp_path / "run").glob(".*.unfinished"))


def test_one_run_per_folder(models: Path, tmp_path: Path) -> None:
    """A second process is refused, and the first does not notice; a killed one blocks nobody."""
    (tmp_path / "run").mkdir()

    def waiting() -> None:
        with OpenRun(workflow(tmp_path / "run", models)):
            (tmp_path / "ready").touch()
            signal.pause()

    first = start(waiting, tmp_path / "log")
    while not (tmp_path / "ready").exists():
        assert not first.ended(), first.text
    second = run_child(lambda: train(workflow(tmp_path / "run", models)), tmp_path / "log2")
    assert second.code == 2 and "another process is running" in second.text
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait().code == -9
    assert run_child(lambda: train(workflow(tmp_path / "run", models, max_steps=1)), tmp_path / "log3").code == 0


def test_a_refused_run_leaves_the_record(models: Path, tmp_path: Path) -> None:
    """run.yaml stays that of the run whose checkpoints stand there."""

    def flow(config: str, **changes: Any) -> Child:
        def work() -> None:
            made = workflow(tmp_path / "run", models, max_steps=2, **changes)
            made.config = config
            train(made)

        return run_child(work, tmp_path / "log")

    assert flow("seed: 7\n").code == 0
    assert flow("seed: 8\n", seed=8).code == 2
    assert (tmp_path / "run" / "run.yaml").read_text() == "seed: 7\n"


# --- Secrets ----------------------------------------------------------------------------------------------------------

SECRETS = {
    "HF_TOKEN": "hf_PLANTEDplantedPLANTEDplanted0001",
    "WANDB_API_KEY": "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee02",
    "MY_SERVICE_PASSWORD": "planted-password-0003",
}
ON_COMMAND_LINE = "planted-on-command-line-0004"
IN_URL = "planted-in-url-0005"
AS_TAG = "planted-resolved-as-a-tag-0006"


def sweep(folder: Path) -> dict[str, list[str]]:
    """Secret → files that hold it, in any form a text search finds, binary files included."""
    planted = [*SECRETS.values(), ON_COMMAND_LINE, IN_URL, AS_TAG]
    found: dict[str, list[str]] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in planted:
                if secret.encode() in content:
                    found.setdefault(secret, []).append(str(path.relative_to(folder)))
    return found


def command_line(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does, with secrets in its environment and on its command line."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HF_"))}
    environment |= {**SECRETS, "MY_TAG_SECRET": AS_TAG, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(folder), "WANDB_MODE": "offline"}
    return subprocess.run(
        [sys.executable, "-m", "rmx", f"output_dir={folder}/run", "trainer.max_steps=2", "data.size=24", *overrides],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )


@pytest.mark.slow
def test_planted_secrets(figure: Callable[..., None], tmp_path: Path) -> None:
    """Five secrets go in by environment, URL and interpolation; a whole run with wandb leaves none.

    A sixth, on the command line, is refused by its key before the run, and is not in what was written about that.
    """
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git" / "config").write_text(f'[remote "origin"]\n\turl = https://me:{IN_URL}@example.org/x.git\n')
    refused = command_line(tmp_path, "trackers=[wandb]", f"+trainer.hub_token={ON_COMMAND_LINE}")
    assert refused.returncode == 2 and "trainer.hub_token" in refused.stderr, refused.stderr[-2000:]
    assert ON_COMMAND_LINE not in refused.stdout + refused.stderr
    done = command_line(
        tmp_path,
        "trackers=[wandb]",
        "tags=['${oc.env:MY_TAG_SECRET}']",
        "project='${oc.env:MY_SERVICE_PASSWORD}'",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*")), "wandb wrote nothing: the drill shows nothing"
    found = sweep(tmp_path)
    found.pop(IN_URL, None) if set(found.get(IN_URL, [])) == {".git/config"} else None
    assert not found, found
    assert not [s for s in (*SECRETS.values(), ON_COMMAND_LINE, AS_TAG) if s in done.stdout + done.stderr]
    figure("F18 secrets", "6 planted, whole run with wandb offline, one refused by its key", "0 found")


def test_secrets_in_an_error(tmp_path: Path) -> None:
    """A mistake beside a secret: the message is shown without it."""
    done = command_line(tmp_path, f"+trainer.hub_token={ON_COMMAND_LINE}", "trainer.learning_rate=abc", "seed=x")
    assert done.returncode == 2 and "trainer.learning_rate" in done.stderr + done.stdout
    assert ON_COMMAND_LINE not in done.stderr + done.stdout
