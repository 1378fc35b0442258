"""What one run does, top to bottom.

    Workflow(...).run()      all phases, in the order given
    Workflow(...).train()    one phase; what it needs is prepared on the way

Building a Workflow reads and downloads nothing; `prepare` and the phases do the work, and import what is heavy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmx.errors import ConfigError

if TYPE_CHECKING:
    from rmx.data import LlamaFactoryData, Mixture, PreferenceData, SyntheticData
    from rmx.models import Adapter, RewardModelSource
    from rmx.run.state import Run
    from rmx.templates import Template
    from rmx.training.arguments import TrainerSettings

__all__ = ["Workflow"]

log = logging.getLogger(__name__)

Phase = Literal["audit", "inspect", "train", "eval", "predict"]


@dataclass
class Workflow:
    """One experiment: a base model, preference data, a template, a loss, and what to do with them.

    Args:
        model: where the model starts from.
        data: preference pairs to train on and to evaluate with.
        template: how a conversation becomes text.
        loss: (winner [M], loser [M], pairs) → loss per pair [M], in nats.
        trainer: optimisation settings.
        peft: an adapter to train instead of all weights.
        callbacks: name → `transformers.TrainerCallback`.
        phases: any of audit, inspect, train, eval, predict; the others are left out.
        seed: of head, adapter, data order and dropout.
        output_dir: the run folder; null makes `outputs/<model>-<data>/<date>-<time>`.
        trackers: wandb, tensorboard, trackio, mlflow, ...; metrics.jsonl is always written.
        project, group, tags: how trackers file the run.
        verbose: false shows warnings and the final line only.
        resume: `auto` continues from the newest valid checkpoint in output_dir, `never` starts anew, or a folder.
        resume_allow: configuration keys that may differ from the checkpoint's.
        push_to_hub: repository id that the model folder is uploaded to after training.
        config: the resolved configuration as YAML text, written to run.yaml; set by `rmx.instantiate`.
    """

    model: RewardModelSource
    data: PreferenceData | SyntheticData | Mixture | LlamaFactoryData
    template: Template
    loss: Callable[..., Any]
    trainer: TrainerSettings
    peft: Adapter | None = None
    callbacks: dict[str, Any] | None = None
    phases: list[Literal["audit", "inspect", "train", "eval", "predict"]] = field(
        default_factory=lambda: ["train", "eval", "predict"]
    )
    seed: int = 42
    output_dir: str | None = None
    trackers: list[str] = field(default_factory=lambda: ["wandb"])
    project: str = "rmx"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    verbose: bool = True
    resume: str = "auto"
    resume_allow: list[str] = field(default_factory=list)
    push_to_hub: str | None = None
    config: str | None = None
    _run: Run | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        known = ("audit", "inspect", "train", "eval", "predict")
        if unknown := [phase for phase in self.phases if phase not in known]:
            raise ConfigError(f"phases: {unknown[0]!r} is not a phase; allowed: {', '.join(known)}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed: {self.seed} is out of range; give a whole number from 0 to 4294967295")
        if not self.phases:
            raise ConfigError(f"phases: nothing to do; give some of {', '.join(known)}")

    def run(self) -> dict[str, Any]:
        """Run all phases and return their metrics; everything is in the run folder then.

        Returns:
            all_results.json's content, and `output_dir`.
        """
        verbs = {
            "audit": self.audit,
            "inspect": self.inspect,
            "train": self.train,
            "eval": self.evaluate,
            "predict": self.predict,
        }
        with self.prepare() as run:
            run.show_header()
            for phase in self.phases:
                verbs[phase]()
            return run.finish()

    def prepare(self) -> Run:
        """Open the run folder and return the run; data and model are read when a phase first needs them."""
        from rmx.run.state import Run

        if self._run is None or self._run.closed:
            self._run = Run(self)
        return self._run

    def audit(self) -> dict[str, Any]:
        """Look at the data before anything is trained on it: audit.json; needs no model weights."""
        return self.prepare().audit()

    def inspect(self) -> None:
        """Show three rows as the model reads them, with the scored token marked."""
        self.prepare().inspect()

    def train(self) -> dict[str, float]:
        """Train, keep the best checkpoint, save the artefact and check that it scores as the model in memory does."""
        return self.prepare().train()

    def evaluate(self) -> dict[str, float]:
        """Evaluate on every evaluation set: eval_results.json."""
        return self.prepare().evaluate()

    def predict(self) -> Path:
        """Write every pair's scores: generated_predictions.jsonl; returns the (first) file."""
        return self.prepare().predict()
