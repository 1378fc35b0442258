"""Stands in for `python -m rmx`: a job that writes metrics.jsonl, checkpoints, honours PRUNE, and can misbehave.

Overrides it knows: x=<float> (accuracy approaches 0.5 + x), steps=, seconds=<per step>, output_dir=,
mode=ok|crash|exit0|nan|hang|deaf|oom|unprunable|slow_save|to_the_end (the last finishes in spite of SIGTERM)
|timed (stops after every step, as trainer.stop_after does).
Every process appends a line to starts.jsonl in its folder, with the step it began at.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    given = dict(word.lstrip("+").split("=", 1) for word in sys.argv[1:] if "=" in word)
    folder = Path(given["output_dir"].strip("'"))
    folder.mkdir(parents=True, exist_ok=True)
    x, steps, pause = float(given.get("x", 0.1)), int(given.get("steps", 4)), float(given.get("seconds", 0.02))
    mode = given.get("mode", "ok")
    stop = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "deaf" else lambda *_: stop.append(1))
    checkpoint = folder / "checkpoint"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    with (folder / "starts.jsonl").open("a") as file:
        facts: dict[str, object] = {
            key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RMX_GROUP")
        }
        file.write(
            json.dumps({"pid": os.getpid(), "ppid": os.getppid(), "step": step, "argv": sys.argv[1:]} | facts) + "\n"
        )
    if mode == "crash":
        print("about to fail", flush=True)
        raise RuntimeError(f"no luck with x={x:g}")
    if mode == "exit0":
        sys.exit(0)
    if mode in ("hang", "deaf"):
        while not stop:
            time.sleep(0.05)
    if mode == "oom" and step == 0:
        checkpoint.write_text("1")
        os.kill(os.getpid(), signal.SIGKILL)
    with (folder / "metrics.jsonl").open("a", buffering=1) as metrics:
        while step < steps:
            if (folder / "PRUNE").exists() and mode != "unprunable":
                sys.exit(75)
            if stop and mode == "slow_save":
                time.sleep(1.5)
            if stop and mode != "to_the_end":
                sys.exit(143)
            time.sleep(pause)
            step += 1
            accuracy = 0.5 + x * step / steps
            row = {"step": step, "epoch": step / steps, "time": time.time(), "phase": "eval", "eval/accuracy": accuracy}
            row |= {"eval/pairs": 100.0, "eval/loss": 1 - accuracy, "train/pairs_per_second": 10.0 + x}
            row |= {"train/tokens_per_second": 1000 * (1 - x)}
            if mode == "nan":
                row["eval/accuracy"] = None
            metrics.write(json.dumps(row) + "\n")
            checkpoint.write_text(str(step))
            if mode == "timed" and step < steps:
                sys.exit(75)
    right = round((0.5 + x) * 100)
    with (folder / "generated_predictions.jsonl").open("w") as predictions:
        for index in range(100):
            chosen = 1.0 if index < right else -1.0
            predictions.write(json.dumps({"id": str(index), "chosen": chosen, "rejected": 0.0}) + "\n")


if __name__ == "__main__":
    main()
