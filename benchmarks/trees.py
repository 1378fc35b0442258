"""`python -m benchmarks.trees OTHER`: this checkout of rmx against another one, case by case.

The same token rows go through the benchmark's own worker of each tree. Processes take turns, each round gives one
ratio; the table shows the medians. Above 1 this tree takes more. Start-up is `--help` and a composed configuration.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.cases import OURS, samples
from benchmarks.run import ROOT, Bench
from benchmarks.worker import Case
from benchmarks.workload import hh_rows

CASES = {
    "train, 8 pairs a step, small": Case(OURS, "hh-many"),
    "train, 1 pair x accumulation 8, small": Case(OURS, "hh-few-1", batch=1, accumulation=8),
    "train, 8 pairs a step, bf16": Case(OURS, "hh-many", precision="bf16"),
    "train, 8 pairs a step, medium": Case(OURS, "hh-few", size="M"),
    "evaluation, small": Case(OURS, "hh-many", phase="eval"),
}
STARTS = {"--help": ["--help"], "--cfg job": ["--cfg", "job"]}

START = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "rmx", *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


class Tree(Bench):
    """One checkout: its own benchmark worker and its own command."""

    def __init__(self, root: Path, folder: Path, rows: dict[str, Any]) -> None:
        super().__init__(folder, rows, None, threads=1)
        self.root = root
        self.environment |= {"PYTHONPATH": str(root)}

    def run(self, case: Case) -> dict[str, Any]:
        """One process; its last line of output is the result."""
        argument = json.dumps(asdict(replace(case, sample=str(self.folder / f"{case.sample}.json"))))
        command = [sys.executable, "-m", "benchmarks.worker", argument]
        done = subprocess.run(command, env=self.environment, cwd=self.root, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{self.root}: {case}\n{done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    def start(self, flags: list[str]) -> dict[str, float]:
        """CPU seconds of a command that trains nothing."""
        command = [sys.executable, "-c", START, *flags]
        done = subprocess.run(command, env=self.environment, cwd=self.root, capture_output=True, text=True, check=True)
        return {"cpu_seconds": float(done.stdout)}


def compare(trees: list[Tree], rounds: int, measure: Any) -> str:
    """The cells of a row: CPU seconds of both, and the medians of the ratios of time and memory."""
    found: list[list[dict[str, Any]]] = []
    for number in range(rounds):
        order = trees if number % 2 == 0 else trees[::-1]
        results = {id(tree): measure(tree) for tree in order}
        found.append([results[id(tree)] for tree in trees])
        time.sleep(0.1)
    seconds = [statistics.median(pair[i]["cpu_seconds"] for pair in found) for i in (0, 1)]
    ratios = sorted(ours["cpu_seconds"] / theirs["cpu_seconds"] for ours, theirs in found)
    cells = [f"{seconds[0]:.2f}", f"{seconds[1]:.2f}", f"{statistics.median(ratios):.3f}"]
    cells.append(f"{ratios[0]:.3f} to {ratios[-1]:.3f}")
    memory = [ours["peak_mb"] / theirs["peak_mb"] for ours, theirs in found if "peak_mb" in ours]
    return " | ".join([*cells, f"{statistics.median(memory):.3f}" if memory else ""])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="another checkout of rmx")
    parser.add_argument("--data", type=Path, help="HH-RLHF pairs, .jsonl.gz; else generated rows of such lengths")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args()
    rows = samples(hh_rows(options.data)[0], options.pairs)
    print("| case | CPU s here | CPU s there | ratio | range | peak memory, ratio |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        trees = [Tree(root.resolve(), Path(folder), rows) for root in (ROOT, options.other)]
        for name, case in CASES.items():
            if options.only in name:
                print(
                    f"| {name} | {compare(trees, options.rounds, lambda tree, case=case: tree.run(case))} |", flush=True
                )
        for name, flags in STARTS.items():
            if options.only in name:
                print(f"| {name} | {compare(trees, options.rounds, lambda tree, f=flags: tree.start(f))} |", flush=True)


if __name__ == "__main__":
    main()
