"""The real LLaMA-Factory, in its own environment: `LF_PYTHON -m benchmarks.llamafactory '{...case...}'`.

Its reward stage as `llamafactory.train.rm.workflow.run_rm` wires it (PairwiseTrainer, its collator, a causal
model with trl's value head), on the same token ids. Data preparation is left out, as for every peer.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
import tempfile
import types
from dataclasses import asdict
from typing import Any

from benchmarks.meter import Meter
from benchmarks.worker import Case, tokenizer
from benchmarks.workload import SIZES, pairs_of, shared_prefix

IGNORE = -100


def causal_model(case: Case) -> Any:
    """A causal model of the case's size with trl's value head, as LLaMA-Factory's loader makes it."""
    import torch
    import transformers
    from llamafactory.model.patcher import patch_valuehead_model
    from trl import AutoModelForCausalLMWithValueHead

    s = SIZES[case.size]
    config = getattr(transformers, s.config)(
        vocab_size=case.vocabulary,
        hidden_size=s.hidden,
        intermediate_size=s.mlp,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.key_heads,
        head_dim=s.hidden // s.heads,
        max_position_embeddings=4096,
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLMWithValueHead.from_pretrained(transformers.AutoModelForCausalLM.from_config(config))
    patch_valuehead_model(model)
    return model.train()


def features(case: Case) -> list[dict[str, Any]]:
    """Rows as LLaMA-Factory's pairwise processor leaves them: labels on the response only."""
    rows = []
    for chosen, rejected in pairs_of(case.rows):
        prompt = shared_prefix([chosen, rejected])
        row: dict[str, Any] = {"images": None, "videos": None, "audios": None}
        for side, ids in (("chosen", chosen), ("rejected", rejected)):
            row[f"{side}_input_ids"] = ids
            row[f"{side}_attention_mask"] = [1] * len(ids)
            row[f"{side}_labels"] = [IGNORE] * prompt + ids[prompt:]
        rows.append(row)
    return rows


def stub_torchaudio() -> None:
    """LLaMA-Factory imports it for speech models; text needs nothing of it, and CPU wheels are hard to find."""
    if importlib.util.find_spec("torchaudio") is None:
        stub = types.ModuleType("torchaudio")
        stub.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = stub


def main() -> None:
    stub_torchaudio()
    from datasets import Dataset
    from llamafactory.data import PairwiseDataCollatorWithPadding
    from llamafactory.data.template import TEMPLATES
    from llamafactory.hparams import FinetuningArguments
    from llamafactory.train.rm.metric import ComputeAccuracy
    from llamafactory.train.rm.trainer import PairwiseTrainer
    from transformers import Seq2SeqTrainingArguments

    case = Case(**json.loads(sys.argv[1]))
    model, meter, rows = causal_model(case), Meter(), features(case)
    with tempfile.TemporaryDirectory() as folder:
        args = Seq2SeqTrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=case.batch,
            per_device_eval_batch_size=case.batch,
            gradient_accumulation_steps=case.accumulation,
            learning_rate=1e-4,
            bf16=case.precision == "bf16",
            gradient_checkpointing=case.checkpointing,
            remove_unused_columns=False,
            logging_steps=case.logging_steps,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            use_cpu=True,
            seed=0,
        )
        trainer = PairwiseTrainer(
            model=model,
            args=args,
            finetuning_args=FinetuningArguments(stage="rm", finetuning_type="full", disable_shuffling=True),
            data_collator=PairwiseDataCollatorWithPadding(
                template=TEMPLATES["default"], model=model, pad_to_multiple_of=8, tokenizer=tokenizer()
            ),
            callbacks=[meter],
            compute_metrics=ComputeAccuracy(),
            train_dataset=Dataset.from_list(rows),
            tokenizer=tokenizer(),
            processor=None,
        )
        if case.phase == "eval":
            warm_up = case.batch * case.accumulation
            trainer.evaluate(Dataset.from_list(rows[:warm_up]))
            meter.loaded()
            meter.start()
            loss = trainer.evaluate(Dataset.from_list(rows[warm_up:]))["eval_loss"]
            result: dict[str, Any] = meter.result() | {"loss": loss}
        else:
            trainer.train()
            result = meter.measured | {"losses": meter.losses}
    print(json.dumps(asdict(case) | result))


if __name__ == "__main__":
    main()
