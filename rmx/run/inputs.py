"""What the phases of a run work on, made in order and once: data → model → template → token ids → scorer."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmx.data import SyntheticData
from rmx.errors import ConfigError, DataError
from rmx.models import tokenizer_of
from rmx.scoring.scorer import Scorer
from rmx.tokens import TruncationReport, cached_encode, rows_facts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, TrainingArguments

    from rmx.data import Splits
    from rmx.models import LoadedModel
    from rmx.models.resolve import Resolved
    from rmx.records import Comparison, EncodedComparison
    from rmx.run.open_run import OpenRun
    from rmx.templates import BoundTemplate
    from rmx.workflow import Workflow

__all__ = ["Inputs", "Model", "load_for_run", "prepare", "read"]

log = logging.getLogger(__name__)

SCORING_TOKENS = 4096  # per micro-batch where the trainer's budget is "auto": without gradients there is room


@dataclass(frozen=True)
class Model:
    """The model in use, and what scores with it: training changes its weights, evaluation reads them."""

    loaded: LoadedModel
    scorer: Scorer
    step: int = 0  # optimizer steps that it was trained for here
    epoch: float | None = None


@dataclass(frozen=True)
class Inputs:
    """The values that phases share. A phase that needs none of a kind finds it empty or None."""

    splits: Splits
    args: TrainingArguments
    tokenizer: PreTrainedTokenizerBase
    template: BoundTemplate
    max_tokens: int  # `data.max_tokens`, or what the model has positions for
    train: Sequence[EncodedComparison]
    evals: Mapping[str, Sequence[EncodedComparison]]
    reports: Mapping[str, TruncationReport]  # what tokenising did to each set
    model: Model | None

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.args.device

    @functools.cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Number and fingerprint of each set's rows."""
        return rows_facts(self.sets)

    @property
    def sets(self) -> dict[str, Sequence[EncodedComparison]]:
        """All encoded sets that have rows, training first."""
        return ({"train": self.train} if len(self.train) else {}) | dict(self.evals)


def read(w: Workflow, run: OpenRun, phases: Collection[str], trained: Model | None = None) -> Splits:
    """Read the data, once it is known that there is a model for the phases that need one.

    Raises:
        InputError: data or model cannot be had, or a phase has no rows to work on.
    """
    scores, trains = bool({"eval", "predict"} & set(phases)), "train" in phases
    if (scores or trains) and trained is None:
        place = w.model.locate()  # a model that cannot be had is said before data is read
        if w.trainer.arguments.get("use_liger_kernel"):
            _require_fusable(w, run, place)
    splits = w.data.read(run.folder)
    for note in splits.accounting.notes:
        log.info("data: %s", note)
    if trains and not splits.train:
        raise DataError("phases: train: there are no training rows; look at data.path and validation_fraction")
    if scores and not any(len(rows) for rows in splits.evals.values()):
        raise DataError(
            "phases: eval and predict need an evaluation set; set data.validation_fraction above 0, "
            "or name one: data.eval_sets={test: <path>}"
        )
    return splits


def _require_fusable(w: Workflow, run: OpenRun, place: Resolved | None) -> None:
    """Refuse kernels that cannot be had on this device, or for this model, before anything is loaded."""
    from rmx.models.build import config_of
    from rmx.models.fused import require_fusable
    from rmx.models.tiny import tiny_config

    refuse_divided_layers(w)
    if place is None:
        model_type: str | None = tiny_config().model_type
    else:  # a stored adapter says what it stands on when it is loaded
        known = (place.folder / "config.json").exists()
        model_type = config_of(place).get_text_config().model_type if known else None
    args = w.trainer.training_arguments(run.folder, w.seed, evaluates=False)
    require_fusable(args.liger_kernel_config, args.device, model_type)


def refuse_divided_layers(w: Workflow) -> None:
    """Refuse fused kernels where a process holds a part of each layer only.

    Raises:
        ConfigError: `parallel.tensor` divides layers.
    """
    sizes = w.parallel.sizes(int(os.environ.get("WORLD_SIZE", "1")))
    if sizes is not None and sizes.tensor > 1:
        raise ConfigError(
            f"trainer.use_liger_kernel: its kernels take whole norms and heads, and parallel.tensor={sizes.tensor} "
            "divides them; leave it out, or use parallel=fsdp"
        )


def prepare(
    w: Workflow,
    splits: Splits,
    args: TrainingArguments,
    phases: Collection[str],
    divide: Callable[[Any, Mapping[str, Any]], None] | None = None,
    trained: Model | None = None,
) -> Inputs:
    """Make what these phases need, and nothing else.

    Args:
        w: the workflow.
        splits: its comparisons.
        args: of the trainer.
        phases: to be done.
        divide: divides the weights of the model among processes; None where each has them whole.
        trained: the model of an earlier phase, used as it is.

    Raises:
        InputError: model or template cannot be used.
    """
    trains = "train" in phases
    needs_model = trains or bool({"eval", "predict"} & set(phases))
    use_trained = trained is not None and not trains
    if needs_model and not trains and trained is None:
        if w.peft is not None:
            log.info(
                "peft=%s does nothing: phases has no train, and what is scored is the model of model.path", w.peft.kind
            )
        if w.trainer.stop_after is not None:
            log.info("trainer.stop_after=%s does nothing: phases has no train", w.trainer.stop_after)
    loaded = (
        trained.loaded if use_trained and trained else load_for_run(w, args, trains, divide) if needs_model else None
    )
    tokenizer = tokenizer_of(w.model) if loaded is None else loaded.tokenizer
    template = _bind(w, tokenizer)
    max_tokens = _max_tokens(w, loaded)
    encode = _Encoder(w, tokenizer, template, max_tokens)
    train = encode("train", splits.train) if splits.train and (trains or "audit" in phases) else []
    evals = {name: encode(name, rows) for name, rows in splits.evals.items()} if set(phases) - {"inspect"} else {}
    model = trained if use_trained else None if loaded is None else Model(loaded, _scorer(w, args, loaded, template))
    return Inputs(splits, args, tokenizer, template, max_tokens, train, evals, encode.reports, model)


def load_for_run(
    w: Workflow,
    args: TrainingArguments,
    trains: bool,
    divide: Callable[[Any, Mapping[str, Any]], None] | None = None,
) -> LoadedModel:
    """Load the model, put fused kernels in its place where they are asked for, and divide it where it is divided."""
    from rmx.models.fused import fuse

    loaded = w.model.load(
        adapter=w.peft if trains else None,
        trainable=trains,
        seed=w.seed,
        device=str(args.device),
        divided=divide is not None,
    )
    if args.use_liger_kernel:
        loaded.fused = fuse(loaded.model, args.liger_kernel_config)
    if divide is not None:
        divide(loaded.model, loaded.unread)
    for note in loaded.notes:
        log.info("model: %s", note)
    return loaded


def _bind(w: Workflow, tokenizer: PreTrainedTokenizerBase) -> BoundTemplate:
    bound = w.template.bind(tokenizer)
    for check in bound.checks:
        if not check.ok and check.name != "tools":  # rows with tools are counted when they are encoded
            log.warning("template: %s: %s", check.name, check.detail)
    return bound


def _max_tokens(w: Workflow, loaded: LoadedModel | None) -> int:
    asked = w.data.max_tokens
    limit = None if loaded is None else loaded.max_positions
    if limit is not None and asked > limit:
        log.warning("data.max_tokens=%d: the model has positions for %d tokens, which is used", asked, limit)
        return limit
    return asked


def _scorer(w: Workflow, args: TrainingArguments, loaded: LoadedModel, template: BoundTemplate) -> Scorer:
    budget = w.trainer.max_tokens_per_micro_batch
    return Scorer(
        loaded.model,
        loaded.tokenizer,
        template,
        max_tokens=_max_tokens(w, loaded),
        encoding=w.trainer.encoding,
        precision=w.trainer.resolved_precision(args.device.type, training=False),
        max_tokens_per_micro_batch=SCORING_TOKENS if budget == "auto" else budget,
    )


class _Encoder:
    """Token ids of one set after the other, and what tokenising did to each of them.

    The same set under the same template and limits is read from the cache.
    """

    def __init__(self, w: Workflow, tokenizer: Any, template: BoundTemplate, max_tokens: int) -> None:
        self.reports: dict[str, TruncationReport] = {}
        self._tokenizer, self._template = tokenizer, template
        self._max_unprinted_fraction = w.template.max_unprinted_fraction
        self._options: dict[str, Any] = {
            "max_tokens": max_tokens,
            "truncation": w.data.truncation,
            "on_bad_row": "error" if isinstance(w.data, SyntheticData) else w.data.on_bad_row,
        }

    def __call__(self, name: str, comparisons: Sequence[Comparison]) -> Sequence[EncodedComparison]:
        try:
            rows, report = cached_encode(comparisons, self._tokenizer, self._template, **self._options)
        except DataError as error:
            raise DataError(f"data, {name}: {error}") from error
        if not any(pair.weight > 0 for row in rows for pair in row.pairs):
            raise DataError(
                f"data, {name}: all {len(rows)} comparisons have weight 0, so nothing can be learned or measured; "
                "look at the column of data.columns.weight"
            )
        report.require_printed(name, self._template.name, self._max_unprinted_fraction)
        self.reports[name] = report
        return rows
