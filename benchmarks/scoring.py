"""`python -m benchmarks.scoring`: a file of prompts with K candidates to a file of rewards, rmx against two others.

    python -m benchmarks.scoring --data hh.jsonl.gz --prompts 60 --rounds 3

The rows are real HH-RLHF prompts; the K candidates of a prompt are its own chosen and rejected answers and those of its
neighbours in the file. The same float32 model (random weights: time does not depend on them), the same texts:
    rmx        `rmx score`, from file to file
    pipeline   transformers' text-classification pipeline, batch of 8, rows in file order
    padded     a plain loop: batches of 8 rows sorted by length, padded to the longest
Each case is a process of its own and they take turns; CPU seconds of the whole process after its imports and after
loading, medians over the rounds. Rewards have to be equal to 1e-6 relative to the largest.
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
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CASES = ["rmx", "pipeline", "padded"]
MAX_TOKENS = 1024


def candidates_of(data: Path, prompts: int, responses: int) -> list[dict[str, Any]]:
    """Prompts of HH-RLHF with the answers of the file's next rows as further candidates."""
    from rmx.data.unlabelled import RowsToScore

    rows = [row.comparison for row in RowsToScore([str(data)]) if row.comparison is not None][: prompts + responses]
    answers = [one[-1]["content"] for row in rows for one in row.responses]
    out = []
    for number, row in enumerate(rows[:prompts]):
        texts = answers[2 * number : 2 * number + responses]
        out.append({"id": str(number), "prompt": list(row.prompt), "responses": texts})
    return out


def make_model(folder: Path, texts: list[str], hidden: int, layers: int) -> None:
    """A Llama-shaped reward model with random weights and a tokenizer that was trained on the rows."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from rmx.models import RewardModelSource, save_artefact
    from rmx.templates import Template

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=8000, special_tokens=specials, initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 128, max_position_embeddings=4096,
        pad_token_id=fast.pad_token_id, bos_token_id=None, eos_token_id=fast.eos_token_id,
    )  # fmt: skip
    base = folder.with_name("base")
    LlamaForCausalLM(config).save_pretrained(base)
    fast.save_pretrained(base)
    loaded = RewardModelSource(name="bench", path=str(base)).load()
    bound = Template("chatml").bind(loaded.tokenizer)
    save_artefact(loaded, folder, template=bound, contract={"max_tokens": MAX_TOKENS, "truncation": "keep_end"})


def run_case(case: str, folder: Path) -> dict[str, Any]:
    """Score the rows one way; CPU seconds and rewards."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    if case == "rmx":
        import rmx
        from rmx.scoring import job as scoring
        from rmx.scoring.panel import Panel

        panel = Panel([("model", rmx.load(folder / "model"))])
        out = folder / f"scores-{time.time_ns()}.jsonl"
        job = scoring.ScoreJob(model=str(folder / "model"), input=str(folder / "rows.jsonl"), output=str(out))
        object.__setattr__(job, "_panel", lambda: panel)  # loading is outside the clock for all cases
        started, wall = time.process_time(), time.perf_counter()
        job.run()
        rewards = [reward for line in out.read_text().splitlines() for reward in json.loads(line)["rewards"]]
    else:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        score = by_pipeline if case == "pipeline" else by_padded_loop
        started, wall = time.process_time(), time.perf_counter()
        texts = [
            tokenizer.apply_chat_template([*row["prompt"], {"role": "assistant", "content": text}], tokenize=False)
            for row in rows
            for text in row["responses"]
        ]
        rewards = score(model, tokenizer, texts)
    return {"cpu": time.process_time() - started, "wall": time.perf_counter() - wall, "rewards": rewards}


def by_pipeline(model: Any, tokenizer: Any, texts: list[str]) -> list[float]:
    from transformers import pipeline

    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer)
    keys = {"truncation": True, "max_length": MAX_TOKENS, "add_special_tokens": False}
    return [one["score"] for one in pipe(texts, batch_size=8, function_to_apply="none", **keys)]


def by_padded_loop(model: Any, tokenizer: Any, texts: list[str]) -> list[float]:
    import torch

    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    rewards = [0.0] * len(texts)
    with torch.no_grad():
        for start in range(0, len(order), 8):
            batch = order[start : start + 8]
            inputs = tokenizer(
                [texts[i] for i in batch], return_tensors="pt", padding=True, truncation=True, max_length=MAX_TOKENS,
                add_special_tokens=False,
            )  # fmt: skip
            for i, value in zip(batch, model(**inputs).logits[:, 0].tolist(), strict=True):
                rewards[i] = value
    return rewards


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="HH-RLHF rows: chosen and rejected dialogues")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--responses", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/scoring.json")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(run_case(given.case, given.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = candidates_of(given.data, given.prompts, given.responses)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        texts = [message["content"] for row in rows for message in row["prompt"]]
        make_model(folder / "model", texts, given.hidden, given.layers)
        runs: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
        for _ in range(given.rounds):
            for case in CASES:
                command = [sys.executable, "-m", "benchmarks.scoring", "--data", str(given.data)]
                done = subprocess.run(
                    [*command, "--case", case, "--folder", name], capture_output=True, text=True, check=True, cwd=ROOT
                )
                runs[case].append(json.loads(done.stdout.splitlines()[-1]))
        write_result(runs, rows, given)


def write_result(runs: dict[str, list[dict[str, Any]]], rows: list[dict[str, Any]], given: argparse.Namespace) -> None:
    seconds = {case: statistics.median(run["cpu"] for run in runs[case]) for case in CASES}
    wanted = runs["padded"][0]["rewards"]
    scale = max(1.0, *map(abs, wanted))
    differences = {
        case: max(abs(a - b) for a, b in zip(runs[case][0]["rewards"], wanted, strict=True)) / scale for case in CASES
    }
    result = {
        "date": date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "prompts": len(rows),
        "responses": given.responses,
        "model": {"hidden": given.hidden, "layers": given.layers},
        "cpu_seconds": seconds,
        "times_faster": {case: seconds[case] / seconds["rmx"] for case in CASES},
        "rounds": {case: [round(run["cpu"], 3) for run in runs[case]] for case in CASES},
        "largest_difference_from_padded": differences,
    }
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
