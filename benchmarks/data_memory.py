"""Peak memory and time of reading a preference file, with rows in memory and with `data.streaming=true`.

    python benchmarks/data_memory.py [ROWS ...]          default: 20000 40000 80000

Each case runs in a process of its own; the peak is that of the process, less what it had before reading.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import json, resource, sys, time
from pathlib import Path
from rmx.data import PreferenceData, audit
import numpy
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.process_time()
splits = PreferenceData(path=sys.argv[1], streaming=sys.argv[2] == "True").read(Path(sys.argv[1]).parent)
count = sum(len(row.responses) for row in splits.train)
print(json.dumps([peak() - before, time.process_time() - start, count]))
"""


def write(path: Path, rows: int) -> None:
    draw = random.Random(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
    with path.open("w") as file:
        for n in range(rows):
            texts = [" ".join(draw.choices(words, k=120)) for _ in range(3)]
            file.write(json.dumps({"prompt": f"{n} {texts[0]}", "chosen": texts[1], "rejected": texts[2]}) + "\n")


def main() -> None:
    print(f"{'rows':>8} {'file MB':>8} {'rows are':>10} {'peak MB':>8} {'CPU s':>6}")
    for rows in [int(given) for given in sys.argv[1:]] or [20_000, 40_000, 80_000]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            write(path, rows)
            for streaming in (False, True):
                out = subprocess.run(
                    [sys.executable, "-c", CHILD, str(path), str(streaming)], check=True, capture_output=True, text=True
                )
                peak, seconds, _ = json.loads(out.stdout)
                size = path.stat().st_size / 2**20
                print(f"{rows:8} {size:8.0f} {'on disk' if streaming else 'in memory':>10} {peak:8.0f} {seconds:6.1f}")


if __name__ == "__main__":
    main()
