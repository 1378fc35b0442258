"""One case in one process: `python -m benchmarks.worker '{"peer": "rmx", ...}'` prints one line of JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.workload import EOS, PAD, Rows, build_model, comparisons, pairs_of


@dataclass(frozen=True)
class Case:
    """What one process runs. `batch` counts pairs for peers, and comparisons for rmx."""

    peer: str
    sample: str  # JSON file of token rows; the first `batch` × `accumulation` are the warm-up step
    phase: str = "train"
    size: str = "S"
    vocabulary: int = 32_000
    batch: int = 8
    accumulation: int = 1
    precision: str = "fp32"
    checkpointing: bool = False
    logging_steps: int = 10

    @property
    def rows(self) -> Rows:
        return json.loads(Path(self.sample).read_text())


Result = dict[str, Any]


# --- rmx ----------------------------------------------------------------------------------------------------


def rmx(case: Case, encoding: str = "auto", layout: str | None = None) -> Result:
    """rmx's own trainer, scorer and evaluation; `layout` forces the padded fallback, for the ablation."""
    from benchmarks.meter import Meter
    from rmx.engine import Collator
    from rmx.losses import bradley_terry
    from rmx.scoring.evaluation import evaluate_pairs
    from rmx.scoring.scorer import Scorer
    from rmx.trackers import Recorder
    from rmx.training.arguments import trainer_settings
    from rmx.training.loop import Loop

    encoded = comparisons(case.rows)
    model = build_model(case.size, case.vocabulary)
    scorer = Scorer(model, tokenizer(), None, encoding=encoding)
    if layout is not None:
        scorer.engine.encoding, scorer.engine.collator = layout, Collator(layout, PAD)
    meter = Meter()
    if case.phase == "eval":
        warm_up = encoded[: case.batch]
        evaluate_pairs(scorer, {"eval": warm_up}, bradley_terry)
        meter.loaded()
        meter.start()
        done = evaluate_pairs(scorer, {"eval": encoded[len(warm_up) :]}, bradley_terry)
        return meter.result() | {"loss": done.metrics["eval"]["loss"]}
    settings = trainer_settings(
        precision=case.precision,
        num_train_epochs=1,
        per_device_train_batch_size=case.batch,
        gradient_accumulation_steps=case.accumulation,
        learning_rate=1e-4,
        gradient_checkpointing=case.checkpointing,
        train_sampling_strategy="sequential",
        logging_steps=case.logging_steps,
        save_strategy="no",
    )
    with tempfile.TemporaryDirectory() as folder:
        args = settings.training_arguments(Path(folder), 0, evaluates=False)
        loop = Loop(
            scorer,
            args,
            loss=bradley_terry,
            rows=encoded,
            evals={},
            settings=settings,
            recorder=Recorder(),
            own=[meter],
        )
        loop.train()
    return meter.measured | {"losses": meter.losses, "encoding": loop.engine.encoding}


# --- TRL ----------------------------------------------------------------------------------------------------


def trl(case: Case, length_sorted: bool = False) -> Result:
    """TRL's RewardTrainer as it is, on token ids."""
    import torch
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from benchmarks.meter import Meter

    pairs = pairs_of(case.rows)
    warm_up = case.batch * case.accumulation
    if length_sorted:
        pairs = pairs[:warm_up] + sorted(pairs[warm_up:], key=lambda pair: -max(map(len, pair)))
    data = Dataset.from_dict({"chosen_ids": [c for c, _ in pairs], "rejected_ids": [r for _, r in pairs]})
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        args = RewardConfig(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=case.batch,
            per_device_eval_batch_size=case.batch,
            gradient_accumulation_steps=case.accumulation,
            bf16=case.precision == "bf16",
            gradient_checkpointing=case.checkpointing,
            train_sampling_strategy="sequential",
            logging_steps=case.logging_steps,
            max_length=None,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            seed=0,
        )
        trainer = RewardTrainer(
            model=build_model(case.size, case.vocabulary),
            args=args,
            train_dataset=data,
            processing_class=tokenizer(),
            callbacks=[meter],
        )
        if case.phase == "eval":
            trainer.evaluate(data.select(range(warm_up)))
            meter.loaded()
            meter.start()
            loss = trainer.evaluate(data.select(range(warm_up, len(data))))["eval_loss"]
            return meter.result() | {"loss": loss}
        trainer.train()
    return meter.measured | {"losses": meter.losses}


# --- LLaMA-Factory ------------------------------------------------------------------------------------------


def llamafactory_reproduction(case: Case) -> Result:
    """What LLaMA-Factory's reward stage computes, in a plain loop: vocabulary logits, a float32 copy, an LM loss.

    For machines without LLaMA-Factory; its own trainer does all of this and more (`benchmarks/llamafactory.py`).
    """
    import torch
    from torch.nn.functional import cross_entropy, logsigmoid

    from benchmarks.meter import Meter

    body = build_model(case.size, case.vocabulary).model
    lm_head = torch.nn.Linear(body.config.hidden_size, case.vocabulary, bias=False)
    value_head = torch.nn.Linear(body.config.hidden_size, 1)
    model = torch.nn.ModuleList([body, lm_head, value_head])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    pairs = pairs_of(case.rows)
    meter = Meter()
    meter.loaded()
    for start in range(0, len(pairs), case.batch):
        if start == case.batch * case.accumulation:
            meter.start()
        rows = [pair[side] for side in (0, 1) for pair in pairs[start : start + case.batch]]
        lengths = torch.tensor([len(ids) for ids in rows])
        ids = torch.full((len(rows), int(lengths.max())), PAD)
        for target, row in zip(ids, rows, strict=True):
            target[: len(row)] = torch.tensor(row)
        states = body(ids, attention_mask=(torch.arange(ids.shape[1]) < lengths[:, None]).long(), use_cache=False)[0]
        logits = lm_head(states).float()
        cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)  # made, never used
        values = value_head(states)[torch.arange(len(rows)), lengths - 1, 0]
        chosen, rejected = values.chunk(2)
        (-logsigmoid(chosen - rejected).mean() / case.accumulation).backward()
        if (start // case.batch + 1) % case.accumulation == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return meter.result()


PEERS: dict[str, Callable[[Case], Result]] = {
    "rmx": rmx,
    "rmx, nothing shared": lambda case: rmx(case, encoding="separate"),
    "rmx, padded fallback": lambda case: rmx(case, layout="padded"),
    "TRL": trl,
    "TRL, length-sorted": lambda case: trl(case, length_sorted=True),
    "LLaMA-Factory (reproduction)": llamafactory_reproduction,
}


def tokenizer() -> Any:
    """A tokenizer object, because trainers want one; the token ids are made already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": PAD, "<eos>": EOS}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )


def main() -> None:
    case = Case(**json.loads(sys.argv[1]))
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    result = PEERS[case.peer](case)
    print(json.dumps(asdict(case) | result))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainer reports home otherwise
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    main()
