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


def test_no_group_on_both_sides_and_about_the_share() -> None:
    train, held = split_by_prompt(ROWS, 0.1, 0)
    assert not {prompt_group(r) for r in train} & {prompt_group(r) for r in held}
    assert len(held) == 30
    assert sorted(r.id for r in train + held) == sorted(r.id for r in ROWS)


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
        assert len(split_by_prompt(rows, 0.1, seed)[1]) == 10


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
