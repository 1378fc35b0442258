"""`python -m benchmarks.planning`: what phases=[plan] says a run takes, beside what the run takes.

Random models of 20 to 100 million parameters train two steps on this machine's CPUs, with all weights and with a LoRA,
in one process and in two. Each process counts the bytes of its weights, gradients and optimizer state after the first
step, the bytes that autograd keeps of a micro-batch, and the highest resident memory above what it had before its
model. The plan is made from the config alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.meter import CLEAR_PEAK, memory

ROOT = Path(__file__).parents[1]
PROMPT, RESPONSE, COMPARISONS = 300, 100, 4  # tokens, tokens, rows of one step
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 272},
    "Qwen3 22M": {"model_type": "qwen3", "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 10,
                  "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 16_384},
    "Llama 98M": {"model_type": "llama", "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
                  "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": 16_384},
    "Gemma 3 24M": {"model_type": "gemma3_text", "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8,
                    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 16_384,
                    "sliding_window": 128},
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One run."""

    shape: str
    lora: bool = False
    parallel: str = "none"
    processes: int = 1
    precision: str = "fp32"
    checkpointing: bool = False
    optim: str = "adamw_torch"

    @property
    def words(self) -> str:
        """Name it in a table."""
        kind = "LoRA" if self.lora else "all weights"
        more = ", checkpointing" if self.checkpointing else ""
        return f"{self.shape}, {kind}, {self.optim}, {self.precision}{more}, {self.parallel} x {self.processes}"


CASES = [
    Case("Qwen3 22M"),
    Case("Qwen3 22M", precision="bf16"),
    Case("Qwen3 22M", optim="adafactor"),
    Case("Qwen3 22M", parallel="fsdp", processes=2),
    Case("Qwen3 22M", parallel="tp", processes=2),
    Case("Gemma 3 24M"),
    Case("Llama 98M"),
    Case("Llama 98M", precision="bf16", checkpointing=True),
    Case("Llama 98M", lora=True, precision="bf16"),
    Case("Llama 98M", parallel="ddp", processes=2),
    Case("Llama 98M", parallel="fsdp", processes=2),
    Case("Llama 98M", lora=True, parallel="fsdp", processes=2),
]


def strategy(name: str) -> Any:
    """What `parallel=<name>` makes."""
    from rmx.parallel import NoParallel, Replicated, Sharded

    made = {"none": NoParallel(), "ddp": Replicated(), "fsdp": Sharded(), "tp": Sharded(shard=1, tensor="auto")}
    return made[name]


def settings(case: Case) -> Any:
    """The trainer's settings of a case."""
    from rmx.training.arguments import trainer_settings

    return trainer_settings(
        precision=case.precision,
        max_tokens_per_micro_batch=1024,
        comparisons_per_step=COMPARISONS,
        gradient_checkpointing=case.checkpointing,
        optim=case.optim,
        max_steps=2,
        save_strategy="no",
        learning_rate=1e-4,
        use_cpu=True,
    )


def config_of(case: Case) -> Any:
    """The config of a case's model."""
    from transformers import AutoConfig

    values = dict(SHAPES[case.shape])
    return AutoConfig.for_model(
        values.pop("model_type"), **values, max_position_embeddings=4096, pad_token_id=0, eos_token_id=1
    )


# --- What the plan says -----------------------------------------------------------------------------------------------


def planned(case: Case, folder: Path) -> dict[str, Any]:
    """Plan a case from its config.json."""
    from dataclasses import replace

    from rmx.memory.activations import ActivationCounter
    from rmx.models import Adapter, RewardModelSource
    from rmx.models.skeleton import blueprint, skeleton
    from rmx.planning.parts import held_by_fullest, parts_of

    config_of(case).save_pretrained(folder / "config")
    source = RewardModelSource(name="planned", path=str(folder / "config"))
    adapter = Adapter(r=8) if case.lora else None
    plan = replace(blueprint(source, adapter), origin=case.shape)
    bare = skeleton(plan, source, adapter)
    sizes = strategy(case.parallel).sizes(case.processes)
    args = settings(case).training_arguments(folder, 0, evaluates=False)
    counter = ActivationCounter(plan.config, plan.dtype, adapter, case.precision)  # type: ignore[arg-type]
    tensor = 1 if sizes is None else sizes.tensor
    activations = counter.of(checkpointing=case.checkpointing, tensor=tensor, on_gpu=False)
    assert not isinstance(activations, str), activations
    parts = parts_of(
        bare,
        args,
        activations,
        held=held_by_fullest(bare.model, args, sizes),
        sizes=sizes,
        processes=case.processes,
        precision=case.precision,  # type: ignore[arg-type]
        checkpointing=case.checkpointing,
    )
    tokens = 2 * (PROMPT + 2 * RESPONSE)  # two comparisons fit into 1024 tokens: half of a step
    several = sizes.data == 1 if sizes is not None else case.processes == 1  # else each process has that half
    return {
        "held": [parts.weights, parts.gradients, parts.optimizer],
        "kept": activations.kept,
        "peak": parts.peak(tokens, several=several),
    }


# --- What the run takes -----------------------------------------------------------------------------------------------


def rows() -> list[Any]:
    """Sixteen comparisons of two responses, all of one length."""
    from rmx.records import EncodedComparison, Pair

    def ids(start: int, count: int) -> list[int]:
        return [2 + (start + 7 * i) % 250 for i in range(count)]

    return [
        EncodedComparison(str(n), "plan", ids(n, PROMPT), (ids(n + 1, RESPONSE), ids(n + 2, RESPONSE)), (Pair(0, 1),))
        for n in range(2 * COMPARISONS)
    ]


def run(case: Case, folder: Path) -> None:
    """One process: train, and leave what it held in process-<rank>.json."""
    import torch
    from transformers import AutoModelForSequenceClassification, TrainerCallback

    from benchmarks.worker import tokenizer
    from rmx.losses import bradley_terry
    from rmx.memory.activations import kept_bytes
    from rmx.models import Adapter
    from rmx.models.adapters import attach
    from rmx.models.build import reward_config
    from rmx.models.head import in_float32
    from rmx.scoring.scorer import Scorer
    from rmx.trackers import Recorder
    from rmx.training.choose_strategy import strategy_for
    from rmx.training.loop import Loop
    from rmx.training.memory_use import held_bytes
    from rmx.training.strategies import join_ranks

    torch.set_num_threads(1)
    chosen = settings(case)
    join_ranks(chosen.arguments, seconds=300)
    rank, found = int(os.environ.get("RANK", "0")), {}
    before = memory("VmRSS")
    torch.manual_seed(0)
    config = config_of(case)
    reward_config(config, 0)
    model: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    in_float32(model)
    if case.lora:
        model, _ = attach(model, Adapter(r=8))

    class Look(TrainerCallback):
        """Counts what is held before gradients are cleared, and measures from the second step on."""

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found["held"] = held_bytes(loop.model, loop.optimizer)
            if state.global_step == 0:
                CLEAR_PEAK.write_text("5")
            else:
                found["peak"] = (memory("VmHWM") - before) * 1024**2

    args = chosen.training_arguments(folder, 0, evaluates=False)
    shared = strategy_for(args, strategy(case.parallel))
    shared.divide(model, {})
    loop = Loop(
        Scorer(model, tokenizer(), None, max_tokens=1024), args, loss=bradley_terry, rows=rows(), evals={},
        settings=chosen, recorder=Recorder(), strategy=shared, own=[Look()],
    )  # fmt: skip
    loop.train()
    if case.processes == 1:
        loop.model.train()
        few, many = (
            kept_bytes(loop.engine, row) for row in (_of(config, 256), _of(config, 512))
        )  # as long as rows may be that a window does not cut
        found["kept"] = (many - few) / 256
    (folder / f"process-{rank}.json").write_text(json.dumps(found))


def _of(config: Any, tokens: int) -> Any:
    from rmx.records import EncodedComparison

    return EncodedComparison("one", "plan", [2 + i % 250 for i in range(tokens - 1)], ([3],), ())


def measured(case: Case, folder: Path) -> dict[str, Any]:
    """Run a case and return what its fullest process held."""
    job = ["-m", "benchmarks.planning", "--job", json.dumps(vars(case)), "--out", str(folder)]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.processes}"]
    command = [sys.executable, *(launch if case.processes > 1 else []), *job]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
        "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0",  # freed memory goes back at once
    }  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("process-*.json"))]
    held = [max(process["held"][i] for process in found) for i in range(3)]
    return {"held": held, "kept": found[0].get("kept"), "peak": max(process["peak"] for process in found)}


def compare(case: Case) -> dict[str, Any]:
    """Plan and measure one case."""
    with tempfile.TemporaryDirectory() as folder:
        plan = planned(case, Path(folder))
        return {"case": vars(case), "words": case.words, "planned": plan, "measured": measured(case, Path(folder))}


def table(results: list[dict[str, Any]]) -> str:
    """Return the comparison as Markdown."""
    lines = [
        "| run | weights, gradients, optimizer (MB, measured) | planned less measured | kept of a token (bytes, "
        "measured) | planned | peak (MB, measured) | planned |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        plan, seen = result["planned"], result["measured"]
        held = ", ".join(f"{size / 1e6:.2f}" for size in seen["held"])
        off = [p - m for p, m in zip(plan["held"], seen["held"], strict=True)]
        less = ", ".join(f"{o:+d} bytes ({o / m:+.2%})" if o else "0" for o, m in zip(off, seen["held"], strict=True))
        kept, own = seen["kept"], plan["kept"]
        token = ("", "") if kept is None else (f"{kept:,.0f}", f"{own:,.0f} ({own / kept - 1:+.1%})")
        peak = f"{seen['peak'] / 1e6:.0f}", f"{plan['peak'] / 1e6:.0f} ({plan['peak'] / seen['peak'] - 1:+.0%})"
        lines.append(f"| {' | '.join([result['words'], held, less, *token, *peak])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", help="one process of a case (JSON)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="part of the names of the cases to run")
    given = parser.parse_args()
    if given.job:
        run(Case(**json.loads(given.job)), given.out)
        return
    results = []
    for case in CASES:
        if given.only in case.words:
            results.append(compare(case))
            print(table(results[-1:]).splitlines()[-1], flush=True)
    print(table(results))
    if given.out:
        facts = {"date": date.today().isoformat(), "cpu": platform.processor(), "torch": version("torch")}
        given.out.with_suffix(".json").write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
        given.out.with_suffix(".md").write_text(table(results) + "\n")


if __name__ == "__main__":
    main()
