"""`python -m benchmarks.gpu --output results.jsonl`: rmx against TRL's RewardTrainer on one GPU, at full size.

Random weights of the shapes people train, pairs with the lengths of HH-RLHF (`hh_lengths.json`), the same pairs in the
same steps in both. Each piece is a process with a time limit of its own; inside it the two take turns, round after
round, each time on a fresh model. Every run is one line of JSON, written when it ends, so that what was cut off loses
nothing; the last lines are the ratios of the medians.

MFU divides by what each one has to compute: rmx its shared rows, TRL its padded rectangles (`rmx.training.flops`).
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.meter import Meter
from benchmarks.worker import tokenizer
from benchmarks.workload import build_model, comparisons, pairs_of, rows_of_lengths

ROOT = Path(__file__).parents[1]
LENGTHS = Path(__file__).with_name("hh_lengths.json")
VOCABULARY = 128_256
LORA_R = 16


@dataclass(frozen=True)
class Piece:
    """What one process measures."""

    size: str
    lora: bool
    steps: int  # measured ones
    rounds: int
    theirs: int  # pairs that TRL computes at once; rmx lays out whole steps by tokens
    checkpointing: bool = False
    pairs: int = 64  # per optimizer step
    warm_up: int = 2
    dtype: str = "float32"  # of the weights; the forward pass is bfloat16 in any case
    compile: bool = False  # of rmx's side
    encoding: str = "auto"


PIECES = {
    "1B full": Piece("Llama-3.2-1B", lora=False, steps=6, rounds=3, theirs=8),
    "8B LoRA": Piece(
        "Llama-3.1-8B", lora=True, steps=2, rounds=2, theirs=8, checkpointing=True, warm_up=1, dtype="bfloat16"
    ),
    "1B LoRA": Piece("Llama-3.2-1B", lora=True, steps=6, rounds=2, theirs=8, dtype="bfloat16"),
    "1B full, TRL 16 at once": Piece("Llama-3.2-1B", lora=False, steps=4, rounds=1, theirs=16),
    "1B full, nothing shared": Piece("Llama-3.2-1B", lora=False, steps=4, rounds=1, theirs=8, encoding="separate"),
    "S full": Piece("S", lora=False, steps=2, rounds=1, theirs=8, pairs=8, warm_up=1),  # tries the script on a CPU
    "S LoRA": Piece("S", lora=True, steps=2, rounds=1, theirs=8, pairs=8, warm_up=1, checkpointing=True),
}
DEFAULT = ("1B full", "8B LoRA", "1B LoRA", "1B full, TRL 16 at once", "1B full, nothing shared")


class DeviceMeter(Meter):
    """Waits for the device before it reads the clock, and reads its memory."""

    def __init__(self, warm_up_steps: int) -> None:
        super().__init__(warm_up_steps)
        self.logs: list[dict[str, float]] = []

    def start(self) -> None:
        synchronize()
        super().start()

    def loaded(self) -> None:
        import torch

        super().loaded()
        if torch.cuda.is_available():
            self.model_gb = torch.cuda.memory_allocated() / 1e9
            torch.cuda.reset_peak_memory_stats()

    def result(self) -> dict[str, float]:
        import torch

        synchronize()
        found = super().result()
        if torch.cuda.is_available():
            found |= {"peak_gb": torch.cuda.max_memory_allocated() / 1e9, "model_gb": self.model_gb}
        return found

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        super().on_log(args, state, control, logs=logs, **kwargs)
        if "flops" in logs:
            self.logs.append(dict(logs))


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def model_for(piece: Piece) -> Any:
    return build_model(piece.size, VOCABULARY if device() == "cuda" else 16_384, device=device(), dtype=piece.dtype)


def rows_for(piece: Piece) -> Any:
    lengths = json.loads(LENGTHS.read_text())
    return rows_of_lengths(lengths[: piece.pairs * (piece.warm_up + piece.steps)])


def common(piece: Piece) -> dict[str, Any]:
    """Arguments that both trainers take."""
    return {
        "num_train_epochs": 1,
        "learning_rate": 1e-5,
        "gradient_checkpointing": piece.checkpointing,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "max_grad_norm": 1.0,
    }


def run_rmx(piece: Piece) -> dict[str, Any]:
    """rmx's loop with its automatic token budget; logging every step, which its sums need anyway."""
    from rmx.losses import bradley_terry
    from rmx.models import Adapter
    from rmx.models.adapters import attach
    from rmx.scoring.scorer import Scorer
    from rmx.trackers import Recorder
    from rmx.training.arguments import trainer_settings
    from rmx.training.loop import Loop

    model = model_for(piece)
    if piece.lora:
        model, _ = attach(model, Adapter(r=LORA_R, alpha=2.0 * LORA_R))
    rows = comparisons(rows_for(piece))
    meter = DeviceMeter(piece.warm_up)
    settings = trainer_settings(
        **common(piece),
        precision="bf16",
        encoding=piece.encoding,
        per_device_train_batch_size=piece.pairs,
        logging_steps=1,
        **({"torch_compile": True} if piece.compile else {}),
    )
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(
            Scorer(model, tokenizer(), None, encoding=piece.encoding, precision="bf16"),
            settings.training_arguments(Path(folder), 0, evaluates=False),
            loss=bradley_terry, rows=rows, evals={}, settings=settings, recorder=Recorder(), own=[meter],
        )  # fmt: skip
        loop.train()
    measured = meter.logs[piece.warm_up :]
    work = {name: sum(log[name] for log in measured) for name in ("tokens", "unique_tokens", "flops")}
    padded = sum(
        loop.flops.padded(rows[start : start + piece.pairs], piece.theirs)
        for start in range(piece.pairs * piece.warm_up, len(rows), piece.pairs)
    )
    found = summary(meter, piece, work | {"padded_flops": padded})
    return found | {"encoding": loop.engine.reason, "budget": list(loop.position.max_tokens), "losses": meter.losses}


def run_trl(piece: Piece) -> dict[str, Any]:
    """TRL's RewardTrainer on the same token ids; it logs once at the end."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from rmx.models import Adapter

    model = model_for(piece)
    adapter = Adapter(r=LORA_R, alpha=2.0 * LORA_R).lora_config(model) if piece.lora else None
    pairs = pairs_of(rows_for(piece))
    data = Dataset.from_dict({"chosen_ids": [c for c, _ in pairs], "rejected_ids": [r for _, r in pairs]})
    meter = DeviceMeter(piece.warm_up)
    with tempfile.TemporaryDirectory() as folder:
        args = RewardConfig(
            output_dir=folder,
            **common(piece),
            bf16=True,
            per_device_train_batch_size=piece.theirs,
            gradient_accumulation_steps=piece.pairs // piece.theirs,
            logging_steps=piece.warm_up + piece.steps,
            max_length=None,
            use_cpu=device() == "cpu",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        )
        RewardTrainer(
            model=model, args=args, train_dataset=data, processing_class=tokenizer(), callbacks=[meter],
            peft_config=adapter,
        ).train()  # fmt: skip
    parts = [pairs[at : at + piece.theirs] for at in range(piece.pairs * piece.warm_up, len(pairs), piece.theirs)]
    tokens = sum(2 * len(part) * max(len(ids) for pair in part for ids in pair) for part in parts)
    return summary(meter, piece, {"tokens": tokens}) | {"losses": meter.losses}


def summary(meter: DeviceMeter, piece: Piece, work: dict[str, float]) -> dict[str, Any]:
    seconds = meter.measured["wall_seconds"]
    pairs = piece.pairs * piece.steps
    return meter.measured | work | {
        "seconds": seconds,
        "pairs_per_second": pairs / seconds,
        **{f"{name}_per_second": work[name] / seconds for name in ("tokens", "unique_tokens") if name in work},
    }  # fmt: skip


RUNS = {"rmx": run_rmx, "TRL": run_trl}


def measure(name: str, output: Path, seconds: float) -> None:
    """All rounds of one piece in this process, as long as another run fits into the time."""
    import torch

    piece, started, longest = PIECES[name], time.monotonic(), 0.0
    if device() == "cpu":
        torch.set_num_threads(1)
    for number in range(piece.rounds):
        for peer in list(RUNS)[:: -1 if number % 2 else 1]:
            if time.monotonic() - started + longest > seconds:
                return
            begun = time.monotonic()
            line: dict[str, Any] = {"piece": name, "peer": peer, "round": number}
            try:
                line |= RUNS[peer](piece)
            except Exception as error:  # noqa: BLE001 - the other runs go on
                line["error"] = f"{type(error).__name__}: {str(error)[:600]}"
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            longest = max(longest, time.monotonic() - begun)
            write(output, line | {"whole_seconds": time.monotonic() - begun})


def write(output: Path, line: dict[str, Any]) -> None:
    with output.open("a") as file:
        file.write(json.dumps(line) + "\n")
    short = {k: v for k, v in line.items() if k not in ("losses", "cpu_seconds", "peak_mb", "peak_above_load_mb")}
    print(json.dumps(short), flush=True)


def compared(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per piece: medians of both, their ratio, and MFU of each by what it has to compute."""
    import torch

    from rmx.training.flops import peak_flops

    peak = peak_flops(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None
    found = []
    for name in dict.fromkeys(line["piece"] for line in lines):
        runs = {p: [x for x in lines if x["piece"] == name and x["peer"] == p and "error" not in x] for p in RUNS}
        if not all(runs.values()):
            continue
        medians = {
            peer: {
                key: statistics.median(run[key] for run in of) for key in of[0] if isinstance(of[0][key], float | int)
            }
            for peer, of in runs.items()
        }
        ours, theirs = medians["rmx"], medians["TRL"]
        tflops = {"rmx": ours["flops"] / ours["seconds"] / 1e12, "TRL": ours["padded_flops"] / theirs["seconds"] / 1e12}
        row: dict[str, Any] = {
            "piece": name,
            "times_faster": theirs["seconds"] / ours["seconds"],
            "flop_ratio": ours["padded_flops"] / ours["flops"],
            "pairs_per_second": {peer: m["pairs_per_second"] for peer, m in medians.items()},
            "tokens_per_second": {peer: m["tokens_per_second"] for peer, m in medians.items()},
            "unique_tokens_per_second": ours["unique_tokens_per_second"],
            "tflops": tflops,
            "peak_gb": {peer: m.get("peak_gb") for peer, m in medians.items()},
            "runs": {peer: [run["seconds"] for run in of] for peer, of in runs.items()},
        }
        if peak:
            row["mfu"] = {peer: value * 1e12 / peak for peer, value in tflops.items()}
            row["padded_mfu"] = ours["padded_flops"] / ours["seconds"] / peak
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a file of JSON lines; added to")
    parser.add_argument("--budget-seconds", type=float, default=300.0, help="for all pieces together")
    parser.add_argument("--pieces", nargs="+", choices=list(PIECES), default=list(DEFAULT))
    parser.add_argument("--one", choices=list(PIECES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one, options.output, options.budget_seconds)
        return
    deadline = time.monotonic() + options.budget_seconds
    for name in options.pieces:
        left = deadline - time.monotonic()
        if left < 25:
            print(f"no time left for {name}", flush=True)
            continue
        command = [sys.executable, "-m", "benchmarks.gpu", "--one", name, "--output", str(options.output)]
        try:
            subprocess.run([*command, "--budget-seconds", str(left - 12)], cwd=ROOT, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            print(f"{name}: cut off after {left:.0f} s", flush=True)
    lines = [json.loads(line) for line in options.output.read_text().splitlines()] if options.output.exists() else []
    for row in compared([line for line in lines if "peer" in line]):
        write(options.output, {"compared": row})


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainer reports home otherwise
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    main()
