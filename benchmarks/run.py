"""`python -m benchmarks.run`: rmx against TRL and LLaMA-Factory on this machine, as a table, JSON and a plot.

Every case is a process of its own. Cases take turns, round after round, and each round gives one ratio, so that a
machine that slows down for a while slows all of them; the table shows the median of the ratios and their range.
CPU seconds (user and system, one thread) are what is compared: wall time counts what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.cases import LF, OURS, Group, curves, groups, samples, scaling
from benchmarks.plot import draw
from benchmarks.worker import Case
from benchmarks.workload import SIZES, full_size_ratios, hh_rows, ideal_ratio, pairs_of, shared_runs, token_ratio

ROOT = Path(__file__).parents[1]


class Bench:
    """Runs cases on the samples in `folder`."""

    def __init__(self, folder: Path, rows: dict[str, Any], lf_python: str | None, threads: int) -> None:
        self.folder, self.rows, self.lf_python = folder, rows, lf_python
        for name, sample in rows.items():
            (folder / f"{name}.json").write_text(json.dumps(sample))
        self.environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONWARNINGS": "ignore",
        }

    def run(self, case: Case) -> dict[str, Any]:
        """One process; its last line of output is the result."""
        real_lf = case.peer == LF
        python = self.lf_python if real_lf and self.lf_python else sys.executable
        module = "benchmarks.llamafactory" if real_lf else "benchmarks.worker"
        argument = json.dumps(asdict(replace(case, sample=str(self.folder / f"{case.sample}.json"))))
        done = subprocess.run(
            [python, "-m", module, argument], env=self.environment, cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{case}\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def group(self, group: Group, rounds: int) -> dict[str, Any]:
        """Medians and per-round ratios of one group."""
        cases = {OURS: group.ours, **group.theirs}
        runs: dict[str, list[dict[str, Any]]] = {label: [] for label in cases}
        for number in range(rounds):
            labels = list(cases)[::-1] if number % 2 else list(cases)
            for label in labels:
                runs[label].append(self.run(cases[label]))
        measured = self.rows[group.ours.sample][group.ours.batch * group.ours.accumulation :]
        size = SIZES[group.ours.size]
        first = next(iter(group.theirs.values()))
        result: dict[str, Any] = {
            "what": group.what,
            "pairs": len(pairs_of(measured)),
            "rounds": rounds,
            "goal": group.goal,
            "tokens_ours": sum(run.queries for run in shared_runs(measured)),
            "token_ratio": token_ratio(measured, first.batch),
            "ideal": ideal_ratio(size, measured, first.batch),
            "cpu_seconds": {label: _median(runs[label], "cpu_seconds") for label in cases},
            "peak_above_load_mb": {label: _median(runs[label], "peak_above_load_mb") for label in cases},
            "peak_mb": {label: _median(runs[label], "peak_mb") for label in cases},
            "ratio": {},
        }
        for label in group.theirs:
            ratios = [t["cpu_seconds"] / o["cpu_seconds"] for t, o in zip(runs[label], runs[OURS], strict=True)]
            result["ratio"][label] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        return result

    def curve(self, cases: dict[int, Case]) -> dict[str, dict[int, float]]:
        """CPU milliseconds per pair, ours and TRL's."""
        found: dict[str, dict[int, float]] = {OURS: {}, "TRL": {}}
        for x, case in cases.items():
            for peer in found:
                pairs = len(self.rows[case.sample]) - case.batch
                found[peer][x] = 1000 * self.run(replace(case, peer=peer))["cpu_seconds"] / pairs
        return found

    def identity(self) -> dict[str, Any]:
        """Losses of the same 20 steps, side by side."""
        case = Case(OURS, "identity", logging_steps=1)
        ours, theirs = self.run(case)["losses"], self.run(replace(case, peer="TRL"))["losses"]
        difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        return {"ours": ours, "TRL": theirs, "largest_difference": difference}

    def scaling(self) -> dict[int, dict[str, float]]:
        """Time per pair and memory as the data grows."""
        keys = ("cpu_seconds", "peak_above_load_mb")
        results = {count: self.run(case) for count, case in scaling().items()}
        return {
            count: {**{k: r[k] for k in keys}, "cpu_ms_per_pair": 1000 * r["cpu_seconds"] / count}
            for count, r in results.items()
        }

    def startup(self) -> dict[str, float]:
        """Wall seconds until help is printed; the best of three."""
        commands = {OURS: [sys.executable, "-m", "rmx", "--help"], "TRL": [_script("trl"), "reward", "--help"]}
        if self.lf_python:
            commands[LF] = [str(Path(self.lf_python).with_name("llamafactory-cli")), "help"]
        return {label: min(self._wall(command) for _ in range(3)) for label, command in commands.items()}

    def _wall(self, command: list[str]) -> float:
        start = time.perf_counter()
        subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, check=False)
        return time.perf_counter() - start


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = [line.split(":") for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    info = {key.strip(): value.strip() for key, value in reversed(lines)}
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    return {
        "cpu": info.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "flags": [f for f in info.get("flags", "").split() if f.startswith(("avx2", "avx512f", "avx512_bf16", "amx"))],
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }


def table(results: dict[str, Any]) -> str:
    """The groups as a Markdown table."""
    lines = [
        "| case | against | times faster | range | ideal | of ideal | memory | goal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, group in results["groups"].items():
        for number, (label, ratio) in enumerate(group["ratio"].items()):
            padded = label == "TRL"
            memory = group["peak_above_load_mb"][OURS] / group["peak_above_load_mb"][label]
            ideal = f"{group['ideal']:.2f}" if padded else ""
            share = f"{ratio['median'] / group['ideal']:.0%}" if padded else ""
            goal = f"≥ {group['goal']}" if group["goal"] and number == 0 else ""
            spread = f"{ratio['min']:.2f}–{ratio['max']:.2f}"
            cells = [name, label, f"**{ratio['median']:.2f}**", spread, ideal, share, f"{memory:.2f}", goal]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="HH-RLHF pairs, .jsonl.gz; else generated rows of such lengths")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=64, help="pairs of a small-model sample; half for the medium one")
    parser.add_argument("--without-lf", action="store_true", help="leave LLaMA-Factory out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one round of the small model: some minutes")
    parser.add_argument("--only", default="", help="groups whose name begins so: train/8, eval, curves, identity ...")
    parser.add_argument(
        "--lf-python", default=os.environ.get("RMX_BENCH_LF_PYTHON"), help="a Python with LLaMA-Factory"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    rows, source = hh_rows(options.data)
    lf = None if options.without_lf else LF if options.lf_python else f"{LF} (reproduction)"
    only = tuple(options.only.split(","))
    results: dict[str, Any] = {"date": str(date.today()), "data": source, "machine": machine(), "groups": {}}
    results["flop_ratio_of_full_size_models"] = full_size_ratios(rows)
    suffix = "-quick" if options.quick else ""
    with tempfile.TemporaryDirectory() as folder:
        sampled = samples(rows, 16 if options.quick else options.pairs)
        bench = Bench(Path(folder), sampled, options.lf_python, options.threads)
        for group in groups(lf):
            if group.name.startswith(only) and (group.quick or not options.quick):
                found = results["groups"][group.name] = bench.group(group, 1 if options.quick else options.rounds)
                shown = ", ".join(f"{label} {r['median']:.2f}×" for label, r in found["ratio"].items())
                print(f"{group.name}: {shown}; ideal {found['ideal']:.2f}", flush=True)
                write(results, options.output, suffix)
        extras = {"identity": bench.identity, "startup": bench.startup}
        if not options.quick:
            extras["scaling"] = bench.scaling
            extras["curves"] = lambda: {name: bench.curve(cases) for name, cases in curves().items()}
        for name, measure in extras.items():
            if name.startswith(only):
                results[name] = measure()
                print(f"{name}: {results[name]}", flush=True)
    target = write(results, options.output, suffix)
    print(f"\n{table(json.loads(target.read_text()))}\n\nwrote {target}")


def write(results: dict[str, Any], folder: Path, suffix: str) -> Path:
    """Leave numbers, table and plot under the date and the kind of machine; parts (`--only`) add to what is there."""
    kind = results["machine"]["cpu"].lower().replace(" ", "-") + f"-{results['machine']['cores']}-cores"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{results['date']}-{kind}{suffix}.json"
    if target.exists():
        earlier = json.loads(target.read_text())
        results = earlier | results | {"groups": earlier["groups"] | results["groups"]}
    target.write_text(json.dumps(results, indent=1) + "\n")
    target.with_suffix(".md").write_text(table(results) + "\n")
    if "curves" in results:
        draw(results["curves"], target.with_suffix(".png"))
    return target


if __name__ == "__main__":
    main()
