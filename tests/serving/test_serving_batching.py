"""What a batch takes: the prompt that waits longest, all that shares with it, up to the budget."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmx.records import EncodedComparison
from rmx.serving.batching import take_batch
from rmx.serving.sharing import SharedRow, merged, sequences_of
from rmx.serving.waiting import Question


def encoded(*sequences):
    """A comparison of these whole sequences, its beginning shared as the encoder shares it."""
    from rmx.tokens.truncate import common_prefix

    rows = [np.array(sequence, np.int32) for sequence in sequences]
    shared = common_prefix(rows)
    return EncodedComparison("", "s", rows[0][:shared], tuple(row[shared:] for row in rows), ())


def question(name, *sequences, abandoned=False):
    ticket = SimpleNamespace(abandoned=abandoned, name=name)
    return Question(ticket, 0, None, (encoded(*sequences),))


def ready(**prompts):
    return {name: deque(questions) for name, questions in prompts.items()}


def names(batch):
    return [[one.ticket.name for one in group] for group in batch]


def test_one_prompt_is_one_group_and_the_budget_is_of_tokens_computed():
    """p: 8 shared tokens, 1 of each of 3: 8 + 3 = 11 of 12; q has 5, no room, and comes first in the next one."""
    p = [question(f"p{k}", [*range(8), 90 + k]) for k in range(3)]
    waiting = ready(p=p, q=[question("q", [50, 51, 52, 53, 54])])
    assert names(take_batch(waiting, 12, shared=True)) == [["p0", "p1", "p2"]]
    assert names(take_batch(waiting, 12, shared=True)) == [["q"]]
    assert waiting == {}


def test_a_model_that_shares_nothing_gets_no_groups():
    p = [question(f"p{k}", [*range(8), 90 + k]) for k in range(3)]
    waiting = ready(p=p)
    assert names(take_batch(waiting, 20, shared=False)) == [["p0"], ["p1"]]  # 9 tokens each
    assert names(take_batch(waiting, 20, shared=False)) == [["p2"]]


def test_what_is_larger_than_the_budget_is_taken_alone():
    waiting = ready(big=[question("big", range(100))], small=[question("small", [1, 2])])
    assert names(take_batch(waiting, 10, shared=True)) == [["big"]]
    assert names(take_batch(waiting, 10, shared=True)) == [["small"]]


def test_a_prompt_without_end_lets_the_others_have_their_turn():
    """p has more than a batch holds; what is left of it stands behind q."""
    p = [question(f"p{k}", [*range(8), 90 + k]) for k in range(10)]
    waiting = ready(p=p, q=[question("q", [50, 51])])
    assert names(take_batch(waiting, 12, shared=True)) == [["p0", "p1", "p2", "p3"]]
    assert list(waiting) == ["q", "p"]
    assert names(take_batch(waiting, 12, shared=True))[0] == ["q"]


def test_what_found_no_room_keeps_its_place():
    """big has no room beside a; however many small ones come, it is in the next batch."""
    waiting = ready(a=[question("a", [1, 2, 3])], big=[question("big", range(10, 19))])
    assert names(take_batch(waiting, 10, shared=True)) == [["a"]]
    waiting |= ready(b=[question("b", [1, 2, 3])])
    assert names(take_batch(waiting, 10, shared=True)) == [["big"]]


def test_what_nobody_waits_for_is_not_computed():
    waiting = ready(a=[question("gone", [1, 2], abandoned=True), question("here", [1, 3])])
    assert names(take_batch(waiting, 10, shared=True)) == [["here"]]
    assert take_batch(ready(a=[question("gone", [1, 2], abandoned=True)]), 10, shared=True) == []


def test_a_row_that_saves_nothing_is_not_joined():
    """Two comparisons under one key that have no token in common: as one row they would share nothing."""
    waiting = ready(a=[question("x", [1, 2, 3], [1, 2, 4]), question("y", [7, 8, 9], [7, 8, 6])])
    assert names(take_batch(waiting, 100, shared=True)) == [["x"], ["y"]]


sequence = st.lists(st.integers(0, 2), min_size=2, max_size=8)
comparison = st.lists(sequence, min_size=1, max_size=3)


@settings(max_examples=100, deadline=None)
@given(st.lists(comparison, min_size=1, max_size=8), st.integers(1, 40))
def test_every_question_is_taken_once_and_its_tokens_are_its_own(rows, budget):
    """Whatever is asked: nothing lost, nothing twice, and the merged row holds every sequence, in order, unchanged."""
    waiting = ready(p=[question(n, *row) for n, row in enumerate(rows)])
    seen = []
    for _ in range(len(rows) + 1):
        batch = take_batch(waiting, budget, shared=True)
        for group in batch:
            members = [one.encoded[0] for one in group]
            together = merged(members)
            assert [s.tolist() for s in sequences_of(together)] == [
                s.tolist() for one in members for s in sequences_of(one)
            ]
            row = SharedRow(members[0])
            for one in members[1:]:
                row.add(one)
            assert row.tokens == together.shared_tokens
            assert together.shared_tokens <= sum(one.shared_tokens for one in members)
        assert len(batch) <= 1 or sum(merged([q.encoded[0] for q in g]).shared_tokens for g in batch) <= budget
        seen += [one.ticket.name for group in batch for one in group]
    assert seen == list(range(len(rows))) and waiting == {}


def test_the_ends_of_a_rendering():
    from rmx.serving.rendered import RenderedEnds

    ends = RenderedEnds(start=None, end="</s>", pad="<pad>")
    assert ends.completed("a</s> \n") == "a</s>" and ends.completed("a ") == "a </s>"
    assert ends.completed("<pad>" * 200_000 + "a" + "<pad> " * 200_000) == "a</s>"  # in time that grows with the text
    assert RenderedEnds("<s>", "</s>", None).completed("<s>a") == "<s>a</s>"


@pytest.mark.parametrize("text", ["", "   "])
def test_a_blank_text_is_refused(server, text):
    answer = server.post("/get_reward", {"query": [text]})
    assert answer.status_code == 422 and "row 1: empty text" in answer.json()["error"]["message"]
