"""What the audit looks for in the content of rows: repeats, contradictions, overlap, roles, control tokens."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, islice, pairwise
from typing import Any

from rmx.data.fingerprints import loose_prompt, pair_keys, say, sides
from rmx.records import Comparison, Message

__all__ = ["control_tokens", "overlap", "repeats", "roles", "shape"]

_EXAMPLES = 5  # places named per finding

# What tokenizers of today use as control tokens, by form and by name. Rows that spell one are counted; when they
# are tokenised the letters stay letters (rmx.tokens.control).
_CONTROL = re.compile(
    r"<\|[A-Za-z0-9_ ]{1,40}\|>"  # ChatML, Llama 3, Phi, GPT
    r"|<｜[^｜<>]{1,40}｜>"  # DeepSeek
    r"|</?s>|<(?:pad|bos|eos|unk|mask)>"  # Llama 2, T5, Gemma
    r"|<(?:start|end)_of_(?:turn|image)>"  # Gemma
    r"|\[/?INST\]|<</?SYS>>"  # Llama 2, Mistral
    r"|\[(?:PAD|CLS|SEP|MASK|UNK)\]"  # BERT
)


def shape(rows: Sequence[Comparison]) -> dict[str, Any]:
    """Counts of one set: comparisons, pairs, responses, distinct prompts, sources and kinds of supervision."""
    responses = Counter(len(row.responses) for row in rows)
    pairs = [pair for row in rows for pair in row.pairs]
    return {
        "comparisons": len(rows),
        "pairs": len(pairs),
        "responses_per_comparison": dict(sorted(responses.items())),
        "prompts": len({say(row.prompt) for row in rows}),
        "sources": dict(Counter(row.source for row in rows)),
        "with_margin": sum(pair.margin != 0.0 for pair in pairs),
        "with_vote_share": sum(pair.target != 1.0 and not pair.tie for pair in pairs),
        "ties": sum(pair.tie for pair in pairs),
        "with_weight": sum(pair.weight != 1.0 for pair in pairs),
        "several_messages": sum(any(len(response) > 1 for response in row.responses) for row in rows),
        "with_system": sum(bool(row.prompt) and row.prompt[0]["role"] == "system" for row in rows),
        "with_tools": sum(row.tools is not None for row in rows),
    }


def repeats(sets: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    """Pairs that stand in the data more than once, and pairs that stand in it both ways round.

    A row that a mixture repeats on purpose counts once.
    """
    seen: dict[tuple[int, int, int], int] = {}  # pair → number of the row that has it first, over all sets
    rows_seen: set[int] = set()
    identical: list[tuple[int, int]] = []
    contradictions: list[tuple[int, int]] = []
    for number, row in enumerate(chain.from_iterable(sets.values())):
        if row.where:
            itself = hash((row.source, row.where))
            if itself in rows_seen:
                continue
            rows_seen.add(itself)
        for prompt, winner, loser in pair_keys(row):
            first = seen.setdefault((prompt, winner, loser), number)
            if first != number:
                identical.append((number, first))
            other = seen.get((prompt, loser, winner))
            if other is not None and other != number:
                contradictions.append((number, other))
    return {
        "identical_pairs": len(identical),
        "identical_examples": _places(sets, identical[:_EXAMPLES]),
        "contradictions": len(contradictions),
        "contradiction_examples": _places(sets, contradictions[:_EXAMPLES]),
    }


def _places(sets: Mapping[str, Sequence[Comparison]], found: Sequence[tuple[int, int]]) -> list[list[str]]:
    """The places of rows given by their numbers over all sets."""
    starts = list(accumulate((len(rows) for rows in sets.values()), initial=0))
    all_rows = list(sets.values())

    def place(number: int) -> str:
        part = bisect_right(starts, number) - 1
        row = all_rows[part][number - starts[part]]
        return row.where or row.id

    return [[place(number) for number in numbers] for numbers in found]


def overlap(train: Sequence[Comparison], evals: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    """How many comparisons of each evaluation set have a pair, a prompt, or nearly a prompt in the training rows.

    The memory is that of the evaluation sets' hashes; the training rows pass by one at a time.
    """
    if not len(train) or not evals:
        return {}
    wanted: list[set[Any]] = [set(), set(), set()]
    keys = {name: [_keys(row) for row in rows] for name, rows in evals.items()}
    for rows in keys.values():
        for row in rows:
            for held, key in zip(wanted, row, strict=True):
                held |= key
    seen: list[set[Any]] = [set(), set(), set()]
    for comparison in train:
        for held, found, key in zip(wanted, seen, _keys(comparison), strict=True):
            found |= key & held
    out = {}
    for name, rows in keys.items():
        hits = [[not found.isdisjoint(key) for found, key in zip(seen, row, strict=True)] for row in rows]
        leaked = (row for row, hit in zip(evals[name], hits, strict=True) if hit[0])
        out[name] = {
            "comparisons": len(rows),
            "with_pair_in_train": sum(hit[0] for hit in hits),
            "with_prompt_in_train": sum(hit[1] for hit in hits),
            "with_prompt_in_train_normalised": sum(hit[2] for hit in hits),
            "examples": [row.where for row in islice(leaked, _EXAMPLES)],
        }
    return out


def _keys(row: Comparison) -> tuple[set[Any], set[Any], set[Any]]:
    """Hashes of a row's pairs, of its prompt, and of its prompt normalised."""
    if not row.prompt:
        return sides(row), set(), set()
    return sides(row), {say(row.prompt)}, {loose_prompt(row)}


def roles(rows: Iterable[Comparison]) -> dict[str, Any]:
    """Comparisons whose turns are unusual though usable."""
    counts = Counter[str]()
    examples: dict[str, list[str]] = {}
    for row in rows:
        found = set()
        for response in row.responses:
            if _repeats_role([*row.prompt[-1:], *response]):
                found.add("repeated_roles")
        if _repeats_role(row.prompt):
            found.add("repeated_roles")
        if row.prompt and all(message["role"] != "user" for message in row.prompt):
            found.add("no_user_turn")
        if not row.prompt:
            found.add("no_prompt")
        first = next((message["role"] for message in row.prompt if message["role"] != "system"), None)
        if first == "assistant":
            found.add("assistant_first")
        for fault in found:
            counts[fault] += 1
            examples.setdefault(fault, []).append(row.where)
    return {**dict(sorted(counts.items())), "examples": {k: v[:_EXAMPLES] for k, v in sorted(examples.items())}}


def control_tokens(rows: Iterable[Comparison]) -> dict[str, Any]:
    """Comparisons whose content spells a control token of some tokenizer, and which ones."""
    kinds, count = Counter[str](), 0
    examples: list[str] = []
    for row in rows:
        found: set[str] = set()
        for message in (*row.prompt, *(m for response in row.responses for m in response)):
            text = message["content"]
            if "<" in text or "[" in text:
                found.update(_CONTROL.findall(text))
        if found:
            count += 1
            kinds.update(found)
            if len(examples) < _EXAMPLES:
                examples.append(row.where)
    return {"comparisons": count, "tokens": dict(kinds.most_common(20)), "examples": examples}


def _repeats_role(messages: Sequence[Message]) -> bool:
    """Whether two turns of one role follow each other; several tools may answer one call."""
    return any(a["role"] == b["role"] != "tool" for a, b in pairwise(messages))
