"""Splitting by prompt: shares, determinism, and no prompt on both sides."""

from __future__ import annotations

import pytest

from rmx.data.holdout import normalise, prompt_group, split_by_prompt
from rmx.errors import DataError
from rmx.records import Comparison, Pair


def row(number: int, *turns: str) -> Comparison:
    prompt = tuple(
        {"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, turns, strict=False)
    )
    responses = tuple(({"role": "assistant", "content": text},) for text in ("yes", "no"))
    return Comparison(f"r{number}", "s", prompt, responses, (Pair(0, 1),))


ROWS = [row(n, f"Question {n // 3}?", "Hm.", f"And {n}?") for n in range(300)]  # three rows for each first turn


def test_no_group_on_both_sides_and_the_share_by_count() -> None:
    train, held = split_by_prompt(ROWS, 0.1, 0, "count")
    assert not {prompt_group(r) for r in train} & {prompt_group(r) for r in held}
    assert len(held) == 30
    assert sorted(r.id for r in train + held) == sorted(r.id for r in ROWS)


def test_no_group_on_both_sides_and_about_the_share_by_hash() -> None:
    """Of 4,000 prompts 400 are expected, with a standard deviation of sqrt(4000 x 0.1 x 0.9) = 19."""
    rows = [row(n, f"Prompt {n // 2}?") for n in range(8000)]
    train, held = split_by_prompt(rows, 0.1, 0)
    assert not {prompt_group(r) for r in train} & {prompt_group(r) for r in held}
    assert abs(len(held) / 2 - 400) < 4 * 19
    assert sorted(r.id for r in train + held) == sorted(r.id for r in rows)


@pytest.mark.parametrize("seed", range(3))
def test_a_file_that_grows_moves_nobody(seed: int) -> None:
    """Rows that are added, repeat a prompt or come first change no other row's side; by count they do."""
    before = {r.id for r in split_by_prompt(ROWS, 0.1, seed)[1]}
    more = [row(n, f"New question {n}?") for n in range(1000, 1200)] + [row(2000, "Question 7?")]
    for grown in (more + ROWS, ROWS + more, ROWS[::-1] + more[:50]):
        after = {r.id for r in split_by_prompt(grown, 0.1, seed)[1]}
        assert after & {r.id for r in ROWS} == before
    exact = {r.id for r in split_by_prompt(ROWS, 0.1, seed, "count")[1]}
    grown_exact = {r.id for r in split_by_prompt(ROWS + more, 0.1, seed, "count")[1]} & {r.id for r in ROWS}
    assert exact != grown_exact


def test_few_prompts_leave_neither_side_empty() -> None:
    """By hash alone two prompts in three would often be all on one side; the one nearest to the border changes it."""
    for seed in range(20):
        for share in (0.02, 0.98):
            train, held = split_by_prompt([row(n, f"{n}?") for n in range(3)], share, seed)
            assert train
            assert held


def test_the_same_seed_gives_the_same_split_another_seed_another() -> None:
    ids = [[r.id for r in split_by_prompt(ROWS, 0.1, seed)[1]] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_order_of_rows_does_not_matter() -> None:
    held = {r.id for r in split_by_prompt(ROWS, 0.1, 0)[1]}
    assert {r.id for r in split_by_prompt(ROWS[::-1], 0.1, 0)[1]} == held


def test_case_space_and_unicode_form_do_not_make_another_prompt() -> None:
    assert normalise("ＡＢＣ  Straße\n") == normalise("abc STRASSE")
    assert prompt_group(row(1, " What\tIS it? ")) == prompt_group(row(2, "what is it?"))


def test_a_large_group_is_passed_over_when_it_overshoots() -> None:
    """One prompt has 60 of 100 rows: a tenth is taken from the other 40 whatever the hash order."""
    rows = [row(n, "Same?") for n in range(60)] + [row(n, f"Other {n}?") for n in range(60, 100)]
    for seed in range(5):
        assert len(split_by_prompt(rows, 0.1, seed, "count")[1]) == 10


def test_shares_of_zero_and_one() -> None:
    assert [len(part) for part in split_by_prompt(ROWS, 0.0, 0)] == [300, 0]
    assert [len(part) for part in split_by_prompt(ROWS, 1.0, 0)] == [0, 300]


def test_two_prompts_can_be_split_one_cannot() -> None:
    assert [len(part) for part in split_by_prompt([row(1, "a"), row(2, "b")], 0.1, 0)] == [1, 1]
    with pytest.raises(DataError, match="1 different prompts"):
        split_by_prompt([row(1, "a"), row(2, "a")], 0.1, 0)


def test_rows_without_prompt_are_grouped_by_their_responses() -> None:
    swapped = Comparison("x", "s", (), row(0).responses[::-1], (Pair(0, 1),))
    assert prompt_group(row(1)) == prompt_group(swapped) == "no"
