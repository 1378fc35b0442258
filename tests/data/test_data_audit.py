"""The audit's numbers, derived by hand from a few rows."""

from __future__ import annotations

import json

import pytest

from rmx.data import Accounting, Splits
from rmx.data.audit import audit
from rmx.metrics import wilson_interval
from rmx.records import Comparison, EncodedComparison, Pair


def row(number: int, prompt: str, chosen: str, rejected: str, **keys: object) -> Comparison:
    turns = ({"role": "user", "content": prompt},) if prompt else ()
    responses = tuple(({"role": "assistant", "content": text},) for text in (chosen, rejected))
    return Comparison(f"r{number}", "s", turns, responses, (Pair(0, 1),), where=f"f:{number}", **keys)


TRAIN = [
    row(1, "aaaa", "xxxxxx", "yy"),  # longer preferred
    row(2, "bbbb", "xxxx", "yy"),  # longer preferred
    row(3, "cccc", "xx", "yyyy"),  # shorter preferred
]
EVAL = [
    row(4, "dddd", "xxx", "y"),  # longer preferred
    row(5, "AAAA ", "xx", "yy"),  # equally long; prompt of row 1 but for case and space
]


def splits() -> Splits:
    return Splits(list(TRAIN), {"eval": list(EVAL)}, Accounting())


def test_lengths_by_hand() -> None:
    """Training prefers the longer side 2 : 1, so the rule is "longer": right in 2 of 3 there.

    In the evaluation set it is right once and has one equal pair: 1.5 of 2. Characters in train: prompts 4 each;
    responses 6, 2, 4, 2, 2, 4 = 20; both responses repeat the prompt: 24 of 44 characters are shared prefix.
    """
    found = audit(splits()).numbers["characters"]
    assert found["rule"] == "prefer the longer response"
    train, held = found["sets"]["train"], found["sets"]["eval"]
    assert train["length_only_accuracy"] == pytest.approx(2 / 3)
    assert (train["length_only_accuracy_low"], train["length_only_accuracy_high"]) == wilson_interval(2, 3)
    assert held["length_only_accuracy"] == 0.75
    assert (held["longer_preferred"], held["equally_long"]) == (0.5, 0.5)
    assert train["shared_prefix_share"] == pytest.approx(24 / 44)
    assert train["sequence"]["max"] == 10
    assert sum(train["histogram"]["preferred"]) == 3


def test_lengths_in_tokens_come_from_the_encoded_rows() -> None:
    """Prefix 3 tokens, suffixes 1 and 2: 6 of 9 tokens are shared, the shorter side is preferred."""
    encoded = [EncodedComparison("r1", "s", [1, 2, 3], ([4], [4, 5]), (Pair(0, 1),))]
    found = audit(splits(), {"train": encoded}).numbers["tokens"]
    assert found["rule"] == "prefer the shorter response"
    assert found["sets"]["train"]["shared_prefix_share"] == pytest.approx(6 / 9)
    assert found["sets"]["train"]["shorter_preferred"] == 1.0


def test_truncated_rows_do_not_say_who_is_longer() -> None:
    rows = [
        EncodedComparison("r1", "s", [1], ([4, 5, 6], [4]), (Pair(0, 1),)),
        EncodedComparison("r2", "s", [1], ([4], [4, 5]), (Pair(0, 1),), truncated=True),
    ]
    found = audit(splits(), {"train": rows}).numbers["tokens"]["sets"]["train"]
    assert (found["pairs"], found["longer_preferred"], found["sequence"]["max"]) == (1, 1.0, 4)


def test_overlap_exact_and_normalised() -> None:
    found = audit(splits()).numbers["overlap"]["eval"]
    assert (found["with_pair_in_train"], found["with_prompt_in_train"], found["with_prompt_in_train_normalised"]) == (
        0,
        0,
        1,
    )


def test_roles() -> None:
    double = Comparison(
        "d",
        "s",
        ({"role": "assistant", "content": "Hi"}, {"role": "user", "content": "a"}, {"role": "user", "content": "b"}),
        TRAIN[0].responses,
        (Pair(0, 1),),
        where="f:9",
    )
    found = audit(Splits([*TRAIN, double, row(10, "", "p", "q")], {}, Accounting())).numbers["roles"]
    assert found == {
        "assistant_first": 1,
        "no_prompt": 1,
        "repeated_roles": 1,
        "examples": {"assistant_first": ["f:9"], "no_prompt": ["f:10"], "repeated_roles": ["f:9"]},
    }


def test_shape() -> None:
    ranked = Comparison(
        "k",
        "t",
        TRAIN[0].prompt,
        (*TRAIN[0].responses, *TRAIN[1].responses[:1]),
        (Pair(0, 1, 0.5), Pair(0, 2, target=0.75), Pair(1, 2, target=0.5, tie=True)),
        where="f:9",
    )
    found = audit(Splits([*TRAIN, ranked], {}, Accounting())).numbers["sets"]["train"]
    assert found["responses_per_comparison"] == {2: 3, 3: 1}
    assert (found["comparisons"], found["pairs"], found["prompts"]) == (4, 6, 3)
    assert (found["with_margin"], found["with_vote_share"], found["ties"]) == (1, 1, 1)
    assert found["sources"] == {"s": 3, "t": 1}


def test_it_is_json_and_fits_a_page_and_shows_no_content() -> None:
    found = audit(splits())
    assert "xxxx" not in json.dumps(found.as_dict()) + found.summary()
    assert len(found.summary().splitlines()) < 30
    assert "only 3 training comparisons" in found.summary()


def test_without_training_rows() -> None:
    found = audit(Splits([], {"eval": list(EVAL)}, Accounting()))
    assert found.numbers["overlap"] == {}
    assert "eval" in found.summary()
