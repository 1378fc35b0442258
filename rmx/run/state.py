"""One run in progress: its folder, its screen, and everything that phases share, built when first needed.

`rmx.workflow` says what happens in which order; this module holds the things it happens to.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import yaml

from rmx.data import Audit, SyntheticData, audit
from rmx.errors import DataError, RmxError
from rmx.models import tokenizer_of
from rmx.records import Comparison, EncodedComparison
from rmx.run.folder import (
    flat_results,
    shared_folder,
    write_json,
    write_results,
    write_setup,
)
from rmx.run.header import describe_run
from rmx.run.lock import FolderLock
from rmx.run.screen import Screen
from rmx.run.signals import StopSignals
from rmx.scoring.evaluation import Evaluations, evaluate_pairs, predictions_paths, write_predictions
from rmx.scoring.scorer import Scorer
from rmx.tokens import TruncationReport, cached_encode, show_tokens
from rmx.trackers import Recorder, make_trackers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, TrainingArguments

    from rmx.data import Splits
    from rmx.models import LoadedModel
    from rmx.templates import BoundTemplate
    from rmx.workflow import Workflow

__all__ = ["Run"]

log = logging.getLogger(__name__)


class Run:
    """The state of one run. Use it as a context manager, so that trackers and logs are closed whatever happens."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.rank, self.ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.is_main = self.rank == 0
        names = workflow.model.name, workflow.data.source
        self.folder = shared_folder(workflow.output_dir, *names, self.rank, self.ranks)
        self.lock = FolderLock(self.folder) if self.is_main else None
        self.closed = False
        self.signals = StopSignals()
        self.results: dict[str, Any] = {}
        self.trained = False
        self.step, self.epoch = 0, None  # type: int, float | None
        self.reports: dict[str, TruncationReport] = {}
        log_file = self.folder / "run.log" if self.is_main else None
        self.screen = Screen(verbose=workflow.verbose and self.is_main, log_file=log_file).__enter__()
        if self.is_main and not (self.folder / "checkpoints").is_dir():  # else: once it is known to be the same run
            write_setup(self.folder, workflow.config)

    def __enter__(self) -> Run:
        self.signals.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        code = 0 if error is None else error.exit_code if isinstance(error, RmxError) else 1
        if code == 1 and not isinstance(error, RmxError) and self.screen.log_file is not None:
            logging.getLogger("rmx.crash").error("crash", exc_info=error)
        self.close(code)
        self.signals.__exit__(kind, error, None)

    def close(self, exit_code: int = 0) -> None:
        """Close trackers, screen and log."""
        if not self.closed:
            self.closed = True
            if "recorder" in self.__dict__:
                self.recorder.close(exit_code)
            self.screen.__exit__()
            if self.lock is not None:
                self.lock.release()

    # --- What phases share ------------------------------------------------------------------------------------------

    @cached_property
    def splits(self) -> Splits:
        """The comparisons, read and split."""
        splits = self.workflow.data.read(self.folder)
        for note in splits.accounting.notes:
            log.info("data: %s", note)
        return splits

    @cached_property
    def args(self) -> TrainingArguments:
        """The transformers arguments; they also say which device this process has."""
        return self.workflow.trainer.training_arguments(
            self.folder, self.workflow.seed, evaluates=bool(self.splits.evals), verbose=self.workflow.verbose
        )

    @cached_property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.args.device

    @cached_property
    def loaded(self) -> LoadedModel:
        """Model and tokenizer."""
        w = self.workflow
        trainable = "train" in w.phases
        loaded = w.model.load(
            adapter=w.peft if trainable else None, trainable=trainable, seed=w.seed, device=str(self.device)
        )
        for note in loaded.notes:
            log.info("model: %s", note)
        return loaded

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer; where no phase needs the model, its weights are not read."""
        needs_model = "loaded" in self.__dict__ or set(self.workflow.phases) - {"audit", "inspect"}
        return self.loaded.tokenizer if needs_model else tokenizer_of(self.workflow.model)

    @cached_property
    def template(self) -> BoundTemplate:
        """The template, bound to the tokenizer."""
        bound = self.workflow.template.bind(self.tokenizer)
        for check in bound.checks:
            if not check.ok and check.name != "tools":  # rows with tools are counted when they are encoded
                log.warning("template: %s: %s", check.name, check.detail)
        return bound

    @cached_property
    def scorer(self) -> Scorer:
        """The model with its engine: what training, evaluation and prediction score with."""
        settings = self.workflow.trainer
        budget = settings.max_tokens_per_micro_batch
        return Scorer(
            self.loaded.model,
            self.loaded.tokenizer,
            self.template,
            max_tokens=self.max_tokens,
            encoding=settings.encoding,
            precision=settings.resolved_precision(self.device.type, training=False),
            max_tokens_per_micro_batch=4096 if budget == "auto" else budget,
        )

    @cached_property
    def max_tokens(self) -> int:
        """The longest sequence: `data.max_tokens`, or what the model has positions for."""
        asked = self.workflow.data.max_tokens
        limit = self.loaded.max_positions if "loaded" in self.__dict__ else None
        if limit is not None and asked > limit:
            log.warning("data.max_tokens=%d: the model has positions for %d tokens, which is used", asked, limit)
            return limit
        return asked

    @cached_property
    def train_rows(self) -> Sequence[EncodedComparison]:
        """The training set as token ids."""
        if not self.splits.train:
            raise DataError("phases: train: there are no training rows; look at data.path and validation_fraction")
        return self._encode("train", self.splits.train)

    @cached_property
    def eval_rows(self) -> dict[str, Sequence[EncodedComparison]]:
        """The evaluation sets as token ids."""
        return {name: self._encode(name, rows) for name, rows in self.splits.evals.items()}

    def _encode(self, name: str, comparisons: Sequence[Comparison]) -> Sequence[EncodedComparison]:
        """Token ids of one set; the same set under the same template and limits is read from the cache."""
        data = self.workflow.data
        rows, self.reports[name] = cached_encode(
            comparisons,
            self.tokenizer,
            self.template,
            max_tokens=self.max_tokens,
            truncation=data.truncation,
            on_bad_row="error" if isinstance(data, SyntheticData) else data.on_bad_row,
        )
        return rows

    @cached_property
    def recorder(self) -> Recorder:
        """Where numbers go; nothing on ranks other than the first."""
        w = self.workflow
        if not self.is_main:
            return Recorder()
        return Recorder(
            make_trackers(
                w.trackers,
                self.folder,
                args=self.args,
                project=w.project,
                group=w.group,
                tags=w.tags,
                config=yaml.safe_load(w.config) if w.config else {},
            )
        )

    # --- The screen ---------------------------------------------------------------------------------------------------

    def show_header(self) -> None:
        """Say what is about to run; this is where data and model are read."""
        needs_model = set(self.workflow.phases) - {"audit", "inspect"}
        if needs_model:
            self.workflow.model.locate()  # a model that cannot be had is said before data is read
        if self.is_main:
            self.screen.header(*describe_run(self, with_model=bool(needs_model)))

    def finish(self) -> dict[str, Any]:
        """Draw plots and the report, write the model card, push, and show the final table."""
        from rmx.run.end import finish

        if self.is_main:
            finish(self)
        return {**self.results, "output_dir": str(self.folder)}

    # --- Phases ---------------------------------------------------------------------------------------------------

    def audit(self) -> dict[str, Any]:
        """See `Workflow.audit`."""
        self.screen.text(self.audited.summary())
        self.audited.require_no_leak()
        return self.audited.as_dict()

    @cached_property
    def audited(self) -> Audit:
        """The audit of the data, written to audit.json."""
        rows = ({"train": self.train_rows} if self.splits.train else {}) | self.eval_rows
        found = audit(self.splits, rows, reports=self.reports)
        if self.is_main:
            write_json(self.folder / "audit.json", found.as_dict())
        return found

    def inspect(self) -> None:
        """See `Workflow.inspect`."""
        rows = self.splits.train or next(iter(self.splits.evals.values()))
        for source in dict.fromkeys(comparison.source for comparison in rows[:3]):
            account = self.splits.accounting.sources.get(source)
            if account is not None and account.columns:
                self.screen.text(f"{source}: columns: {account.columns_in_words(trivial=True)}")
        for comparison in rows[:3]:
            self.screen.text(show_tokens(comparison, self.tokenizer, self.template, max_tokens=self.max_tokens))

    def train(self) -> dict[str, float]:
        """See `Workflow.train`."""
        from rmx.training.phase import train

        self.signals.check()
        for finding in self.audited.findings:
            log.log(logging.INFO if finding.level == "note" else logging.WARNING, "audit: %s", finding.text)
        self.audited.require_no_leak()
        metrics = train(self)
        self.trained = True
        self.__dict__.pop("evaluations", None)  # the model has changed
        self.record("train", metrics)
        return metrics

    @cached_property
    def evaluations(self) -> Evaluations:
        """Scores of all evaluation sets by the model as it is now; eval and predict share them."""
        if not self.eval_rows:
            raise DataError(
                "phases: eval and predict need an evaluation set; set data.validation_fraction above 0, "
                "or name one: data.eval_sets={test: <path>}"
            )
        return evaluate_pairs(self.scorer, self.eval_rows, self.workflow.loss)

    def evaluate(self) -> dict[str, float]:
        """See `Workflow.evaluate`."""
        self.signals.check()
        metrics = flat_results(self.evaluations.metrics, "eval", self.epoch)
        for name, values in self.evaluations.metrics.items():
            self.recorder.log(self.step, self.epoch, name, values)
        self.record("eval", metrics)
        return metrics

    def predict(self) -> Path:
        """See `Workflow.predict`."""
        self.signals.check()
        paths = predictions_paths(self.evaluations, self.folder)
        if self.is_main:
            write_predictions(self.evaluations, paths)
        self.record("predict", flat_results(self.evaluations.metrics, "predict", self.epoch))
        return next(iter(paths.values()))

    def record(self, phase: str, metrics: Mapping[str, float]) -> None:
        """Keep a phase's metrics for the final table and write its result files."""
        self.results |= metrics
        if self.is_main:
            write_results(self.folder, phase, metrics)
