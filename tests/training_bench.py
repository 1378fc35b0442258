"""A small trainer for tests: the embedded model, generated comparisons, everything in memory but its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmx.data import SyntheticData
from rmx.losses import bradley_terry
from rmx.models import Adapter, RewardModelSource
from rmx.records import EncodedComparison
from rmx.scoring.scorer import Scorer
from rmx.templates import Template
from rmx.tokens import encode
from rmx.trackers import MetricsFile, Recorder
from rmx.training.arguments import trainer_settings
from rmx.training.loop import Loop


def make_trainer(
    folder: Path,
    *,
    size: int = 24,
    rows: Sequence[EncodedComparison] | None = None,
    adapter: Adapter | None = None,
    loss: Any = bradley_terry,
    callbacks: dict[str, Any] | None = None,
    responses: int = 2,
    evaluate: bool = False,
    **arguments: Any,
) -> Loop:
    splits = SyntheticData(size=size, responses=responses, validation_fraction=0.25 if evaluate else 0.0).read()
    loaded = RewardModelSource(name="tiny").load(adapter=adapter, seed=3)
    template = Template("auto").bind(loaded.tokenizer)
    train = encode(splits.train, loaded.tokenizer, template, max_tokens=512)[0] if rows is None else rows
    evals = {n: encode(r, loaded.tokenizer, template, max_tokens=512)[0] for n, r in splits.evals.items()}
    settings = trainer_settings(
        **{
            "precision": "fp32",
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 8,
            "max_steps": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            **arguments,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    return Loop(
        Scorer(loaded.model, loaded.tokenizer, template, max_tokens=512),
        settings.training_arguments(folder, 5, evaluates=bool(evals)),
        loss=loss,
        rows=train,
        evals=evals,
        settings=settings,
        recorder=Recorder([MetricsFile(folder / "metrics.jsonl")]),
        callbacks=callbacks,
    )
