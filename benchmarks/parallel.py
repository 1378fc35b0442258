"""`python -m benchmarks.parallel`: the memory that each process needs while weights are divided among 1, 2 and 4.

A random Llama of 106 million parameters (float32, AdamW: 16 bytes each, 1.7 GB in one process) trains for a few steps
on this machine's CPUs. Every process measures its own peak of resident memory (VmHWM): in loading, from the first step
to the end of training, and while model/ is saved and checked. It counts the bytes of the tensors that it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.meter import CLEAR_PEAK, memory

CASES = [
    ("none", 1),
    ("ddp", 2),
    ("fsdp", 2),
    ("tp", 2),
    ("zero2", 2),
    ("zero3", 2),
    ("ddp", 4),
    ("fsdp", 4),
    ("hsdp", 4),
    ("fsdp_tp", 4),
]
# glibc keeps freed blocks of up to 32 MB for later, as resident memory: here it gives them back.
GIVES_BACK = {"MALLOC_TRIM_THRESHOLD_": "1000000", "MALLOC_ARENA_MAX": "1"}
ROOT = Path(__file__).parents[1]


def save_base(folder: Path) -> None:
    """A random language model of 15 layers, 768 wide, with the embedded model's byte tokenizer."""
    import torch
    from transformers import LlamaForCausalLM

    from rmx.models.tiny import tiny_config, tiny_tokenizer

    torch.manual_seed(0)
    config = tiny_config()
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 768, 2048, 15
    config.num_attention_heads = config.num_key_value_heads = 12
    config.head_dim = 64
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def strategy(name: str) -> Any:
    """What `parallel=<name>` makes."""
    from rmx.parallel import NoParallel, Replicated, Sharded, Zero

    return {
        "none": NoParallel(),
        "ddp": Replicated(),
        "fsdp": Sharded(),
        "hsdp": Sharded(shard=2, replicate=2),
        "tp": Sharded(shard=1, tensor="auto"),
        "fsdp_tp": Sharded(shard=2, tensor=2),
        "zero2": Zero(stage=2),
        "zero3": Zero(stage=3),
    }[name]


def train(base: Path, name: str, folder: Path) -> None:
    """One process of a case: train, and leave what it needed in peak-<rank>.json."""
    import torch
    from transformers import TrainerCallback

    from rmx.data import SyntheticData
    from rmx.losses import bradley_terry
    from rmx.models import RewardModelSource
    from rmx.templates import Template
    from rmx.training import phase
    from rmx.training.arguments import trainer_settings
    from rmx.workflow import Workflow

    torch.set_num_threads(1)
    found: dict[str, float] = {"libraries_mb": memory("VmRSS")}

    class Peak(TrainerCallback):
        """Measures from the first step on; its numbers are of the process that it runs in."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found["loading_mb"] = memory("VmHWM")
            CLEAR_PEAK.write_text("5")

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found["training_mb"] = memory("VmHWM")
            parts = strategies[0].held(kwargs["model"], kwargs["optimizer"])
            found["weights_mb"], found["gradients_mb"], found["optimizer_mb"] = (size / 2**20 for size in parts)

    optimise, save = phase._optimise, phase.save
    strategies: list[Any] = []

    def watched(*arguments: Any) -> Any:
        strategies.append(arguments[-1])
        return optimise(*arguments)

    phase._optimise = watched

    def measured(*arguments: Any) -> None:
        CLEAR_PEAK.write_text("5")
        save(*arguments)
        found["saving_mb"] = memory("VmHWM")

    phase.save = measured
    Workflow(
        model=RewardModelSource(name="llama-106m", path=str(base)),
        data=SyntheticData(size=24, max_tokens=256, validation_fraction=0.25),
        template=Template("auto"),
        loss=bradley_terry,
        parallel=strategy(name),
        trainer=trainer_settings(
            max_steps=3, comparisons_per_step=4, max_tokens_per_micro_batch=256, precision="fp32", use_cpu=True,
            learning_rate=1e-5, eval_strategy="no", save_strategy="no", logging_steps=1, load_best_model_at_end=False,
        ),
        callbacks={"peak": Peak()},
        phases=["train"],
        output_dir=str(folder / "run"),
        trackers=[],
        verbose=False,
    ).train()  # fmt: skip
    (folder / f"peak-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


def case(base: Path, name: str, processes: int, folder: Path) -> dict[str, Any]:
    """Run one case; the largest number of its processes is what a machine has to have for each."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*(launch if processes > 1 else [sys.executable]), "-m", "benchmarks.parallel"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"} | GIVES_BACK
    worker = ["--base", str(base), "--strategy", name, "--folder", str(folder)]
    done = subprocess.run([*command, *worker], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} on {processes}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    peaks = [json.loads(file.read_text()) for file in sorted(folder.glob("peak-*.json"))]
    if len(peaks) != processes:
        raise RuntimeError(f"{name}: {len(peaks)} of {processes} processes have measured")
    losses = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    largest = {key: round(max(peak[key] for peak in peaks), 1) for key in peaks[0]}
    loss = next(row["train/loss"] for row in reversed(losses) if "train/loss" in row)
    return {"strategy": name, "processes": processes, "loss": loss, **largest}


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    names = {
        "weights_mb": "weights", "gradients_mb": "gradients", "optimizer_mb": "optimizer state",
        "loading_mb": "peak in loading", "training_mb": "peak in training", "saving_mb": "peak in saving and checking",
    }  # fmt: skip
    head = ["parallel", "processes", "loss of step 3", *names.values()]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in results:
        cells = [row["strategy"], str(row["processes"]), f"{row['loss']:.6f}", *(f"{row[key]:,.0f}" for key in names)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--strategy")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cases", help="some of them, such as fsdp-2,tp-2; all by default")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/parallel.json and .md")
    chosen = parser.parse_args()
    if chosen.strategy:
        train(chosen.base, chosen.strategy, chosen.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        save_base(base)
        results = []
        wanted = chosen.cases.split(",") if chosen.cases else [f"{name}-{processes}" for name, processes in CASES]
        for name, processes in [case for case in CASES if "-".join(map(str, case)) in wanted]:
            here = Path(folder) / f"{name}-{processes}"
            here.mkdir()
            results.append(case(base, name, processes, here))
            print(results[-1], flush=True)
    made = {"date": str(date.today()), "machine": platform.machine(), "torch": version("torch")}
    text = (
        f"MB of each process (the largest of them), 106 million parameters, AdamW in float32, torch {made['torch']} "
        f"with gloo on {os.cpu_count()} CPU cores, {made['date']}. "
        f"{results[0]['libraries_mb']:.0f} MB of each peak are Python and its libraries.\n\n{table(results)}\n"
    )
    print(text)
    if chosen.save:
        results_folder = ROOT / "benchmarks" / "results"
        (results_folder / "parallel.json").write_text(json.dumps(made | {"cases": results}, indent=1) + "\n")
        (results_folder / "parallel.md").write_text(text)


if __name__ == "__main__":
    main()
