"""`python -m benchmarks.reading`: CPU seconds and peak memory of reading, tokenising and auditing a preference file.

    python -m benchmarks.reading --rows 200000 --rounds 3
    python -m benchmarks.reading --rows 200000 --against ../other-checkout      # the same rows with another tree of rmx
    python -m benchmarks.reading --rows 100000 --streaming                      # peak memory of N and 2 N rows on disk

Rows are HH-RLHF dialogues: two texts that begin alike. Their words are made up, their lengths are those of HH-RLHF, a
tenth of them is held out. Every case is a process of its own, cases take turns, and the ratios are of the medians over
the rounds. Memory is the peak of the process, less what it had when rmx was imported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.tokenising import MAX_TOKENS, ROOT, generate, prepare

CHILD = """
import json, logging, resource, sys, time
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from rmx.data import PreferenceData
from rmx.data.audit import audit
from rmx.templates import Template
from rmx.tokens import cached_encode
folder, streaming, max_tokens = Path(sys.argv[1]), sys.argv[2] == "True", int(sys.argv[3])
tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
template = Template().bind(tokenizer)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, clock, found = peak(), time.process_time(), {}
def lap(name):
    global clock
    found[name], clock = time.process_time() - clock, time.process_time()
splits = PreferenceData(path=str(folder / "hh.jsonl"), streaming=streaming).read(folder)
lap("read")
sets = {"train": splits.train, **splits.evals}
encoded, reports = {}, {}
for name, rows in sets.items():
    out = folder / f"cache-{sys.argv[4]}-{name}"
    encoded[name], reports[name] = cached_encode(rows, tokenizer, template, max_tokens=max_tokens, folder=out)
lap("tokenise")
audit(splits, encoded, reports=reports)
lap("audit")
print(json.dumps(found | {"peak MB": peak() - before, "rows": len(splits.train)}))
"""


def dialogue(messages: list[dict[str, str]]) -> str:
    """Messages as HH-RLHF writes them."""
    speakers = {"user": "Human", "assistant": "Assistant", "system": "Human"}
    return "".join(f"\n\n{speakers[message['role']]}: {message['content']}" for message in messages)


def write(path: Path, count: int) -> None:
    """Write `count` comparisons."""
    with path.open("w", encoding="utf-8") as file:
        for row in generate(count, seed=2):
            file.write(json.dumps({side: dialogue(row[side]) for side in ("chosen", "rejected")}) + "\n")


def measure(folder: Path, tree: Path, streaming: bool, name: str) -> dict[str, float]:
    """One process of one tree; what it cached is removed."""
    environment = os.environ | {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    arguments = [sys.executable, "-c", CHILD, str(folder), str(streaming), str(MAX_TOKENS), name]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment, cwd=folder)
    subprocess.run(["rm", "-rf", *map(str, folder.glob("cache-*"))], check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    result["CPU s"] = sum(result[phase] for phase in ("read", "tokenise", "audit"))
    return result


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--against", type=Path, help="another checkout of rmx")
    parser.add_argument("--streaming", action="store_true", help="rows stay on the disk; N and 2 N rows")
    given = parser.parse_args()
    trees = {"this tree": ROOT} | ({"the other": given.against.resolve()} if given.against else {})
    columns = ["read", "tokenise", "audit", "CPU s", "peak MB"]
    print(f"| {'rows':>7} | {'tree':9} | " + " | ".join(f"{column:>8}" for column in columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    for count in [given.rows, 2 * given.rows] if given.streaming else [given.rows]:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            prepare(folder, 3000)
            write(folder / "hh.jsonl", count)
            results: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
            for _ in range(given.rounds):
                for number, (name, tree) in enumerate(trees.items()):
                    results[name].append(measure(folder, tree, given.streaming, str(number)))
        medians = {n: {c: statistics.median(r[c] for r in rounds) for c in columns} for n, rounds in results.items()}
        for name, found in medians.items():
            print(f"| {count:7} | {name:9} | " + " | ".join(f"{found[column]:8.1f}" for column in columns) + " |")
        if given.against:
            ratios = [medians["this tree"][column] / medians["the other"][column] for column in columns]
            print(f"| {count:7} | {'ratio':9} | " + " | ".join(f"{ratio:8.2f}" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
