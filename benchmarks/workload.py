"""What is measured: real pairs (or generated ones of the same lengths), two small models, exact token counts."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmx.records import EncodedComparison, Pair

Ids = list[int]
Rows = list[list[Ids]]  # per comparison, its K full token sequences

EOS, PAD = 1, 0
TRAINED_VOCABULARY = 16_000  # the BPE's; a model's embedding may be larger

# --- Pairs --------------------------------------------------------------------------------------------------


def hh_rows(path: Path | None) -> tuple[Rows, str]:
    """Token rows of an HH-RLHF file (chosen and rejected dialogues), by a BPE trained on that very file."""
    if path is None:
        return generated_rows(1500), "generated (HH-like lengths)"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    texts = [(pair["chosen"], pair["rejected"]) for pair in pairs]
    tokenizer = _train_bpe([text for pair in texts for text in pair])
    flat = [[*e.ids, EOS] for e in tokenizer.encode_batch_fast([text for pair in texts for text in pair])]
    return [list(pair) for pair in zip(flat[::2], flat[1::2], strict=True)], path.name


def _train_bpe(texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TRAINED_VOCABULARY, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def generated_rows(count: int, responses: int = 2, seed: int = 0, length: int | None = None) -> Rows:
    """Random tokens with the lengths of HH-harmless: prefix median 88, responses median 29, both log-normal.

    `length` fixes every sequence to that many tokens, 72 % of them the prefix.
    """
    random_ = random.Random(seed)

    def ids(n: int) -> Ids:
        return random_.choices(range(2, TRAINED_VOCABULARY), k=n)

    rows = []
    for _ in range(count):
        if length is None:
            prefix = ids(min(900, int(math.exp(random_.gauss(math.log(88), 0.85)))))
            suffixes = [ids(min(300, 1 + int(math.exp(random_.gauss(math.log(29), 0.85))))) for _ in range(responses)]
        else:
            prefix = ids(int(0.72 * length))
            suffixes = [ids(length - 1 - len(prefix)) for _ in range(responses)]
        rows.append([[*prefix, *suffix, EOS] for suffix in suffixes])
    return rows


def rows_of_lengths(lengths: Sequence[tuple[int, int, int]], seed: int = 0) -> Rows:
    """Pairs of random tokens with given (shared prefix, chosen, rejected) lengths.

    >>> [[len(ids) for ids in row] for row in rows_of_lengths([(4, 7, 5)])]
    [[7, 5]]
    """
    random_ = random.Random(seed)
    rows = []
    for prefix, *both in lengths:
        shared = random_.choices(range(2, TRAINED_VOCABULARY), k=prefix)
        # The token after the prefix differs, so that no more is shared than said.
        rows.append(
            [
                [
                    *shared,
                    *([2 + k] if n > prefix + 1 else []),
                    *random_.choices(range(4, TRAINED_VOCABULARY), k=n - prefix - 2),
                    EOS,
                ]
                for k, n in enumerate(both)
            ]
        )
    return rows


def shared_prefix(row: Sequence[Ids]) -> int:
    """How many leading tokens all sequences of a comparison share, leaving each at least its last one."""
    shortest = min(map(len, row)) - 1
    return next((i for i in range(shortest) if len({ids[i] for ids in row}) > 1), shortest)


def without_prefix(rows: Rows) -> Rows:
    """The same responses, prompts cut away: nothing is left to share."""
    short = []
    for row in rows:
        shared = shared_prefix(row)
        short.append([[2 + k, *ids[shared:]] for k, ids in enumerate(row)])  # first tokens differ
    return short


def comparisons(rows: Rows) -> list[EncodedComparison]:
    """As the engine takes them; every earlier response beats every later one."""
    encoded = []
    for number, row in enumerate(rows):
        shared = shared_prefix(row)
        pairs = tuple(Pair(w, loser) for w in range(len(row)) for loser in range(w + 1, len(row)))
        suffixes = tuple(ids[shared:] for ids in row)
        encoded.append(EncodedComparison(str(number), "bench", row[0][:shared], suffixes, pairs))
    return encoded


def pairs_of(rows: Rows) -> list[tuple[Ids, Ids]]:
    """All (winner, loser) pairs, as trainers that know only pairs take them."""
    return [(row[w], row[x]) for row in rows for w in range(len(row)) for x in range(w + 1, len(row))]


# --- Models -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """A decoder by its config class and sizes; `body` leaves the embedding out."""

    config: str
    hidden: int
    layers: int
    heads: int
    key_heads: int
    mlp: int

    @property
    def body(self) -> int:
        """Weights that every token is multiplied with."""
        head = self.hidden // self.heads
        attention = self.hidden * head * (2 * self.heads + 2 * self.key_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp)


SIZES = {
    "Qwen2.5-0.5B": Size("Qwen2Config", 896, 24, 14, 2, 4864),
    "Llama-3.2-1B": Size("LlamaConfig", 2048, 16, 32, 8, 8192),
    "Llama-3.1-8B": Size("LlamaConfig", 4096, 32, 32, 8, 14336),
    "XS": Size("LlamaConfig", 64, 2, 2, 1, 172),
    "S": Size("LlamaConfig", 256, 4, 4, 2, 688),  # 2.9 M
    "M": Size("Qwen3Config", 512, 8, 8, 4, 1408),  # 23.6 M
}


def build_model(size: str, vocabulary: int, seed: int = 0, device: str = "cpu", dtype: str = "float32") -> Any:
    """A random scalar-head model of one of `SIZES`, made where it runs."""
    import torch
    import transformers

    s = SIZES[size]
    config = getattr(transformers, s.config)(
        vocab_size=vocabulary,
        hidden_size=s.hidden,
        intermediate_size=s.mlp,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.key_heads,
        head_dim=s.hidden // s.heads,
        max_position_embeddings=4096,
        num_labels=1,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        return transformers.AutoModelForSequenceClassification.from_config(config, dtype=getattr(torch, dtype))


# --- Work ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Consecutive queries and the keys they see; a causal run is computed as a triangle at its end."""

    queries: int
    keys: int
    causal: bool

    @property
    def entries(self) -> float:
        """Attention scores that the kernel computes: behind a dense mask all of them, causally the lower half."""
        masked = self.queries * self.keys
        return masked - self.queries * (self.queries - 1) / 2 if self.causal else masked


def flops(size: Size, runs: Sequence[Run]) -> float:
    """Multiply-adds × 2 of one forward pass: every token meets all weights, every score costs 2 × hidden."""
    return sum(2 * size.body * run.queries + 4 * size.hidden * size.layers * run.entries for run in runs)


def padded_runs(pairs: Sequence[tuple[Ids, Ids]], batch: int) -> list[Run]:
    """What a padding trainer computes: 2 × batch rows as long as the longest of them, behind a dense mask."""
    runs = []
    for start in range(0, len(pairs), batch):
        rows = [ids for pair in pairs[start : start + batch] for ids in pair]
        longest = max(map(len, rows))
        runs += [Run(longest, longest, causal=False)] * len(rows)
    return runs


def shared_runs(rows: Rows) -> list[Run]:
    """What the engine computes: the first response with its prefix causally, the others behind a small mask."""
    runs = []
    for comparison in comparisons(rows):
        prefix = len(comparison.prefix_ids)
        for k, suffix in enumerate(comparison.suffix_ids):
            runs.append(Run(len(suffix) + (0 if k else prefix), prefix + len(suffix), causal=k == 0))
    return runs


def tokens(runs: Sequence[Run]) -> int:
    """Token positions that go through the model."""
    return sum(run.queries for run in runs)


def token_ratio(rows: Rows, batch: int) -> float:
    """Token positions of padded pairs relative to the engine's."""
    return tokens(padded_runs(pairs_of(rows), batch)) / tokens(shared_runs(rows))


def ideal_ratio(size: Size, rows: Rows, batch: int) -> float:
    """FLOPs of padded pairs relative to the engine's: the speed-up if a FLOP always took the same time."""
    return flops(size, padded_runs(pairs_of(rows), batch)) / flops(size, shared_runs(rows))


def representative(rows: Rows, count: int, batch: int = 8, tries: int = 40) -> Rows:
    """Of `tries` random samples, the one whose token ratio is nearest to that of all rows in random order.

    A small sample is easily lucky: among samples of 64 pairs the ratio goes from 3.4 to 4.9.
    """
    shuffled = rows[:]
    random.Random(0).shuffle(shuffled)
    target = token_ratio(shuffled, batch)
    samples = [random.Random(seed).sample(rows, count) for seed in range(tries)]
    return min(samples, key=lambda sample: abs(token_ratio(sample, batch) - target))


def full_size_ratios(rows: Rows, batch: int = 8) -> dict[str, dict[str, float]]:
    """FLOPs of a training step of TRL and LLaMA-Factory relative to ours, for models as they are used.

    Backward costs twice the forward. LLaMA-Factory also computes vocabulary logits at every position (forward
    only: nothing that is trained depends on them), which small models make look worse than it is.
    """
    shuffled = rows[:]
    random.Random(0).shuffle(shuffled)
    theirs, ours = padded_runs(pairs_of(shuffled), batch), shared_runs(shuffled)
    found = {}
    for name, vocabulary in (("Qwen2.5-0.5B", 151_936), ("Llama-3.1-8B", 128_256)):
        size = SIZES[name]
        logits = 2 * size.hidden * vocabulary * tokens(theirs)
        step, own = 3 * flops(size, theirs), 3 * flops(size, ours)
        found[name] = {"TRL": step / own, "LLaMA-Factory": (step + logits) / own}
    return found
