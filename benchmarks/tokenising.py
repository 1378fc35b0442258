"""`python -m benchmarks.tokenising`: rows to token ids on disk, rmx against TRL and LLaMA-Factory.

    python -m benchmarks.tokenising --rows 100000 --rounds 3
    python -m benchmarks.tokenising --rows 100000 --memory       # peak memory of streaming N and 4 N rows

The same generated conversations (lengths like HH-RLHF's) go through
    rmx             rmx.tokens.cached_encode with an empty cache
    trl             RewardTrainer._prepare_dataset itself: map, map, filter; one process
    trl 2 procs     the same with dataset_num_proc=2
    llama-factory   a reproduction of PairwiseDatasetProcessor (`encode` per message, batched map, six columns), because
                    LLaMA-Factory itself pins other versions
and a second time, with what the first left on the disk (`again`). Rows are in memory or in an Arrow table before the
clock starts; it stops when the ids can be trained on. Every case is a process of its own; cases take turns, and the
ratios are of the medians over the rounds. CPU seconds include child processes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MAX_TOKENS = 1024  # TRL's default; every case gets the same
CASES = ["rmx", "trl", "trl 2 procs", "llama-factory", "rmx again", "trl again"]
Json = dict[str, Any]

# --- Rows -------------------------------------------------------------------------------------------------------------


def vocabulary(random_: random.Random, size: int = 20_000) -> list[str]:
    """Made-up words of one to four syllables."""
    syllables = [c + v + e for c in "bdfgklmnprstvz" for v in "aeiou" for e in ("", "n", "r", "s", "l")]
    return ["".join(random_.choices(syllables, k=random_.choice((1, 1, 2, 2, 3, 4)))) for _ in range(size)]


def generate(count: int, seed: int = 0) -> Iterator[Json]:
    """Conversations with a chosen and a rejected answer: one to four exchanges, log-normal lengths as in HH-RLHF."""
    random_ = random.Random(seed)
    words = vocabulary(random_)
    weights = [1 / (rank + 5) for rank in range(len(words))]  # Zipf
    cumulative = [0.0]
    for weight in weights:
        cumulative.append(cumulative[-1] + weight)

    def text(median: float) -> str:
        length = min(250, 2 + int(math.exp(random_.gauss(math.log(median), 0.8))))
        return " ".join(random_.choices(words, cum_weights=cumulative[1:], k=length)) + "."

    for _ in range(count):
        prompt = []
        for turn in range(2 * random_.choice((1, 2, 2, 3, 4)) - 1):
            prompt.append({"role": ("user", "assistant")[turn % 2], "content": text((5, 11)[turn % 2])})
        answers = [[{"role": "assistant", "content": text(10)}] for _ in range(2)]
        yield {"chosen": prompt + answers[0], "rejected": prompt + answers[1]}


def prepare(folder: Path, count: int) -> None:
    """Write rows.jsonl and a tokenizer trained on some of them into `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in generate(count):
            file.write(json.dumps(row) + "\n")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=16_000, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    sample = (message["content"] for row in generate(min(count, 3000), seed=1) for message in row["chosen"])
    tokenizer.train_from_iterator(sample, trainer)
    from rmx.templates import Template

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = Template("chatml").bind(fast).jinja
    fast.save_pretrained(folder / "tokenizer")


# --- Cases ------------------------------------------------------------------------------------------------------------


def comparisons(folder: Path) -> Iterator[Any]:
    """The rows as rmx's nouns, read one by one."""
    from rmx.records import Comparison, Pair

    with (folder / "rows.jsonl").open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            row = json.loads(line)
            yield Comparison(
                id=str(number),
                source="generated",
                prompt=tuple(row["chosen"][:-1]),
                responses=(tuple(row["chosen"][-1:]), tuple(row["rejected"][-1:])),
                pairs=(Pair(0, 1),),
            )


def rmx_case(folder: Path, tokenizer: Any) -> Callable[[], Any]:
    """rmx, from comparisons in memory to a mapped set on the disk."""
    from rmx.templates import Template
    from rmx.tokens import cached_encode

    rows = list(comparisons(folder))
    template = Template().bind(tokenizer)

    def work() -> Json:
        encoded, report = cached_encode(rows, tokenizer, template, max_tokens=MAX_TOKENS, folder=folder / "rmx")
        return {"rows": len(encoded), "tokens": report.tokens, "shared_tokens": report.shared_tokens}

    return work


def arrow(folder: Path) -> Any:
    """The rows as an Arrow table on the disk, as load_dataset leaves them."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    return load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(folder / "hf"))


def trl_case(folder: Path, tokenizer: Any, processes: int | None) -> Callable[[], int]:
    """TRL's own preparation; it needs nothing of the trainer but its arguments."""
    from trl import RewardTrainer

    rows = arrow(folder)
    arguments = SimpleNamespace(dataset_num_proc=processes, max_length=MAX_TOKENS)

    def work() -> int:
        done = RewardTrainer._prepare_dataset(None, rows, tokenizer, arguments, "train")
        return len(done)

    return work


def llama_factory_case(folder: Path, tokenizer: Any) -> Callable[[], int]:
    """What LLaMA-Factory's pairwise processor does with ChatML, written anew; its aligning map is left out."""
    rows = arrow(folder)
    ignore = -100

    def encode(messages: list[Json]) -> tuple[list[int], list[int]]:
        parts = []
        for message in messages:
            if message["role"] == "user":
                text = f"<|im_start|>user\n{message['content']}<|im_end|>\n<|im_start|>assistant\n"
            else:
                text = f"{message['content']}<|im_end|>\n"
            parts.append(tokenizer.encode(text, add_special_tokens=False))
        return [number for part in parts[:-1] for number in part], parts[-1]

    def batch(examples: Json) -> Json:
        columns: dict[str, list[Any]] = {
            f"{side}_{kind}": []
            for side in ("chosen", "rejected")
            for kind in ("input_ids", "attention_mask", "labels")
        }
        for chosen, rejected in zip(examples["chosen"], examples["rejected"], strict=True):
            prompt, first = encode(chosen)
            _, second = encode(rejected)
            for side, answer in (("chosen", first), ("rejected", second)):
                columns[f"{side}_input_ids"].append(prompt + answer)
                columns[f"{side}_attention_mask"].append([1] * (len(prompt) + len(answer)))
                columns[f"{side}_labels"].append([ignore] * len(prompt) + answer)
        return columns

    def work() -> int:
        return len(rows.map(batch, batched=True, remove_columns=rows.column_names, load_from_cache_file=False))

    return work


def case(name: str, folder: Path) -> Json:
    """Run one case in this process."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    if name.startswith("trl") and not name.endswith("again"):
        import datasets

        datasets.disable_caching()
    if name.startswith("rmx"):
        work = rmx_case(folder, tokenizer)
    elif name.startswith("trl"):
        work = trl_case(folder, tokenizer, 2 if "2" in name else None)
    else:
        work = llama_factory_case(folder, tokenizer)
    if name == "trl again":
        work()  # fills the cache; the map below finds it by its fingerprint
    cpu, wall = cpu_seconds(), time.perf_counter()
    result = work()
    return {"wall": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu, "result": result}


def memory_case(folder: Path) -> Json:
    """Peak memory above the loaded process while a set streams from its file into the cache."""
    from transformers import AutoTokenizer

    from rmx.templates import Template
    from rmx.tokens import cached_encode

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    template = Template().bind(tokenizer)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    encoded, report = cached_encode(
        lambda: comparisons(folder), tokenizer, template, max_tokens=MAX_TOKENS, folder=folder / "rmx"
    )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(file.stat().st_size for file in encoded.folder.iterdir()) / 2**20  # type: ignore[union-attr]
    return {"rows": len(encoded), "before_mb": before, "peak_mb": after, "file_mb": size, "tokens": report.tokens}


def cpu_seconds() -> float:
    """User and system seconds of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


# --- Rounds -----------------------------------------------------------------------------------------------------------


def child(name: str, folder: Path) -> Json:
    """One case in a new process."""
    environment = os.environ | {
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONWARNINGS": "ignore",
        "TMPDIR": str(folder),
    }
    command = [sys.executable, "-m", "benchmarks.tokenising", "--case", name, "--folder", str(folder)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def empty(folder: Path) -> None:
    """Forget what an earlier case cached."""
    import shutil

    shutil.rmtree(folder / "rmx", ignore_errors=True)


def rounds(folder: Path, count: int, names: list[str]) -> Iterator[dict[str, list[Json]]]:
    """All cases in turn, `count` times; yields what there is after every round."""
    results: dict[str, list[Json]] = {name: [] for name in names}
    for number in range(count):
        for name in names:
            if name == "rmx":
                empty(folder)
            results[name].append(child(name, folder))
            print(f"round {number + 1}: {name:14} {results[name][-1]['wall']:8.2f} s wall", file=sys.stderr)
        yield results


def table(results: dict[str, list[Json]], rows: int) -> str:
    """Medians and their ratios to rmx, as Markdown."""
    lines = ["| case | wall s | CPU s | pairs/s | wall ÷ rmx | CPU ÷ rmx |", "|---|---|---|---|---|---|"]

    def median(name: str, kind: str) -> float:
        return statistics.median(result[kind] for result in results[name])

    for name in results:
        ours = "rmx again" if name.endswith("again") else "rmx"
        wall, cpu = median(name, "wall"), median(name, "cpu")
        lines.append(
            f"| {name} | {wall:.2f} | {cpu:.2f} | {rows / wall:,.0f} | {wall / median(ours, 'wall'):.2f} "
            f"| {cpu / median(ours, 'cpu'):.2f} |"
        )
    return "\n".join(lines)


def save(name: str, found: Json) -> None:
    """Write what was measured beside the other results."""
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="*", default=CASES, choices=CASES)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.case:
        result = memory_case(chosen.folder) if chosen.case == "memory" else case(chosen.case, chosen.folder)
        print(json.dumps(result))
        return
    found: Json = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("tokenizers", "transformers", "trl", "datasets", "numpy")},
        "load_average": os.getloadavg()[0],  # of others, before the first case: wall times mean little when it is high
        "rows": chosen.rows,
        "max_tokens": MAX_TOKENS,
    }
    name = f"{found['date']}-tokenising-{chosen.rows}"
    if chosen.memory:
        found["memory"] = []
        for count in (chosen.rows, 4 * chosen.rows):
            with tempfile.TemporaryDirectory() as folder:
                prepare(Path(folder), count)
                found["memory"].append(child("memory", Path(folder)))
        print(json.dumps(found["memory"], indent=2))
        name += "-memory"
    else:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), chosen.rows)
            for found["results"] in rounds(Path(folder), chosen.rounds, chosen.cases):
                save(name, found)
        print(table(found["results"], chosen.rows))
    save(name, found)


if __name__ == "__main__":
    main()
