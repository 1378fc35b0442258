"""Where the numbers go: metrics.jsonl always, and any experiment tracker beside it.

metrics.jsonl is the one source of numbers: plots, reports, sweeps and trackers show what it holds.
A tracker is never an obstacle: without a key or a network wandb falls back to an offline run, and a tracker
that fails later is dropped with one warning while training goes on.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rmx.errors import ConfigError, RmxError
from rmx.files import write_json
from rmx.redact import redact, redact_command
from rmx.results import MetricsFile

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = ["HfTracker", "MetricsFile", "Recorder", "Tracker", "WandbTracker", "make_trackers"]

log = logging.getLogger(__name__)

WANDB_TIMEOUT_SECONDS = 8  # for reaching the server, before the run goes offline


class Tracker(Protocol):
    """Something that receives numbers while a run goes on."""

    name: str

    def log(self, step: int, epoch: float | None, values: Mapping[str, float]) -> None:
        """Take values such as {"train/loss": 0.6} at an optimizer step."""

    def summary(self, values: Mapping[str, Any], plots: Sequence[Path]) -> None:
        """Take the run's final numbers and its plots."""

    def close(self, exit_code: int) -> None:
        """Finish; nothing comes after."""


class WandbTracker:
    """A Weights & Biases run: online where there is a key and a network, offline otherwise."""

    name = "wandb"

    def __init__(
        self,
        folder: Path,
        *,
        project: str,
        run_name: str,
        group: str | None = None,
        tags: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> None:
        import wandb

        options: dict[str, Any] = {
            "project": project,
            "name": run_name,
            "group": group,
            "tags": list(tags),
            "dir": str(folder),
            "config": dict(config or {}),
            "id": run_id,
            "resume": "allow" if run_id else None,
        }
        quiet = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=WANDB_TIMEOUT_SECONDS,
            login_timeout=WANDB_TIMEOUT_SECONDS,
            finish_timeout=WANDB_TIMEOUT_SECONDS,
            finish_timeout_raises=False,
            # wandb writes down the command line; it must not hold a key.
            x_disable_meta=redact_command(sys.argv) != sys.argv,
        )
        self.offline_because = "" if wandb_has_key() else "no API key"
        asked = os.environ.get("WANDB_MODE")
        if asked in ("offline", "disabled"):
            self.offline_because = f"WANDB_MODE={asked}"
        if self.offline_because:
            self.run = wandb.init(**options, mode="disabled" if asked == "disabled" else "offline", settings=quiet)
        else:
            try:
                self.run = wandb.init(**options, settings=quiet)
            except (wandb.errors.Error, OSError, TimeoutError) as error:
                self.offline_because = f"{type(error).__name__}: the server did not answer"
                wandb.teardown()
                self.run = wandb.init(**options, mode="offline", settings=quiet)
        self.id = self.run.id
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, epoch: float | None, values: Mapping[str, float]) -> None:
        """Log the values with the optimizer step as their x axis."""
        self.run.log({**values, "step": step, **({} if epoch is None else {"epoch": epoch})})

    def summary(self, values: Mapping[str, Any], plots: Sequence[Path]) -> None:
        """Write the run's summary and upload the plots as images."""
        import wandb

        self.run.summary.update(dict(values))
        if plots:
            self.run.log({f"plots/{path.stem}": wandb.Image(str(path)) for path in plots})

    def close(self, exit_code: int) -> None:
        """Finish the run, so that the next job of a multirun does not log into it."""
        self.run.finish(exit_code=exit_code)


def wandb_id(folder: Path) -> str:
    """Return the id of this folder's wandb run, written down before wandb knows it: a resumed run has the same."""
    path = folder / "wandb_run.json"
    if path.exists():
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    made = secrets.token_hex(4)
    write_json(path, {"id": made})
    return made


def wandb_has_key() -> bool:
    """Whether wandb finds an API key without asking a person for it; nothing is verified over the network."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.errors.Error:  # a malformed key
        return False


class HfTracker:
    """Any other tracker that transformers knows (tensorboard, trackio, mlflow, comet_ml, ...)."""

    def __init__(self, name: str, args: TrainingArguments) -> None:
        from transformers import TrainerControl, TrainerState
        from transformers.integrations import TensorBoardCallback, get_reporting_integration_callbacks

        self.name = name
        try:
            (callback_class,) = get_reporting_integration_callbacks([name])
            self.callback = callback_class()
        except (ValueError, RuntimeError, ImportError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(
                f"trackers: {name!r} cannot be used ({reason}); install it (pip install {name}) or choose from "
                "wandb, tensorboard, trackio, mlflow, comet_ml, clearml, neptune, swanlab"
            ) from error
        self.args, self.state, self.control = args, TrainerState(), TrainerControl()
        self.state.is_world_process_zero = self.state.is_local_process_zero = True
        if isinstance(self.callback, TensorBoardCallback) and self.callback.logging_dir is None:
            # Its default is below args.output_dir, which holds checkpoints and nothing else.
            self.callback.logging_dir = str(Path(str(args.output_dir)).parent / "tensorboard")
        self.callback.on_train_begin(args, self.state, self.control, model=None)

    def log(self, step: int, epoch: float | None, values: Mapping[str, float]) -> None:
        """Hand the values over under the names from which transformers makes train/* and eval/*."""
        self.state.global_step, self.state.epoch = step, epoch or 0.0
        logs = dict(values)
        if self.name != "mlflow":  # the others write train/loss for loss and eval/loss for eval_loss; mlflow nothing
            logs = {_transformers_name(key): value for key, value in values.items()}
        self.callback.on_log(self.args, self.state, self.control, logs=logs, model=None)

    def summary(self, values: Mapping[str, Any], plots: Sequence[Path]) -> None:
        """Do nothing: these trackers have no common notion of a summary."""

    def close(self, exit_code: int) -> None:
        """Close the tracker's run."""
        self.callback.on_train_end(self.args, self.state, self.control)


def _transformers_name(key: str) -> str:
    """What transformers' callbacks make the key from again: they put train/ before a name, or eval/ for eval_.

    >>> _transformers_name("train/loss"), _transformers_name("eval/source/re-eval/x/accuracy")
    ('loss', 'eval_source/re-eval/x/accuracy')
    """
    return "eval_" + key.removeprefix("eval/") if key.startswith("eval/") else key.removeprefix("train/")


class Recorder:
    """Hands every number to all trackers; only the first rank has trackers.

    Values come without prefix (`loss`) and leave with the name of what they belong to (`train/loss`).
    """

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self.trackers = list(trackers)

    def log(self, step: int, epoch: float | None, name: str, values: Mapping[str, float]) -> None:
        """Log `values` of `name` ("train", "eval", "eval_<set>", "predict") at an optimizer step."""
        prefixed = {f"{name}/{key}": float(value) for key, value in values.items()}
        self._each("log", step, epoch, prefixed)

    def position(self) -> int:
        """Return how long metrics.jsonl is, after it reached the disk; 0 where this rank has none."""
        return sum(tracker.position() for tracker in self.trackers if isinstance(tracker, MetricsFile))

    def rewind(self, position: int) -> None:
        """Forget what metrics.jsonl holds beyond `position`: the run continues from there."""
        for tracker in self.trackers:
            if isinstance(tracker, MetricsFile):
                tracker.rewind(position)

    def summary(self, values: Mapping[str, Any], plots: Sequence[Path]) -> None:
        """Hand over the final numbers and plots."""
        self._each("summary", values, plots)

    def close(self, exit_code: int = 0) -> None:
        """Close all trackers, each even if another fails."""
        self._each("close", exit_code)
        self.trackers = []

    def _each(self, verb: str, *args: Any) -> None:
        for tracker in list(self.trackers):
            try:
                getattr(tracker, verb)(*args)
            except RmxError:
                raise  # a full disk under metrics.jsonl, or a signal
            except OSError:
                if isinstance(tracker, MetricsFile):
                    raise  # a full disk: the run's own record comes first
                self._drop(tracker, verb)
            except Exception:  # whatever a tracker's library raises: training does not end for it, and the log says so
                if isinstance(tracker, MetricsFile):
                    raise
                self._drop(tracker, verb)

    def _drop(self, tracker: Tracker, verb: str) -> None:
        self.trackers.remove(tracker)
        log.warning("Tracker %s failed in %s and is off for the rest of the run", tracker.name, verb, exc_info=True)


def make_trackers(
    names: Sequence[str],
    folder: Path,
    *,
    args: TrainingArguments,
    project: str,
    group: str | None,
    tags: Sequence[str],
    config: Mapping[str, Any],
    run_id: str | None = None,
) -> list[Tracker]:
    """Return metrics.jsonl's tracker and those named, ready to log; call on the first rank only."""
    trackers: list[Tracker] = [MetricsFile(folder / "metrics.jsonl")]
    project, group, tags, config = redact([project, group, list(tags), config])  # a tag may be resolved from a variable
    run_id = run_id or (wandb_id(folder) if "wandb" in names else None)
    for name in names:
        if name == "wandb":
            wandb_run = WandbTracker(
                folder,
                project=project,
                run_name=folder.name,
                group=group,
                tags=tags,
                config=config,
                run_id=run_id,
            )
            if wandb_run.offline_because:
                log.info(
                    "wandb: offline (%s); upload later with: wandb sync %s",
                    wandb_run.offline_because,
                    folder / "wandb" / "offline-run-*",
                )
            trackers.append(wandb_run)
        else:
            trackers.append(HfTracker(name, args))
    return trackers
