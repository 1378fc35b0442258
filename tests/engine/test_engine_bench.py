"""The benchmark's arithmetic, the losses beside TRL's, and that a step reads nothing back from the device."""

from __future__ import annotations

import json

import pytest
import torch
from host_reads import HostReads

from benchmarks.families import SHARED
from benchmarks.families import comparisons as tiny_comparisons
from benchmarks.workload import (
    SIZES,
    Run,
    comparisons,
    flops,
    generated_rows,
    ideal_ratio,
    padded_runs,
    pairs_of,
    shared_prefix,
    shared_runs,
    token_ratio,
    tokens,
    without_prefix,
)
from rmx.engine import Collator, Engine

LLAMA = next(f for f in SHARED if f.name == "Llama")


def test_entries_of_a_run():
    """3 queries at the end of 5 keys see 3 + 4 + 5 = 12 of them causally, and a dense mask computes all 15."""
    assert Run(3, 5, causal=True).entries == 12
    assert Run(3, 5, causal=False).entries == 15


def test_flops_of_one_token():
    """XS: 2 layers of (q 64×64, k and v 64×32 each, o 64×64, three 64×172) = 2 × 45,312 weights."""
    xs = SIZES["XS"]
    assert xs.body == 90_624
    assert flops(xs, [Run(1, 1, causal=True)]) == 2 * 90_624 + 4 * 64 * 2


def test_ratios_of_one_pair():
    """Sequences of 4 and 3 tokens that share 2: padded 2 × 4 = 8 positions, shared 4 + 1 = 5."""
    rows = [[[5, 6, 7, 1], [5, 6, 1]]]
    assert shared_prefix(rows[0]) == 2
    assert [(r.queries, r.keys) for r in shared_runs(rows)] == [(4, 4), (1, 3)]
    assert token_ratio(rows, 8) == 8 / 5
    assert ideal_ratio(SIZES["XS"], rows, 8) > 8 / 5  # the dense mask costs on top


def test_counted_tokens_are_the_engines():
    rows = generated_rows(20, responses=3)
    assert tokens(shared_runs(rows)) == Collator("shared")(comparisons(rows)).tokens
    assert tokens(padded_runs(pairs_of(rows), 60)) == 2 * 60 * max(len(ids) for row in rows for ids in row)
    assert all(not c.prefix_ids for c in comparisons(without_prefix(rows)))


def test_generated_lengths_are_like_hh():
    """The real file: median sequence 131 tokens, 1.57 × fewer when shared, 3.85 × fewer than padded batches of 8."""
    rows = generated_rows(1500)
    lengths = sorted(len(ids) for row in rows for ids in row)
    assert lengths[1500] == pytest.approx(131, rel=0.1)
    assert sum(lengths) / tokens(shared_runs(rows)) == pytest.approx(1.57, rel=0.05)
    assert token_ratio(rows, 8) == pytest.approx(3.85, rel=0.1)


def test_a_forward_and_backward_pass_reads_nothing_back():
    engine = Engine(LLAMA.build())
    batch = engine.collate(tiny_comparisons())
    with HostReads() as reads:
        rewards = engine.rewards(batch)
        (rewards[batch.pairs.winner] - rewards[batch.pairs.loser]).sum().backward()
    assert dict(reads.by_name) == {}


def test_host_reads_are_counted():
    with HostReads() as reads:
        ones = torch.ones(3)
        float(ones.sum())
        ones.tolist()
        if ones.any():
            ones.mean().item()
    assert dict(reads.by_name) == {"__float__": 1, "tolist": 1, "__bool__": 1, "item": 1}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_training_losses_are_those_of_trl(tmp_path, monkeypatch):
    """20 steps of 8 pairs, same batches, same seed: losses within 1e-5 at every step."""
    from benchmarks.worker import Case, rmx, trl

    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    sample = tmp_path / "rows.json"
    sample.write_text(json.dumps(generated_rows(160)))
    case = Case("rmx", str(sample), size="XS", vocabulary=16_384, logging_steps=1)
    ours, theirs = rmx(case)["losses"], trl(case)["losses"]
    assert len(ours) == len(theirs) == 20
    assert ours == pytest.approx(theirs, abs=1e-5)
