"""What one run does, top to bottom.

    Workflow(...).run()      all phases, in the order given, then plots and report
    Workflow(...).train()    one phase alone: what it needs is made on the way, what it opened is closed

Building a Workflow reads and downloads nothing; the verbs do the work, and import what is heavy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import MinLen

from rmx.data import LlamaFactoryData, Mixture, PreferenceData, SyntheticData
from rmx.errors import ConfigError
from rmx.launch import LocalRanks, RayRanks, SlurmRanks, named_waits, note, refuse_other_ranks
from rmx.models import Adapter, RewardModelSource
from rmx.parallel import NoParallel, Zero
from rmx.planning import PlanSettings
from rmx.templates import Template
from rmx.training.arguments import TrainerSettings
from rmx.values import Seed, refuse_wrong_fields

if TYPE_CHECKING:
    from rmx.data.audit import Audit
    from rmx.run.inputs import Model
    from rmx.scoring.evaluation import Evaluations
    from rmx.training.phase import Trained

__all__ = ["Done", "Workflow"]

Phase = Literal["audit", "inspect", "train", "eval", "predict", "plan"]


@dataclass
class Done:
    """What the phases have left so far; None for those that have not run."""

    folder: Path
    results: dict[str, Any] = field(default_factory=dict)  # all_results.json's content
    audit: Audit | None = None
    trained: Trained | None = None
    scores: Evaluations | None = None  # of the model as it is now; eval and predict share them
    predictions: Path | None = None


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
        parallel: how several processes share the model, and how many of them rmx starts.
        launch: where those run.
        plan: what `phases=[plan]` plans for.
        callbacks: name → `transformers.TrainerCallback`.
        phases: any of audit, inspect, train, eval, predict; the others are left out. Or plan, alone.
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
    parallel: NoParallel = field(default_factory=NoParallel)
    launch: LocalRanks | SlurmRanks | RayRanks = field(default_factory=LocalRanks)
    plan: PlanSettings = field(default_factory=PlanSettings)
    callbacks: dict[str, Any] | None = None
    phases: Annotated[list[Phase], MinLen(1)] = field(default_factory=lambda: ["train", "eval", "predict"])
    seed: Seed = 42
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
    _trained: Model | None = field(default=None, init=False, repr=False)  # what `train` left in memory
    _folder: str | None = field(default=None, init=False, repr=False)  # of the first verb; later ones go on in it

    def __post_init__(self) -> None:
        refuse_wrong_fields(self)
        if "plan" in self.phases and len(self.phases) > 1:
            raise ConfigError("phases: plan stands alone: it reads no weights and starts nothing; give phases=[plan]")
        if isinstance(self.parallel, Zero) and self.model.quantization in ("8bit", "4bit"):
            raise ConfigError(
                f"parallel=zero{self.parallel.stage}: DeepSpeed does not divide the weights of "
                f"model.quantization={self.model.quantization}; take parallel=ddp, or leave quantization out"
            )

    @property
    def plans(self) -> bool:
        """Whether the run is a plan: made by one process, however many it is for."""
        return "plan" in self.phases

    def refuse_no_return(self, phases: Sequence[Phase]) -> None:
        """Refuse a time limit for a run that the same command would not continue.

        Raises:
            ConfigError: there is no output_dir, or `resume` goes back to where it was before.
        """
        if self.trainer.stop_after is None or "train" not in phases:
            return
        start = f"trainer.stop_after={self.trainer.stop_after}: the same command has to continue the run, and"
        if self.output_dir is None:
            raise ConfigError(f"{start} without output_dir it starts another one; give output_dir=<folder>")
        if self.resume != "auto":
            raise ConfigError(f"{start} resume={self.resume} takes it back each time; use resume=auto")

    def refuse_fixed_ranks(self, processes: int) -> None:
        """Refuse `launch.min_processes` where not every number of processes from there on makes the same steps.

        Raises:
            ConfigError: a step depends on the number of processes, or the strategy does not take some of them.
        """
        least = self.launch.min_processes if isinstance(self.launch, RayRanks) else None
        if least is None:
            return
        if self.trainer.comparisons_per_step is None:
            raise ConfigError(
                f"launch.min_processes={least}: a step of fewer processes would have fewer comparisons; give "
                "trainer.comparisons_per_step, which is of all processes together"
            )
        for number in range(least, processes + 1):
            try:
                for per_node in range(1, number + 1):  # whichever machines are left
                    self.parallel.sizes(number, per_node)
            except ConfigError as error:
                raise ConfigError(f"launch.min_processes={least}: the run may go on with {number}: {error}") from error

    def run(self) -> dict[str, Any]:
        """Do all phases in the order given, then draw plots and the report.

        Returns:
            all_results.json's content, and `output_dir`.
        """
        if self.plans:
            from rmx.planning.make import make_plan

            return make_plan(self)
        done = self._perform(self.phases, draw=True)
        return {**done.results, "output_dir": str(done.folder)}

    def audit(self) -> dict[str, Any]:
        """Look at the data before anything is trained on it: audit.json. Needs no model weights."""
        done = self._perform(["audit"])
        return done.audit.as_dict() if done.audit else {}

    def inspect(self) -> None:
        """Show three rows as the model reads them, with the scored token marked."""
        self._perform(["inspect"])

    def train(self) -> dict[str, float]:
        """Train, keep the best checkpoint, save the artefact and check that it scores as the model in memory does."""
        return self._perform(["train"]).results

    def evaluate(self) -> dict[str, float]:
        """Evaluate on every evaluation set: eval_results.json. After `train`, of the trained model."""
        return self._perform(["eval"]).results

    def predict(self) -> Path:
        """Write every pair's scores: generated_predictions.jsonl; returns the (first) file."""
        done = self._perform(["predict"])
        return done.predictions or done.folder

    def _perform(self, phases: Sequence[Phase], *, draw: bool = False) -> Done:
        """Do these phases. What is made on the way is a value, handed on; what is opened is closed at the end."""
        from rmx.run import end, header
        from rmx.run import phases as phase
        from rmx.run.inputs import prepare, read
        from rmx.run.open_run import OpenRun
        from rmx.training.agreement import refuse_other_runs
        from rmx.training.choose_strategy import strategy_for
        from rmx.training.compiled import named_limit
        from rmx.training.phase import train
        from rmx.training.preflight import check_before_data, check_before_model
        from rmx.training.strategies import join_ranks

        self.refuse_no_return(phases)
        refuse_other_ranks(self.parallel.processes)
        self.parallel.refuse_missing()
        self.parallel.sizes(int(os.environ.get("WORLD_SIZE", "1")))
        join_ranks(self.trainer.arguments, seconds=60 * self.parallel.timeout_minutes)
        with named_waits(), OpenRun(self, self._folder) as run, named_limit():
            done = Done(run.folder)
            self._folder = str(run.folder)
            if "train" in phases:
                check_before_data(
                    self.trainer, self.callbacks, output_dir=run.folder, seed=self.seed, trackers=self.trackers
                )
            note("reading the data")
            splits = read(self, run, phases, self._trained)
            args = self.trainer.training_arguments(run.folder, self.seed, evaluates=bool(splits.evals))
            if "train" in phases:
                rows, sets = len(splits.train), list(splits.evals)
                check_before_model(self.trainer, args, self.callbacks, comparisons=rows, sets=sets, ranks=run.ranks)
            note("loading the model and tokenising the data")
            strategy = strategy_for(args, self.parallel)
            inputs = prepare(self, splits, args, phases, strategy.divide if strategy.divided else None, self._trained)
            if run.processes > 1:
                refuse_other_runs(self.config, inputs.rows, inputs.device)
            header.show(self, run, inputs, phases)
            if inputs.model is not None:
                run.start_trackers(self, inputs.args)
            if {"audit", "train"} & set(phases):
                done.audit = phase.audit_data(run, inputs, in_full="audit" in phases)
            model = inputs.model
            for name in phases:
                run.signals.check()
                note(f"in the phase {name}")
                if name == "inspect":
                    phase.inspect(self, run, inputs)
                elif name == "train" and model is not None:
                    done.trained = train(self, run, inputs, model, strategy)
                    model = self._trained = done.trained.model
                    done.results |= done.trained.metrics
                    done.scores = None  # of the model as it was before
                elif name in ("eval", "predict") and model is not None:
                    model.scorer.turns = strategy.turns()
                    done.scores = done.scores or phase.score(self, run, inputs, model)
                    if name == "eval":
                        done.results |= phase.evaluate(run, done.scores, model)
                    else:
                        done.predictions, metrics = phase.predict(run, done.scores, model)
                        done.results |= metrics
            end.finish(self, run, inputs, done, draw=draw)
            return done
