"""Published row shapes: who wins, what the prompt is, which margins and turns come out, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmx.data import PreferenceData, Splits
from rmx.data.accounting import SourceAccount
from rmx.data.audit import audit
from rmx.errors import DataError
from rmx.records import Comparison, Pair


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def load(tmp_path: Path, rows: list[dict[str, Any]], **keys: Any) -> Splits:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = PreferenceData(path=str(path), **{"validation_fraction": 0, **keys}).read()
    assert splits.accounting.adds_up()
    return splits


def read(tmp_path: Path, *rows: dict[str, Any], **keys: Any) -> tuple[list[Comparison], SourceAccount]:
    splits = load(tmp_path, list(rows), **keys)
    return list(splits.train), splits.accounting.sources["rows"]


def texts(row: Comparison) -> tuple[list[str], list[list[str]]]:
    """The turns of prompt and responses."""
    return [m["content"] for m in row.prompt], [[m["content"] for m in response] for response in row.responses]


LABELLED = [
    {"type": "pairwise", "from_name": "pw", "to_name": "answer1,answer2", "value": {"selected": side}}
    for side in ("left", "right")
]
STUDIO = {
    "id": 7,
    "data": {"prompt": "2+2?", "answer1": "4", "answer2": "5"},
    "annotations": [{"id": 1, "was_cancelled": False, "result": [LABELLED[0]]}],
    "predictions": [],
    "project": 3,
}
RATING = {"Rating": "3", "Rationale": "Right."}
ASPECTS = {"helpfulness": {**RATING, "Rating": "2"}, "honesty": {**RATING, "Rating": "N/A"}, "truthfulness": RATING}
BAD_ASPECTS = {"helpfulness": {**RATING, "Rating": "1"}}

# name → (row, format, prompt, responses from best to worst). Always one pair, in which "4" beats "5".
SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "RewardBench": (
        {"prompt": "2+2?", "chosen": "4", "chosen_model": "a", "rejected": "5", "rejected_model": "b", "subset": "math",
         "id": 3},
        "preference",
    ),
    "RewardBench 2": (
        {"id": "7", "prompt": "2+2?", "chosen": ["4"], "rejected": ["5"], "num_correct": 1, "num_incorrect": 1,
         "total_completions": 2, "models": ["a", "b"], "subset": "Math", "additional_metadata": {"category": None}},
        "choices",
    ),
    "ms-swift, rejected_response": (
        {"messages": [user("2+2?"), bot("4")], "rejected_response": "5"}, "last_turn",
    ),
    "ms-swift, rejected_messages": (
        {"messages": [user("2+2?"), bot("4")], "rejected_messages": [user("2+2?"), bot("5")]}, "last_turn",
    ),
    "ms-swift, query and response": ({"query": "2+2?", "response": "4", "rejected_response": "5"}, "last_turn"),
    "Stack Exchange": (
        {"qid": 1, "question": "2+2?", "date": "2020/01/01", "metadata": ["https://example.org/q"],
         "answers": [{"answer_id": 1, "author": "a", "pm_score": 0, "selected": False, "text": "5"},
                     {"answer_id": 2, "author": "b", "pm_score": 4, "selected": True, "text": "4"}]},
        "ranked",
    ),
    "answers with flags": (
        {"question": "2+2?", "answers": [{"text": "5", "selected": False}, {"text": "4", "selected": True}]}, "ranked",
    ),
    "argilla, chosen_response": (
        {"prompt": "2+2?", "chosen_response": "4", "rejected_response": "5"}, "preference",
    ),
    "argilla, ratings": (
        {"prompt": "2+2?", "response-1": "5", "response-2": "4",
         "rating-1": [{"user_id": "u", "value": 2, "status": "submitted"}],
         "rating-2": [{"user_id": "u", "value": 5, "status": "submitted"}]},
        "scored",
    ),
    "distilabel": (
        {"input": "2+2?", "generations": ["5", "4", "none"], "ratings": ["2", "3", None], "rationales": ["r", "s", ""]},
        "ranked",
    ),
    "UltraFeedback": (
        {"source": "s", "instruction": "2+2?", "models": ["a", "b"], "correct_answers": ["None"],
         "completions": [{"model": "a", "response": "4", "annotations": ASPECTS, "overall_score": 8.0, "critique": "c"},
                         {"model": "b", "response": "5", "annotations": BAD_ASPECTS, "overall_score": 2.0}]},
        "ranked",
    ),
    "UltraFeedback, aspects only": (
        {"instruction": "2+2?", "completions": [{"response": "5", "annotations": BAD_ASPECTS},
                                                {"response": "4", "annotations": ASPECTS}]},
        "ranked",
    ),
    "ratings beside responses": (
        {"instruction": "2+2?", "responses": [{"model": "a", "response": "5"}, {"model": "b", "response": "4"}],
         "annotations": [{"model": "a", "rating": "1"}, {"model": "b", "rating": "3"}]},
        "ranked",
    ),
    "struct of lists": ({"prompt": "2+2?", "answers": {"text": ["5", "4"], "score": [1, 9]}}, "ranked"),
    "summaries": (
        {"info": {"id": "x", "post": "2+2?", "title": None, "subreddit": None, "article": None},
         "summaries": [{"text": "5", "policy": "a", "note": None}, {"text": "4", "policy": "b", "note": None}],
         "choice": 1, "worker": "w", "batch": "b", "split": "train", "extra": {"confidence": 3}},
        "ranked",
    ),
    "Nectar": (
        {"prompt": "\n\nHuman: 2+2?\n\nAssistant: ", "turns": 1, "num_responses": 2, "source": ["s"],
         "answers": [{"answer": "4", "model": "a", "rank": 1.0}, {"answer": "5", "model": "b", "rank": 2.0}]},
        "ranked",
    ),
    "PKU-SafeRLHF": (
        {"prompt": "2+2?", "response_0": "4", "response_1": "5", "is_response_0_safe": True,
         "is_response_1_safe": True, "better_response_id": 0, "safer_response_id": 1},
        "votes",
    ),
    "WebGPT": (
        {"question": {"dataset": "d", "id": "x", "full_text": "2+2?"}, "answer_0": "4", "score_0": 1.0,
         "answer_1": "5", "score_1": -1.0},
        "scored",
    ),
    "SHP": (
        {"post_id": "x", "history": "2+2?", "human_ref_A": "4", "human_ref_B": "5", "labels": 1, "score_A": 9,
         "score_B": 2, "score_ratio": 4.5},
        "votes",
    ),
    "HelpSteer2": (
        {"prompt": "2+2?", "response_1": "5", "response_2": "4", "preference_strength": 2,
         "preference_statement": "@Response 2 is right.", "split": "train"},
        "strength",
    ),
    "HelpSteer3": (
        {"context": [user("2+2?")], "response1": "4", "response2": "5", "overall_preference": -1,
         "individual_preference": [{"score": -1, "reasoning": "right"}], "domain": "general", "language": "english"},
        "strength",
    ),
    "a judge's label": ({"question": "2+2?", "response_A": "5", "response_B": "4", "label": "B>A"}, "votes"),
    "Label Studio": (STUDIO, "label_studio"),
    "OpenAssistant tree": (
        {"message_tree_id": "t", "tree_state": "ready_for_export",
         "prompt": {"message_id": "t", "text": "2+2?", "role": "prompter", "replies": [
             {"message_id": "b", "text": "5", "role": "assistant", "rank": 1, "replies": []},
             {"message_id": "c", "text": "4", "role": "assistant", "rank": 0, "replies": []}]}},
        "tree",
    ),
}  # fmt: skip
SUMMARY_PROMPT = "POST: 2+2?\n\nTL;DR:"


@pytest.mark.parametrize("name", SHAPES)
def test_published_shape(tmp_path: Path, name: str) -> None:
    row, wanted = SHAPES[name]
    (found,), account = read(tmp_path, row)
    assert account.format == wanted
    prompt, responses = texts(found)
    assert prompt == ([SUMMARY_PROMPT] if name == "summaries" else ["2+2?"])
    (pair,) = found.pairs
    assert (responses[pair.winner], responses[pair.loser]) == (["4"], ["5"])
    assert (pair.margin, pair.target, pair.tie) == (0.0, 1.0, False)
    (again,), _ = read(tmp_path, row, format=wanted)
    assert again == found


def test_lists_of_chosen_and_rejected_make_all_pairs_between_them(tmp_path: Path) -> None:
    """2 chosen and 3 rejected: 6 pairs, none among the chosen; a sixth of the weight each when the prompt weighs 1."""
    row = {"prompt": "2+2?", "chosen": ["4", "four"], "rejected": ["5", "22", "3"]}
    (found,), _ = read(tmp_path, row, pair_weighting="per_prompt")
    assert [(pair.winner, pair.loser) for pair in found.pairs] == [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)]
    assert {pair.weight for pair in found.pairs} == {1 / 6}
    with pytest.raises(DataError, match=r"data\.ties=keep: does nothing"):
        read(tmp_path, row, ties="keep")
    with pytest.raises(DataError, match="one response is said to be good and not to be good"):
        read(tmp_path, {**row, "rejected": ["4", "5"]})


def test_conversations_of_two_models_are_compared_from_where_they_part(tmp_path: Path) -> None:
    """The user's later turns belong to the side in which they were said; a system or first turn must be shared."""
    row = {
        "conversation_a": [user("Hi"), bot("Hello"), user("2+2?"), bot("4")],
        "conversation_b": [user("Hi"), bot("Yes?"), user("What is 2+2?"), bot("5")],
        "winner": "model_b",
    }
    (found,), _ = read(tmp_path, row)
    assert texts(found) == (["Hi"], [["Hello", "2+2?", "4"], ["Yes?", "What is 2+2?", "5"]])
    assert [message["role"] for message in found.responses[0]] == ["assistant", "user", "assistant"]
    assert found.pairs == (Pair(1, 0),)
    late = {**row, "conversation_b": [user("Hi"), bot("Hello"), user("2+2?"), bot("5")]}
    (found,), _ = read(tmp_path, late)
    assert texts(found) == (["Hi", "Hello", "2+2?"], [["4"], ["5"]])
    with pytest.raises(DataError, match="prompts differ"):
        read(tmp_path, {**row, "conversation_b": [user("Bye"), bot("5")]})


def test_the_last_turn_of_an_agent_is_replaced_with_what_led_to_it(tmp_path: Path) -> None:
    """Two assistant turns in a row: the shared one goes to both responses: no prompt ends with the assistant."""
    row = {"messages": [user("2+2?"), bot("Let me see."), bot("4")], "rejected_response": "5", "margin": 0.5}
    (found,), _ = read(tmp_path, row)
    assert texts(found) == (["2+2?"], [["Let me see.", "4"], ["Let me see.", "5"]])
    assert found.pairs == (Pair(0, 1, margin=0.5),)
    with pytest.raises(DataError, match="does not end with the assistant"):
        read(tmp_path, {"messages": [user("2+2?")], "rejected_response": "5"})


def test_summaries_show_forum_title_and_post(tmp_path: Path) -> None:
    info = {"post": "Long story.", "title": "Help", "subreddit": "advice"}
    row = {"info": info, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0}
    (found,), _ = read(tmp_path, row)
    assert texts(found)[0] == ["SUBREDDIT: r/advice\n\nTITLE: Help\n\nPOST: Long story.\n\nTL;DR:"]
    with pytest.raises(DataError, match="choice names none of 2 responses"):
        read(tmp_path, {**row, "choice": 2})


def test_two_labels_have_a_documented_default(tmp_path: Path) -> None:
    row, _ = SHAPES["PKU-SafeRLHF"]
    assert read(tmp_path, row)[0][0].pairs == (Pair(0, 1),)
    assert read(tmp_path, row, columns={"winner": "safer_response_id"})[0][0].pairs == (Pair(1, 0),)


def test_annotators_of_label_studio_vote(tmp_path: Path) -> None:
    """Left, left, right: 2/3 for the left. A cancelled annotation is no vote; one against one is a tie."""
    left, right = ({"was_cancelled": False, "result": [result]} for result in LABELLED)
    cancelled = {**right, "was_cancelled": True}
    (found,), _ = read(tmp_path, {**STUDIO, "annotations": [left, right, left, cancelled]})
    assert found.pairs == (Pair(0, 1, target=pytest.approx(2 / 3)),)
    assert found.id == "7"
    rows = [STUDIO, {**STUDIO, "annotations": [left, right]}, {**STUDIO, "annotations": []}]
    _, account = read(tmp_path, *rows)
    assert (account.kept, dict(account.filtered)) == (1, {"no preference": 2})
    kept, _ = read(tmp_path, *rows, ties="keep")
    assert [pair.tie for row in kept for pair in row.pairs] == [False, True]


def tree_row() -> dict[str, Any]:
    deep = [
        {"message_id": "e", "text": "bad", "role": "assistant", "rank": 1},
        {"message_id": "f", "text": "good", "role": "assistant", "rank": 0},
        {"message_id": "g", "text": "unranked", "role": "assistant", "rank": None},
    ]
    asked = {"message_id": "d", "text": "Why?", "role": "prompter", "replies": deep}
    first = {"message_id": "b", "text": "4", "role": "assistant", "rank": 0, "replies": [asked]}
    second = {"message_id": "c", "text": "5", "role": "assistant", "rank": 1, "replies": []}
    return {"message_tree_id": "a", "prompt": {"message_id": "a", "text": "2+2?", "role": "prompter",
                                               "replies": [first, second]}}  # fmt: skip


def flat_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    waiting: list[tuple[Any, Any]] = [(None, tree_row()["prompt"])]
    while waiting:
        parent, node = waiting.pop(0)
        waiting += [(node["message_id"], reply) for reply in node.get("replies") or []]
        own = {key: node.get(key) for key in ("message_id", "text", "role", "rank")}
        rows.append({**own, "parent_id": parent, "message_tree_id": "a", "deleted": False, "lang": "en"})
    return rows


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_tree_is_a_comparison_for_every_message_with_ranked_replies(
    tmp_path: Path, flat: bool, streaming: bool
) -> None:
    rows = flat_rows()[::-1] if flat else [tree_row()]  # replies may stand before what they reply to
    found, account = read(tmp_path, *rows, streaming=streaming)
    by_prompt = {texts(row)[0][-1]: row for row in found}
    assert texts(by_prompt["2+2?"]) == (["2+2?"], [["4"], ["5"]])
    assert texts(by_prompt["Why?"]) == (["2+2?", "4", "Why?"], [["good"], ["bad"]])
    assert len(found) == len({row.where for row in found}) == len({row.id for row in found}) == 2
    # Flat: 7 messages, of which 6 are in the 2 comparisons, and 1 is unranked. Nested: 1 row makes 2 comparisons.
    counts = (account.read, account.merged, account.split, sum(account.filtered.values()))
    assert counts == ((7, 4, 0, 1) if flat else (1, 0, 1, 0))


def test_a_missing_message_breaks_the_path(tmp_path: Path) -> None:
    """Without message d, e and f answer nothing that is known; they are counted."""
    found, account = read(tmp_path, *[row for row in flat_rows() if row["message_id"] != "d"])
    assert [texts(row)[0] for row in found] == [["2+2?"]]
    assert (account.merged, dict(account.filtered)) == (2, {"no preference": 3})


@pytest.mark.parametrize(("good", "bad"), [(True, False), (1, 0), ("desirable", "undesirable"), ("True", "false")])
def test_single_labels_are_compared_within_a_prompt(tmp_path: Path, good: Any, bad: Any) -> None:
    """Prompt p: A and B are good, C is not: A > C and B > C. Prompt q has one label only: left out and counted."""
    rows = [
        {"prompt": "p", "completion": "A", "label": good},
        {"prompt": "q", "completion": "Z", "label": good},
        {"prompt": "p", "completion": "C", "label": bad},
        {"prompt": "p", "completion": "B", "label": good, "weight": 0.5},
    ]
    (found,), account = read(tmp_path, *rows)
    assert texts(found) == (["p"], [["A"], ["B"], ["C"]])
    assert found.pairs == (Pair(0, 2), Pair(1, 2, weight=0.5))
    assert (account.merged, dict(account.filtered)) == (2, {"no preference": 1})
    with pytest.raises(DataError, match=r"data\.margin_from_scores=1\.0: does nothing"):
        read(tmp_path, *rows, margin_from_scores=1.0)


def test_single_labels_of_conversations(tmp_path: Path) -> None:
    rows = [{"messages": [user("p"), bot(text)], "label": label} for text, label in (("A", False), ("B", True))]
    (found,), _ = read(tmp_path, *rows)
    assert texts(found) == (["p"], [["B"], ["A"]])


def test_one_null_rating_leaves_that_answer_out(tmp_path: Path) -> None:
    row = {"prompt": "?", "responses": ["A", "B", "C"], "scores": [1, None, 3]}
    (found,), account = read(tmp_path, row)
    assert texts(found)[1] == [["C"], ["A"]]
    assert dict(account.remarks) == {"response without a score": 1}
    with pytest.raises(DataError, match="1 of 3 have a rank or score"):
        read(tmp_path, {**row, "scores": [1, None, None]})


CHOSEN = {"prompt": "?", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    "names",
    [
        *[("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen-rating", "rejected-rating")],
        *[("rating_chosen", "rating_rejected"), ("chosen_avg_rating", "rejected_avg_rating")],
    ],
)
def test_scores_under_other_names_make_margins(tmp_path: Path, names: tuple[str, str]) -> None:
    """9 - 4 = 5 points at 0.5 reward units each: 2.5."""
    (found,), _ = read(tmp_path, {**CHOSEN, names[0]: 9, names[1]: 4}, margin_from_scores=0.5)
    assert found.pairs == (Pair(0, 1, margin=2.5),)


@pytest.mark.parametrize("order", [["chosen", "rejected"], None])
def test_scores_in_a_list_beside_the_generations(tmp_path: Path, order: list[str] | None) -> None:
    beside = {"generations": ["a", "b"], "rating": [8.0, 3.0], **({"order": order} if order else {})}
    (found,), _ = read(tmp_path, {**CHOSEN, **beside, "chosen_score": 8.0}, margin_from_scores=1.0)
    assert found.pairs == (Pair(0, 1, margin=5.0),)


def test_min_gap_drops_and_counts_pairs_of_chosen_and_rejected(tmp_path: Path) -> None:
    """Gaps 5, 0.1, -1.9 and 0: only the first reaches 1."""
    rows = [{**CHOSEN, "score_chosen": a, "score_rejected": b} for a, b in ((9, 4), (5, 4.9), (3, 4.9), (3, 3))]
    found, account = read(tmp_path, *rows, min_gap=1.0)
    assert [row.where[-1] for row in found] == ["1"]
    assert dict(account.filtered) == {"no preference": 3}


def test_a_label_against_its_own_scores_is_counted_and_makes_no_negative_margin(tmp_path: Path) -> None:
    rows = [{**CHOSEN, "score_chosen": a, "score_rejected": b} for a, b in ((9, 4), (3, 5), (3, 3))]
    splits = load(tmp_path, rows, margin_from_scores=1.0)
    assert [row.pairs[0].margin for row in splits.train] == [5.0, 0.0, 0.0]
    account = splits.accounting.sources["rows"]
    assert dict(account.remarks) == {"label against scores": 1, "label between equal scores": 1}
    assert any("1 row with label against scores" in note for note in splits.accounting.notes)
    findings = [(found.level, found.text) for found in audit(splits).findings]
    assert any(level == "warning" and "label against scores" in text for level, text in findings)
    shp = {"history": "?", "human_ref_A": "a", "human_ref_B": "b", "labels": 1, "score_A": 2, "score_B": 9}
    (found,), account = read(tmp_path, shp, margin_from_scores=1.0)
    assert (found.pairs, dict(account.remarks)) == ((Pair(0, 1),), {"label against scores": 1})


@pytest.mark.parametrize("half", [{"target": 0.5}, {"votes_chosen": 2, "votes_rejected": 2}, {"tie": True}])
def test_one_half_is_a_tie_everywhere(tmp_path: Path, half: dict[str, Any]) -> None:
    rows = [{**CHOSEN, **half, "margin": 0.5}, {**CHOSEN, "prompt": "??", "target": 0.8}]
    found, account = read(tmp_path, *rows)
    assert [row.where[-1] for row in found] == ["2"]
    assert dict(account.filtered) == {"no preference": 1}
    found, _ = read(tmp_path, *rows, ties="keep")
    assert found[0].pairs == (Pair(0, 1, 0.0, 0.5, 1.0, True),)


@pytest.mark.parametrize(
    ("option", "value"),
    [("margin_from_scores", 0.5), ("min_gap", 1.0), ("ties", "keep"), ("pair_weighting", "per_prompt")],
)
def test_an_option_without_anything_to_work_on_is_a_mistake(tmp_path: Path, option: str, value: Any) -> None:
    with pytest.raises(DataError, match=f"data.{option}={value}: does nothing for rows"):
        read(tmp_path, CHOSEN, **{option: value})


def test_an_evaluation_set_may_inherit_an_option_that_it_has_no_use_for(tmp_path: Path) -> None:
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps({**CHOSEN, "prompt": "other"}) + "\n")
    row = {**CHOSEN, "score_chosen": 9, "score_rejected": 4}
    splits = load(tmp_path, [row], min_gap=1.0, eval_sets={"plain": str(plain)})
    assert len(splits.evals["plain"]) == 1
    with pytest.raises(DataError, match=r"data\.eval_sets\.plain\.min_gap=2.0: does nothing for plain"):
        load(tmp_path, [row], min_gap=1.0, eval_sets={"plain": {"path": str(plain), "min_gap": 2.0}})


def test_tags_that_no_message_has_are_a_mistake(tmp_path: Path) -> None:
    row = {"prompt": [user("Hi")], "chosen": [bot("a")], "rejected": [bot("b")]}
    with pytest.raises(DataError, match=r"data\.tags=\{role_tag: speaker\}: does nothing for rows"):
        read(tmp_path, row, tags={"role_tag": "speaker"})
    said = {"prompt": [{"speaker": "user", "text": "Hi"}], "chosen": "a", "rejected": "b"}
    (found,), _ = read(tmp_path, said, tags={"role_tag": "speaker", "content_tag": "text"})
    assert texts(found)[0] == ["Hi"]


def test_quotes_that_annotators_saw_beside_an_answer_are_asked_about(tmp_path: Path) -> None:
    quotes = {"title": ["Sums"], "extract": ["Two and two make four, as every child has learned at school."]}
    row = {**SHAPES["WebGPT"][0], "quotes_0": quotes, "quotes_1": quotes}
    with pytest.raises(DataError, match="quotes_0"):
        read(tmp_path, row)
    assert len(read(tmp_path, row, ignore=["quotes_0", "quotes_1"])[0]) == 1


def test_what_streaming_cannot_keep_on_disk_is_said(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": text, "score": score} for score, text in enumerate("AB")]
    notes = load(tmp_path, rows, streaming=True).accounting.notes
    assert any("held in memory" in note for note in notes)
    assert not any("held in memory" in note for note in load(tmp_path, [CHOSEN], streaming=True).accounting.notes)


def test_every_source_of_a_mixture_answers_for_its_own_options(tmp_path: Path) -> None:
    from rmx.data import Mixture

    (tmp_path / "a.jsonl").write_text(json.dumps({**CHOSEN, "score_chosen": 9, "score_rejected": 4}) + "\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({**CHOSEN, "prompt": "??"}) + "\n")
    sources = {name: {"path": str(tmp_path / f"{name}.jsonl"), "min_gap": 1.0} for name in ("a", "b")}
    with pytest.raises(DataError, match=r"data\.sources\.b\.min_gap=1.0: does nothing for b"):
        Mixture(sources=sources, validation_fraction=0).read()


# --- Every text of a row is read, or is in a column that is said to be something else ---


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _strings(item)]


def _with_texts(value: Any, fresh: Any) -> Any:
    """The row with new texts where it has "2+2?", "4" and "5", the same for the same."""
    if isinstance(value, str):
        return fresh.get(value.strip(), value)
    if isinstance(value, list):
        return [_with_texts(item, fresh) for item in value]
    return {key: _with_texts(item, fresh) for key, item in value.items()} if isinstance(value, dict) else value


WORDS = st.text("abcdefghij äß字\n'\"", min_size=3, max_size=40).map(str.strip).filter(lambda text: len(text) > 2)


@pytest.mark.parametrize("name", sorted(set(SHAPES) - {"summaries", "Nectar"}))
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(words=st.lists(WORDS, min_size=3, max_size=3, unique=True))
def test_every_text_of_a_row_is_used(tmp_path: Path, name: str, words: list[str]) -> None:
    fresh = dict(zip(("2+2?", "4", "5"), words, strict=True))
    row = _with_texts(SHAPES[name][0], fresh)
    (found,), account = read(tmp_path, row, format=SHAPES[name][1])
    said = [message["content"] for message in (*found.prompt, *(m for r in found.responses for m in r))]
    assert set(words) <= set(said)
    for column, value in row.items():
        if set(_strings(value)) & set(words):
            assert account.columns[column]["use"] not in {"unused", "fact"}, column
