"""Rows, token budgets and run boundaries, by hand."""

from __future__ import annotations

import pickle

import pytest
import torch

from rmx.engine.layout import Collator, Layout, pair_table, plan
from rmx.records import EncodedComparison, Pair


def comparison(prefix: int, *suffixes: int, name: str = "c") -> EncodedComparison:
    """A comparison whose prefix tokens are 10, 11, ... and whose k-th suffix is (k+1)*100, (k+1)*100+1, ..."""
    return EncodedComparison(
        id=name,
        source="test",
        prefix_ids=list(range(10, 10 + prefix)),
        suffix_ids=tuple(list(range(100 * k, 100 * k + length)) for k, length in enumerate(suffixes, 1)),
        pairs=tuple(Pair(0, loser) for loser in range(1, len(suffixes))),
    )


def test_shared_row_of_two_comparisons():
    """[10 11 12 | 100 101 | 200] then [10 | 100 | 200 201 | 300]: 6 + 5 = 11 tokens.

    Runs: first suffixes carry the prefix (5 and 2 queries), the others only themselves (1, 2, 1 queries), and
    each sees its whole sequence: 5, 4, 2, 3, 2 keys. Rewards sit at the runs' ends: 4, 5, 7, 9, 10.
    """
    batch = Collator("shared")([comparison(3, 2, 1), comparison(1, 1, 2, 1)])
    assert batch.input_ids.tolist() == [[10, 11, 12, 100, 101, 200, 10, 100, 200, 201, 300]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 1, 2, 1]]
    assert batch.pool_index.tolist() == [4, 5, 7, 9, 10]
    assert batch.layout.q_lens == (5, 1, 2, 2, 1)
    assert batch.layout.k_lens == (5, 4, 2, 3, 2)
    assert batch.layout.kv_index.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 6, 8, 9, 6, 10]
    assert batch.pairs.winner.tolist() == [0, 2, 2]
    assert batch.pairs.loser.tolist() == [1, 3, 4]
    assert (batch.tokens, batch.attention_mask) == (11, None)


def test_flat_row_repeats_the_prefix_and_gathers_nothing():
    """The same two comparisons: 5 + 4 + 2 + 3 + 2 = 16 tokens, every run sees itself."""
    batch = Collator("flat")([comparison(3, 2, 1), comparison(1, 1, 2, 1)])
    assert batch.input_ids.tolist() == [[10, 11, 12, 100, 101, 10, 11, 12, 200, 10, 100, 10, 200, 201, 10, 300]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 0, 1, 2, 0, 1]]
    assert batch.pool_index.tolist() == [4, 8, 10, 13, 15]
    assert batch.layout.q_lens == batch.layout.k_lens == (5, 4, 2, 3, 2)
    assert batch.layout.kv_index is None
    assert batch.tokens == 16


def test_padded_rows_take_the_mask_from_lengths_even_where_a_token_is_the_pad_id():
    """Two rows of 3 and 2 tokens; token 200 is the pad id and still counts."""
    batch = Collator("padded", pad_token_id=200)([comparison(1, 2, 1)])
    assert batch.input_ids.tolist() == [[10, 100, 101], [10, 200, 200]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.pool_index.tolist() == [2, 4]
    assert (batch.tokens, batch.layout, batch.position_ids) == (6, None, None)


def test_without_a_prefix_shared_and_flat_are_the_same_row():
    rows = [comparison(0, 3, 2), comparison(0, 1)]
    shared, flat = Collator("shared")(rows), Collator("flat")(rows)
    assert shared.input_ids.equal(flat.input_ids)
    assert shared.layout.kv_index is flat.layout.kv_index is None
    assert shared.layout.q_lens == flat.layout.q_lens == (3, 2, 1)


def test_one_response_without_pairs_is_plain_scoring():
    batch = Collator("shared")([comparison(2, 3)])
    assert batch.input_ids.shape == (1, 5)
    assert batch.pool_index.tolist() == [4]
    assert batch.pairs.winner.shape == batch.pairs.tie.shape == (0,)
    assert batch.pairs.winner.dtype == torch.int64


def test_pair_table_carries_what_the_losses_need():
    rows = [
        EncodedComparison("a", "s", [1], ([2], [3]), (Pair(1, 0, margin=0.5, target=0.8, weight=2.0, tie=True),)),
        EncodedComparison("b", "s", [1], ([2], [3], [4]), (Pair(2, 1),)),
    ]
    table = pair_table(rows)
    assert (table.winner.tolist(), table.loser.tolist()) == ([1, 4], [0, 3])
    assert (table.margin.tolist(), table.weight.tolist()) == ([0.5, 0.0], [2.0, 1.0])
    assert table.target.tolist() == pytest.approx([0.8, 1.0])
    assert table.tie.tolist() == [True, False]


@pytest.mark.parametrize(("encoding", "costs"), [("shared", (6, 5)), ("flat", (9, 7)), ("padded", (10, 9))])
def test_cost_counts_what_is_computed(encoding, costs):
    """3+2+1 and 1+1+2+1 tokens shared; 5+4 and 2+3+2 separate; 2 rows of 5 and 3 rows of 3 padded."""
    collator = Collator(encoding)
    rows = [comparison(3, 2, 1), comparison(1, 1, 2, 1)]
    assert tuple(collator.cost([row]) for row in rows) == costs
    for row in rows:
        assert collator([row]).tokens == collator.cost([row])


@pytest.mark.parametrize("encoding", ["shared", "flat", "padded"])
@pytest.mark.parametrize("budget", [1, 20, 64, 10_000])
def test_plan_keeps_the_budget_and_every_comparison_once(encoding, budget):
    collator = Collator(encoding)
    rows = [comparison(n % 7, 1 + n % 5, 1 + n % 3, name=str(n)) for n in range(30)]
    parts = plan(collator, rows, budget)
    assert sorted(i for part in parts for i in part) == list(range(30))
    for part in parts:
        tokens = collator([rows[i] for i in part]).tokens
        assert tokens == collator.cost([rows[i] for i in part])
        assert tokens <= budget or len(part) == 1
    assert plan(collator, [], budget) == []


def test_plan_puts_the_longest_first():
    """Costs 4, 11, 5 against a budget of 11: the 11 alone, then 5 + 4."""
    rows = [comparison(n, 1) for n in (3, 10, 4)]
    assert plan(Collator("shared"), rows, 11) == [[1], [2, 0]]


def test_mask_is_causal_from_the_bottom_right_and_knows_the_window():
    """2 queries at the end of 4 keys see keys 0..2 and 0..3; with a window of 2 only keys 1..2 and 2..3."""
    layout = Layout((2,), (4,), None, torch.tensor([1]))
    device = torch.device("cpu")
    assert layout.mask(2, 4, 4, device).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert layout.mask(2, 4, 2, device).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert layout.mask(2, 4, 2, device) is layout.mask(2, 4, 2, device)  # one mask for all layers


def test_boundaries_are_cumulative_lengths():
    layout = Layout((5, 1, 2), (5, 4, 2), None, torch.tensor([4, 5, 7]))
    queries, keys = layout.boundaries(torch.device("cpu"))
    assert (queries.tolist(), keys.tolist()) == ([0, 5, 6, 8], [0, 5, 9, 11])
    assert queries.dtype == keys.dtype == torch.int32


def test_collator_is_small_and_picklable():
    assert len(pickle.dumps(Collator("shared", 7))) < 200
    assert pickle.loads(pickle.dumps(Collator("shared", 7))) == Collator("shared", 7)


def test_ids_may_be_arrays():
    import numpy as np

    lists = comparison(3, 2, 1)
    arrays = EncodedComparison(
        "c",
        "test",
        np.array(lists.prefix_ids, np.int32),
        tuple(np.array(s, np.int32) for s in lists.suffix_ids),
        lists.pairs,
    )
    for encoding in ("shared", "flat", "padded"):
        assert Collator(encoding)([arrays]).input_ids.equal(Collator(encoding)([lists]).input_ids)
