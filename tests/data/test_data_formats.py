"""Each row format: what is detected, and the comparison that comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rmx.data import FORMATS, PreferenceData
from rmx.records import Comparison, Pair


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def gpt(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


def read(tmp_path: Path, *rows: dict[str, Any], **keys: Any) -> tuple[list[Comparison], str]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = PreferenceData(path=str(path), validation_fraction=0, **keys).read()
    account = splits.accounting.sources["rows"]
    assert splits.accounting.adds_up()
    return splits.train, account.detected


QUESTION = (user("2+2?"),)
FOUR, FIVE = (bot("4"),), (bot("5"),)

# (row, format, prompt, responses)
ROWS: dict[str, tuple[dict[str, Any], str, Any, Any]] = {
    "texts": ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, "preference", QUESTION, (FOUR, FIVE)),
    "question column": ({"question": "2+2?", "chosen": "4", "rejected": "5"}, "preference", QUESTION, (FOUR, FIVE)),
    "system column": (
        {"system": "Add.", "question": "2+2?", "chosen": "4", "rejected": "5"},
        "preference",
        ({"role": "system", "content": "Add."}, *QUESTION),
        (FOUR, FIVE),
    ),
    "whole texts": ({"chosen": "2+2=4", "rejected": "2+2=5"}, "preference", (), ((bot("2+2=4"),), (bot("2+2=5"),))),
    "prompt messages, answer texts": (
        {"prompt": [user("2+2?")], "chosen": "4", "rejected": "5"},
        "preference",
        QUESTION,
        (FOUR, FIVE),
    ),
    "messages, explicit": (
        {"prompt": [user("2+2?")], "chosen": [bot("4")], "rejected": [bot("5")]},
        "preference",
        QUESTION,
        (FOUR, FIVE),
    ),
    "messages, prompt repeated": (
        {"prompt": [user("2+2?")], "chosen": [user("2+2?"), bot("4")], "rejected": [user("2+2?"), bot("5")]},
        "preference",
        QUESTION,
        (FOUR, FIVE),
    ),
    "messages, implicit": (
        {"chosen": [user("2+2?"), bot("4")], "rejected": [user("2+2?"), bot("5")]},
        "preference",
        QUESTION,
        (FOUR, FIVE),
    ),
    "UltraFeedback": (
        {
            "prompt": "2+2?",
            "prompt_id": "a1",
            "messages": [user("2+2?"), bot("4")],
            "chosen": [user("2+2?"), bot("4")],
            "rejected": [user("2+2?"), bot("5")],
            "score_chosen": 9.0,
            "score_rejected": 1.0,
        },
        "preference",
        QUESTION,
        (FOUR, FIVE),
    ),
    "messages beside single answers": (
        {"messages": [user("2+2?")], "chosen": bot("4"), "rejected": bot("5")},
        "preference",
        QUESTION,
        (FOUR, FIVE),
    ),
    "ShareGPT dialect": (
        {"prompt": [gpt("human", "2+2?")], "chosen": [gpt("gpt", "4")], "rejected": [gpt("bot", "5")]},
        "preference",
        QUESTION,
        (FOUR, FIVE),
    ),
    "HH-RLHF": (
        {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"},
        "dialogue",
        QUESTION,
        (FOUR, FIVE),
    ),
    "ShareGPT ranking": (
        {"conversations": [gpt("human", "2+2?")], "chosen": gpt("gpt", "4"), "rejected": gpt("gpt", "5")},
        "sharegpt",
        QUESTION,
        (FOUR, FIVE),
    ),
    "alpaca ranking": (
        {"instruction": "2+2?", "input": "", "chosen": "4", "rejected": "5", "history": [], "system": ""},
        "alpaca",
        QUESTION,
        (FOUR, FIVE),
    ),
    "alpaca ranking, all columns": (
        {
            "instruction": "Add.",
            "input": "2+2",
            "chosen": "4",
            "rejected": "5",
            "system": "Be brief.",
            "history": [["Hi", "Hello"]],
        },
        "alpaca",
        ({"role": "system", "content": "Be brief."}, user("Hi"), bot("Hello"), user("Add.\n2+2")),
        (FOUR, FIVE),
    ),
    "ranks": (
        {"prompt": "2+2?", "responses": ["5", "4"], "ranks": [2, 1]},
        "ranked",
        QUESTION,
        (FOUR, FIVE),
    ),
    "Nectar": (
        {
            "prompt": "\n\nHuman: 2+2?\n\nAssistant: ",
            "answers": [{"answer": "5", "model": "a", "rank": 2.0}, {"answer": "4", "model": "b", "rank": 1.0}],
        },
        "ranked",
        QUESTION,
        (FOUR, FIVE),
    ),
    "UltraFeedback, unbinarized": (
        {
            "instruction": "2+2?",
            "completions": [{"response": "5", "overall_score": 1.0}, {"response": "4", "overall_score": 9.0}],
        },
        "ranked",
        QUESTION,
        (FOUR, FIVE),
    ),
    "arena, one turn": (
        {"prompt": "2+2?", "response_a": "4", "response_b": "5", "winner": "model_a"},
        "votes",
        QUESTION,
        (FOUR, FIVE),
    ),
    "arena, conversations": (
        {
            "conversation_a": [user("2+2?"), bot("4")],
            "conversation_b": [user("2+2?"), bot("5")],
            "winner": "model_a",
        },
        "votes",
        QUESTION,
        (FOUR, FIVE),
    ),
    "arena, three flags": (
        {
            "prompt": "2+2?",
            "response_a": "4",
            "response_b": "5",
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
        },
        "votes",
        QUESTION,
        (FOUR, FIVE),
    ),
    "SafeRLHF": (
        {"prompt": "2+2?", "response_0": "4", "response_1": "5", "better_response_id": 0},
        "votes",
        QUESTION,
        (FOUR, FIVE),
    ),
    "SHP": (
        {"history": "2+2?", "human_ref_A": "4", "human_ref_B": "5", "labels": 1, "score_A": 9, "score_B": 2},
        "votes",
        QUESTION,
        (FOUR, FIVE),
    ),
    "HelpSteer2 preference": (
        {"prompt": "2+2?", "response_1": "4", "response_2": "5", "preference_strength": -2},
        "strength",
        QUESTION,
        (FOUR, FIVE),
    ),
    "HelpSteer3": (
        {"context": [user("2+2?")], "response1": "4", "response2": "5", "overall_preference": -1},
        "strength",
        QUESTION,
        (FOUR, FIVE),
    ),
    "WebGPT": (
        {"question": "2+2?", "answer_0": "4", "answer_1": "5", "score_0": 1.0, "score_1": -1.0},
        "scored",
        QUESTION,
        (FOUR, FIVE),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_row_of_each_format(tmp_path: Path, name: str) -> None:
    row, wanted, prompt, responses = ROWS[name]
    keys = {"allow_empty_prompt": not prompt}
    (found,), detected = read(tmp_path, row, **keys)
    assert detected.endswith(f"(format={wanted})")
    assert (found.prompt, found.responses, found.pairs) == (prompt, responses, (Pair(0, 1),))
    (again,), _ = read(tmp_path, row, format=wanted, **keys)
    assert again == found


def test_every_format_has_a_row_above() -> None:
    elsewhere = {"pointwise", "choices", "last_turn", "tree", "messages", "label_studio"}  # test_data_shapes.py
    assert {wanted for _, wanted, _, _ in ROWS.values()} | elsewhere == set(FORMATS)


def test_detection_names_the_prompt_column(tmp_path: Path) -> None:
    _, detected = read(tmp_path, {"question": "2+2?", "chosen": "4", "rejected": "5"})
    assert detected == "chosen and rejected responses, the prompt in column question (format=preference)"
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    _, detected = read(tmp_path, {"messages": turns, "rejected_response": "5"})
    assert detected.endswith("the prompt in column messages (format=last_turn)")


@pytest.mark.parametrize(
    ("winner", "expected"),
    [("model_b", 1), ("B", 1), ("response_b", 1), ("a", 0), ("model_a", 0)],
)
def test_names_of_winners(tmp_path: Path, winner: Any, expected: int) -> None:
    (found,), _ = read(tmp_path, {"prompt": "?", "response_a": "4", "response_b": "5", "winner": winner})
    assert found.pairs[0].winner == expected


@pytest.mark.parametrize("tie", ["tie", "tie (bothbad)", "draw", "neither"])
def test_ties_are_dropped_or_kept(tmp_path: Path, tie: str) -> None:
    rows = [
        {"prompt": "?", "response_a": "4", "response_b": "5", "winner": "model_a"},
        {"prompt": "??", "response_a": "4", "response_b": "5", "winner": tie},
    ]
    found, _ = read(tmp_path, *rows)
    assert [row.where[-1] for row in found] == ["1"]
    found, _ = read(tmp_path, *rows, ties="keep")
    assert found[1].pairs == (Pair(0, 1, 0.0, 0.5, 1.0, True),)


def test_unknown_winner_is_a_bad_row(tmp_path: Path) -> None:
    rows = [{"prompt": "?", "response_a": "4", "response_b": "5", "winner": w} for w in ["model_a"] * 20 + ["gpt-4"]]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = PreferenceData(path=str(path), validation_fraction=0, on_bad_row="skip").read()
    assert dict(splits.accounting.sources["rows"].rejected) == {"unknown winner": 1}


def test_k_responses_are_one_comparison_with_all_pairs(tmp_path: Path) -> None:
    """Scores 3, 1, 2 order the responses B, C, A by 3 > 2 > 1; K = 3 gives 3 pairs with margins 1, 2, 1 times 0.5."""
    row = {"prompt": "?", "responses": ["B", "A", "C"], "scores": [3, 1, 2]}
    (found,), _ = read(tmp_path, row, margin_from_scores=0.5)
    assert [response[0]["content"] for response in found.responses] == ["B", "C", "A"]
    assert found.pairs == (Pair(0, 1, 0.5), Pair(0, 2, 1.0), Pair(1, 2, 0.5))
    (found,), _ = read(tmp_path, row, pair_weighting="per_prompt")
    assert [pair.weight for pair in found.pairs] == [1 / 3] * 3
    (found,), _ = read(tmp_path, row, min_gap=1.5)
    assert found.pairs == (Pair(0, 2),)


def test_equal_ranks_make_no_pair_and_copies_count_once(tmp_path: Path) -> None:
    """Ranks 1, 2, 2, 1 where the last response is a copy of the first: pairs A>B and A>C only."""
    row = {"prompt": "?", "responses": ["A", "B", "C", "A"], "ranks": [1, 2, 2, 1]}
    (found,), _ = read(tmp_path, row)
    assert found.pairs == (Pair(0, 1), Pair(0, 2))
    (found,), _ = read(tmp_path, row, ties="keep")
    assert found.pairs == (Pair(0, 1), Pair(0, 2), Pair(1, 2, 0.0, 0.5, 1.0, True))


def test_a_bare_list_is_best_first_when_the_format_is_given(tmp_path: Path) -> None:
    (found,), _ = read(tmp_path, {"prompt": "?", "responses": ["A", "B"]}, format="ranked")
    assert found.responses[found.pairs[0].winner][0]["content"] == "A"


def test_pointwise_rows_of_one_prompt_are_compared(tmp_path: Path) -> None:
    """Prompt p has scores 4, 1, 3.5 (rows 1, 2, 4); prompt q has one row, so nothing to compare."""
    rows = [
        {"prompt": "p", "response": "A", "score": 4},
        {"prompt": "p", "response": "B", "score": 1},
        {"prompt": "q", "response": "C", "score": 3},
        {"prompt": "p", "response": "D", "score": 3.5},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = PreferenceData(path=str(path), validation_fraction=0, min_gap=1.0).read()
    (found,) = splits.train
    account = splits.accounting.sources["rows"]
    assert account.format == "pointwise"
    assert [response[0]["content"] for response in found.responses] == ["A", "D", "B"]
    assert found.pairs == (Pair(0, 2), Pair(1, 2))
    assert (account.read, account.kept, account.merged, dict(account.filtered)) == (4, 1, 2, {"no preference": 1})


@pytest.mark.parametrize(
    ("extra", "pair"),
    [
        ({"margin": 0.5}, Pair(0, 1, margin=0.5)),
        ({"margin": -1}, Pair(0, 1, margin=-1.0)),
        ({"target": 0.75}, Pair(0, 1, target=0.75)),
        ({"target": 0.25, "margin": 0.5}, Pair(1, 0, margin=0.0, target=0.75)),  # the annotators prefer `rejected`
        ({"target": 0.25, "margin": -0.5}, Pair(1, 0, margin=0.5, target=0.75)),  # and so does the margin
        ({"votes_chosen": 3, "votes_rejected": 1}, Pair(0, 1, target=0.75)),
        ({"weight": 2}, Pair(0, 1, weight=2.0)),
        ({"tie": False}, Pair(0, 1)),
    ],
)
def test_more_than_one_bit(tmp_path: Path, extra: dict[str, Any], pair: Pair) -> None:
    (found,), _ = read(tmp_path, {"prompt": "?", "chosen": "4", "rejected": "5", **extra})
    assert found.pairs == (pair,)


def test_margin_from_the_scores_of_ultrafeedback(tmp_path: Path) -> None:
    row = {"prompt": "?", "chosen": "4", "rejected": "5", "score_chosen": 9.0, "score_rejected": 5.0}
    (found,), _ = read(tmp_path, row, margin_from_scores=0.25)
    assert found.pairs == (Pair(0, 1, margin=1.0),)


def test_tools_and_trajectories(tmp_path: Path) -> None:
    """Both sides call a tool and differ after its answer: all that the assistant did is the response."""
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}],
    }
    tool = {"role": "tool", "content": "4", "name": "add"}
    row = {
        "chosen": [user("2+2?"), call, tool, bot("4")],
        "rejected": [user("2+2?"), call, tool, bot("5")],
        "tools": json.dumps([{"type": "function", "function": {"name": "add"}}]),
    }
    (found,), _ = read(tmp_path, row)
    assert found.prompt == (*QUESTION, {**call, "content": ""}, tool)
    assert found.responses == (FOUR, FIVE)
    assert found.tools == ({"type": "function", "function": {"name": "add"}},)
    row["rejected"] = [user("2+2?"), bot("5")]
    (found,), _ = read(tmp_path, row)
    assert found.prompt == QUESTION
    assert [len(response) for response in found.responses] == [3, 1]


def test_function_call_turns_of_llamafactory(tmp_path: Path) -> None:
    turns = [
        gpt("human", "2+2?"),
        gpt("function_call", '{"name": "add", "arguments": {"a": 2}}'),
        gpt("observation", "4"),
    ]
    (found,), _ = read(tmp_path, {"conversations": turns, "chosen": gpt("gpt", "4"), "rejected": gpt("gpt", "5")})
    assert [message["role"] for message in found.prompt] == ["user", "assistant", "tool"]
    assert found.prompt[1]["tool_calls"][0]["function"]["name"] == "add"


def test_hh_sides_that_part_early_keep_what_is_honest(tmp_path: Path) -> None:
    """The assistant speaks twice on one side: a response of two messages. A different question: prompts differ."""
    twice = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: One.\n\nAssistant: Two.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Three.",
    }
    (found,), _ = read(tmp_path, twice)
    assert found.prompt == (user("Hi"),)
    assert found.responses == ((bot("One."), bot("Two.")), (bot("Three."),))
    (merged,), _ = read(tmp_path, twice, repeated_roles="merge")
    assert merged.responses[0] == (bot("One.\n\nTwo."),)


def test_a_shared_first_answer_goes_back_to_the_response(tmp_path: Path) -> None:
    """The prompt never ends with the assistant: the shared message joins both responses."""
    row = {"chosen": [user("Hi"), bot("Well,"), bot("yes")], "rejected": [user("Hi"), bot("Well,"), bot("no")]}
    (found,), _ = read(tmp_path, row)
    assert found.prompt == (user("Hi"),)
    assert found.responses == ((bot("Well,"), bot("yes")), (bot("Well,"), bot("no")))


def test_the_shared_beginning_is_found_by_message_not_by_character(tmp_path: Path) -> None:
    (found,), _ = read(tmp_path, {"chosen": [user("Hi"), bot("Yes, so")], "rejected": [user("Hi"), bot("Yes, no")]})
    assert found.responses == ((bot("Yes, so"),), (bot("Yes, no"),))


def test_own_ids_are_kept_and_made_unique(tmp_path: Path) -> None:
    rows = [{"id": "x", "prompt": f"{n}?", "chosen": "4", "rejected": "5"} for n in range(3)]
    found, _ = read(tmp_path, *rows, {"prompt": "3?", "chosen": "4", "rejected": "5"})
    assert found[0].id == "x"
    assert len({row.id for row in found}) == 4
    assert found[3].id == "rows:4"


def test_columns_reach_into_objects(tmp_path: Path) -> None:
    row = {"q": {"text": "2+2?"}, "answers": [{"t": "4"}, {"t": "5"}]}
    columns = {"prompt": "q.text", "chosen": "answers.0.t", "rejected": "answers.1.t"}
    (found,), _ = read(tmp_path, row, columns=columns)
    assert (found.prompt, found.responses) == (QUESTION, (FOUR, FIVE))


def test_where_leaves_rows_out_and_counts_them(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "chosen": "4", "rejected": "5", "score": n} for n in range(5)]
    found, _ = read(tmp_path, *rows, where="score >= 3")
    assert [row.where[-1] for row in found] == ["4", "5"]
