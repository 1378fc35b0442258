"""Columns of published shapes: what each becomes, what is asked about, and that no text of a row is lost in silence."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmx.data import Mixture, PreferenceData, Splits
from rmx.data.rows.columns import FACTS, MEDIA, PARTS, markdown
from rmx.errors import DataError
from rmx.records import Comparison, Pair


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def bot(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(tmp_path: Path, *rows: dict[str, Any], **keys: Any) -> Splits:
    splits = PreferenceData(path=write(tmp_path / "rows.jsonl", *rows), validation_fraction=0, **keys).read()
    assert splits.accounting.adds_up()
    return splits


def uses(splits: Splits, source: str = "rows") -> dict[str, str]:
    return {name: column["use"] for name, column in splits.accounting.sources[source].columns.items()}


PAIR = {"chosen": "4", "rejected": "5"}
HELLO = "Say hello to the people in French."
# (row, turns of the prompt as role: text, first texts of the responses from best to worst, columns that are no part)
SHAPES: dict[str, tuple[dict[str, Any], list[str], list[str], dict[str, str]]] = {
    "distilabel: system and input, with the judge's texts": (
        {
            **{
                "system": "Be brief.",
                "input": "2+2?",
                **PAIR,
                "generations": ["4", "5"],
                "order": ["chosen", "rejected"],
            },
            **{"labelling_prompt": [system("You are a judge of answers.")], "rationale": "The first one is correct."},
            **{"raw_labelling_response": "8 3 because", "chosen_score": 8.0, "rejected_score": 3.0},
        },
        ["system: Be brief.", "user: 2+2?"],
        ["4", "5"],
        {
            **{"generations": "repeats other columns", "order": "fact", "labelling_prompt": "fact"},
            **{"rationale": "fact", "raw_labelling_response": "fact"},
        },
    ),
    "axolotl: system, input": (
        {"system": "Be brief.", "input": "2+2?", **PAIR},
        ["system: Be brief.", "user: 2+2?"],
        ["4", "5"],
        {},
    ),
    "Intel orca pairs: system, question": (
        {"system": "", "question": "2+2?", **PAIR},
        ["user: 2+2?"],
        ["4", "5"],
        {},
    ),
    "system_prompt": (
        {"system_prompt": "Be brief.", "prompt": "2+2?", **PAIR},
        ["system: Be brief.", "user: 2+2?"],
        ["4", "5"],
        {},
    ),
    "AlpacaFarm: instruction, input, two outputs": (
        {"instruction": "Add.", "input": "2+2", "output_1": "5", "output_2": "4", "preference": 2, "raw_preference": 2},
        ["user: Add.\n2+2"],
        ["4", "5"],
        {"raw_preference": "fact"},
    ),
    "prompt and input": ({"prompt": "Add.", "input": "2+2", **PAIR}, ["user: Add.\n2+2"], ["4", "5"], {}),
    "UltraInteract: trajectory": (
        {
            "task": "Math",
            "trajectory": [{"from": "user", "value": "2+2?"}, {"from": "assistant", "value": "?"}, user("Go on.")],
            **PAIR,
            "id": "7",
        },
        ["user: 2+2?", "assistant: ?", "user: Go on."],
        ["4", "5"],
        {"task": "fact"},
    ),
    "conversation beside texts": ({"conversation": [user("2+2?")], **PAIR}, ["user: 2+2?"], ["4", "5"], {}),
    "history of pairs and a question": (
        {"history": [["Hi", "Hello"]], "question": "2+2?", **PAIR},
        ["user: Hi", "assistant: Hello", "user: 2+2?"],
        ["4", "5"],
        {},
    ),
    "chat_history of messages and a prompt": (
        {"chat_history": [user("Hi"), bot("Hello")], "prompt": "2+2?", **PAIR},
        ["user: Hi", "assistant: Hello", "user: 2+2?"],
        ["4", "5"],
        {},
    ),
    "HelpSteer3: context of messages": (
        {
            **{
                "context": [user("2+2?")],
                "response1": "4",
                "response2": "5",
                "overall_preference": -1,
                "domain": "general",
            },
            "individual_preference": [{"score": -1, "reasoning": "The first response is the correct one."}],
        },
        ["user: 2+2?"],
        ["4", "5"],
        {"domain": "fact", "individual_preference": "fact"},
    ),
    "SHP: history is a text": (
        {
            "post_id": "x1",
            "history": "2+2?",
            "human_ref_A": "4",
            "human_ref_B": "5",
            "labels": 1,
            "seconds_difference": 9,
        },
        ["user: 2+2?"],
        ["4", "5"],
        {"post_id": "fact", "seconds_difference": "fact"},
    ),
    "UltraFeedback, binarized": (
        {
            **{"prompt": HELLO, "prompt_id": "ab12", "messages": [user(HELLO), bot("Salut")]},
            **{"chosen": [user(HELLO), bot("Salut")], "rejected": [user(HELLO), bot("Hello")]},
            **{"score_chosen": 8.0, "score_rejected": 2.0},
        },
        [f"user: {HELLO}"],
        ["Salut", "Hello"],
        {"prompt_id": "fact"},
    ),
    "Skywork": (
        {"chosen": [user("2+2?"), bot("4")], "rejected": [user("2+2?"), bot("5")], "source": "magpie"},
        ["user: 2+2?"],
        ["4", "5"],
        {"source": "fact"},
    ),
    "Nectar": (
        {
            **{"prompt": "\n\nHuman: 2+2?\n\nAssistant: ", "turns": 1, "num_responses": 2, "source": ["lmsys"]},
            **{"answers": [{"answer": "5", "model": "a", "rank": 2.0}, {"answer": "4", "model": "b", "rank": 1.0}]},
        },
        ["user: 2+2?"],
        ["4", "5"],
        {"turns": "fact", "num_responses": "fact", "source": "fact"},
    ),
    "argilla: chosen-rating, chosen-model": (
        {"source": "evol", "prompt": "2+2?", **PAIR, "chosen-rating": 5, "rejected-rating": 1, "chosen-model": "m"},
        ["user: 2+2?"],
        ["4", "5"],
        {"source": "fact", "chosen-model": "fact"},
    ),
    "PKU-SafeRLHF": (
        {"prompt": "2+2?", "response_0": "5", "response_1": "4", "better_response_id": 1, "safer_response_id": 0},
        ["user: 2+2?"],
        ["4", "5"],
        {"safer_response_id": "fact"},
    ),
    "a prompt that the dialogues repeat": (
        {
            "prompt": "\n\nHuman: 2+2?\n\nAssistant:",
            "chosen": "\n\nHuman: 2+2?\n\nAssistant: 4",
            "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5",
        },
        ["user: 2+2?"],
        ["4", "5"],
        {},
    ),
    "messages with times": (
        {
            "chosen": [user("2+2?", timestamp=1), bot("4", timestamp=2)],
            "rejected": [user("2+2?", timestamp=5), bot("5", timestamp=6)],
        },
        ["user: 2+2?"],
        ["4", "5"],
        {},
    ),
    "an empty system turn": (
        {"chosen": [system(""), user("2+2?"), bot("4")], "rejected": [system(""), user("2+2?"), bot("5")]},
        ["user: 2+2?"],
        ["4", "5"],
        {},
    ),
    "messages as JSON text": (
        {"prompt": json.dumps([user("2+2?")]), "chosen": json.dumps([bot("4")]), "rejected": json.dumps([bot("5")])},
        ["user: 2+2?"],
        ["4", "5"],
        {},
    ),
    "whole conversations as JSON text": (
        {"chosen": json.dumps([user("2+2?"), bot("4")]), "rejected": json.dumps([user("2+2?"), bot("5")])},
        ["user: 2+2?"],
        ["4", "5"],
        {},
    ),
    "each message as JSON text": (
        {"prompt": [json.dumps(user("2+2?"))], "chosen": [json.dumps(bot("4"))], "rejected": [json.dumps(bot("5"))]},
        ["user: 2+2?"],
        ["4", "5"],
        {},
    ),
    "a list of responses as JSON text": (
        {"prompt": "2+2?", "responses": json.dumps(["5", "4"]), "scores": [1, 9]},
        ["user: 2+2?"],
        ["4", "5"],
        {},
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_published_shape(tmp_path: Path, name: str) -> None:
    row, prompt, responses, others = SHAPES[name]
    splits = read(tmp_path, row)
    (found,) = splits.train
    assert [f"{message['role']}: {message['content']}" for message in found.prompt] == prompt
    pair = found.pairs[0]
    assert [found.responses[k][0]["content"] for k in (pair.winner, pair.loser)] == responses
    found_uses = uses(splits)
    assert {name: found_uses[name] for name in others} == others
    assert set(found_uses) == set(row)


# (row, what the message must name)
ASKS: dict[str, tuple[dict[str, Any], str]] = {
    "question and context": (
        {"question": "Who?", "context": "Ann wrote it.", **PAIR},
        r"column context .*\n.*'Ann wrote it\.'(?s:.*)data\.columns={input: context}(?s:.*)data\.ignore=\[context\]",
    ),
    "instruction and prompt": ({"instruction": "Rate it", "prompt": "2+2?", **PAIR}, r"column instruction .*'?"),
    "a passage under a name of its own": ({"prompt": "Who?", "passage": "It was Ann.", **PAIR}, "column passage"),
    "images": ({"prompt": "<image>What?", "images": ["a.jpg"], **PAIR}, r"column images (?s:.*)not supported"),
    "an image of datasets": ({"prompt": "What?", "picture": {"bytes": "x", "path": None}, **PAIR}, "column picture"),
    "messages that differ from the pair": (
        {"messages": [user("Hi")], "chosen": [user("2+2?"), bot("4")], "rejected": [user("2+2?"), bot("5")]},
        "column messages",
    ),
    "a prompt that is not in the conversation": (
        {"prompt": "Be brief.", "chosen": [user("2+2?"), bot("4")], "rejected": [user("2+2?"), bot("5")]},
        "column prompt",
    ),
    "a third response": ({"prompt": "2+2?", **PAIR, "response": "It is 22."}, "column response "),
    "no prompt": (PAIR, r"no prompt(?s:.*)data\.allow_empty_prompt=true"),
    "only a system message": ({"system": "Be brief.", **PAIR}, "only a system message"),
    "unknown names": (
        {"question": "2+2?", "good_answer": "4", "bad_answer": "5"},
        r"data\.columns={prompt: question, chosen: good_answer, rejected: bad_answer}",
    ),
    "a byte order mark": ({"\ufeffprompt": "2+2?", **PAIR}, "wrong encoding"),
    "a name read as Windows-1252": ({"prompt": "2+2?", "rÃ©ponse": "4", **PAIR}, "wrong encoding"),
    "a list as Python prints it": (
        {"prompt": "2+2?", "turns_before": "[{'role': 'user', 'content': 'Hi there'}]", **PAIR},
        r"not JSON: write it with json\.dumps",
    ),
}


@pytest.mark.parametrize("name", ASKS)
def test_what_is_asked_about(tmp_path: Path, name: str) -> None:
    row, message = ASKS[name]
    with pytest.raises(DataError, match=message):
        read(tmp_path, row)


def test_values_in_messages_are_cut_short(tmp_path: Path) -> None:
    secret = "word " * 30
    with pytest.raises(DataError) as error:
        read(tmp_path, {"prompt": "2+2?", "passage": secret, **PAIR})
    assert secret[:30] in str(error.value)
    assert secret[:45] not in str(error.value)


def test_ignore_and_columns_answer_the_question(tmp_path: Path) -> None:
    row = {"question": "Who?", "context": "Ann wrote it.", **PAIR}
    splits = read(tmp_path, row, ignore=["context"])
    assert splits.train[0].prompt == (user("Who?"),)
    assert uses(splits)["context"] == "ignored"
    assert read(tmp_path, row, columns={"input": "context"}).train[0].prompt == (user("Who?\nAnn wrote it."),)
    both = read(tmp_path, row, columns={"prompt": "context", "input": "question"}).train[0]
    assert both.prompt == (user("Ann wrote it.\nWho?"),)
    with_system = read(tmp_path, row, columns={"system": "context"}).train[0]
    assert with_system.prompt == (system("Ann wrote it."), user("Who?"))


def test_a_mapping_over_a_column_of_the_file_asks_for_that_column(tmp_path: Path) -> None:
    row = {"prompt": "An id of 12 words", "question": "2+2?", **PAIR}
    with pytest.raises(DataError, match=r"column prompt "):
        read(tmp_path, row, columns={"prompt": "question"})
    splits = read(tmp_path, row, columns={"prompt": "question"}, ignore=["prompt"])
    assert splits.train[0].prompt == (user("2+2?"),)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": "user_promt"}, r"data\.columns={prompt: user_promt}.*did you mean user_prompt"),
        ({"promt": "user_prompt"}, r"promt is not a part of a comparison; did you mean prompt"),
        ({"margin": "strenght"}, r"did you mean strength"),
        ({"margin": "meta.gab"}, r"did you mean meta\.gap"),
        ({"margin": "meta.gap.x"}, r"not even the first row"),
    ],
)
def test_mistakes_in_a_mapping(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    row = {"user_prompt": "2+2?", **PAIR, "strength": 2.0, "meta": {"gap": 1.0}}
    with pytest.raises(DataError, match=message):
        read(tmp_path, row, columns=columns)


def test_a_mapped_place_that_only_some_rows_have_rejects_the_others(tmp_path: Path) -> None:
    rows = [{"meta": {"q": "2+2?"}, **PAIR}] * 3 + [{"meta": {}, **PAIR}]
    splits = read(tmp_path, *rows, columns={"prompt": "meta.q"}, on_bad_row="skip", max_bad_fraction=0.5)
    account = splits.accounting.sources["rows"]
    assert (account.kept, dict(account.rejected)) == (3, {"missing column": 1})


def test_ignore_of_a_column_that_no_row_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.ignore=\[contxt\].*did you mean context"):
        read(tmp_path, {"prompt": "?", "context": "x", **PAIR}, ignore=["contxt"], columns={"input": "context"})


def test_a_later_shape_is_read_whole(tmp_path: Path) -> None:
    """70 rows of one shape, then one with an input: its text joins the prompt."""
    rows = [{"prompt": f"{n}?", **PAIR} for n in range(70)]
    splits = read(tmp_path, *rows, {"prompt": "Add.", "input": "the numbers 2 and 2", **PAIR})
    assert splits.train[-1].prompt == (user("Add.\nthe numbers 2 and 2"),)
    assert splits.accounting.sources["rows"].columns["input"]["rows"] == 1
    assert splits.accounting.sources["rows"].columns["prompt"]["rows"] == 71


def test_a_later_column_with_text_is_asked_about(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", **PAIR} for n in range(70)]
    with pytest.raises(DataError, match=r"column passage (?s:.*)rows\.jsonl:71"):
        read(tmp_path, *rows, {"prompt": "Who?", "passage": "Ann wrote it.", **PAIR})


def test_rows_that_differ_from_their_companion_are_rejected(tmp_path: Path) -> None:
    """69 rows whose messages repeat the pair, and one whose messages say something else."""
    rows = [{"messages": [user(f"{n}?"), bot("4")], "chosen": [user(f"{n}?"), bot("4")]} for n in range(70)]
    rows = [{**row, "rejected": [row["chosen"][0], bot("5")]} for row in rows]
    rows[66]["messages"] = [user("Something else")]
    splits = read(tmp_path, *rows, on_bad_row="skip")
    account = splits.accounting.sources["rows"]
    assert (account.kept, dict(account.rejected)) == (69, {"text not read": 1})
    assert splits.accounting.rejects[0].line == 67


def test_shares_and_looks(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", **PAIR, "lang": "en" if n % 2 else None, "size": n} for n in range(10)]
    found = read(tmp_path, *rows).accounting.sources["rows"]
    assert found.columns["lang"] == {"use": "fact", "rows": 5, "share": 0.5, "looks": "text, about 2 characters"}
    assert found.columns["size"] == {"use": "unused", "rows": 10, "share": 1.0, "looks": "number"}
    assert "not read: size (number, in 100% of rows)" in found.columns_in_words()


def test_message_fields_are_counted_and_do_not_decide(tmp_path: Path) -> None:
    row = {"prompt": "2+2?", "chosen": [bot("4", id="1")], "rejected": [bot("5", id="2", score=None)]}
    splits = read(tmp_path, row)
    assert splits.train[0].responses[0] == (bot("4"),)
    assert dict(splits.accounting.sources["rows"].message_fields) == {"chosen.id": 1, "rejected.id": 1}
    same = {"prompt": "2+2?", "chosen": [bot("4", id="1")], "rejected": [bot("4", id="2")]}
    with pytest.raises(DataError, match="identical responses"):
        read(tmp_path, same)


def test_arena_55k_lists_are_one_conversation(tmp_path: Path) -> None:
    path = tmp_path / "arena.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["id", "model_a", "prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"]
        )
        rows.writerow([1, "m", '["2+2?", "Sure?"]', '["4", "Yes."]', '["5", "No."]', 1, 0, 0])
        rows.writerow([2, "m", '["Hi"]', "[null]", '["Hello"]', 0, 1, 0])
    splits = PreferenceData(path=str(path), validation_fraction=0, on_bad_row="skip", max_bad_fraction=0.5).read()
    (found,) = splits.train
    assert found.prompt == (user("2+2?"),)
    assert found.responses == ((bot("4"), user("Sure?"), bot("Yes.")), (bot("5"), user("Sure?"), bot("No.")))
    assert dict(splits.accounting.sources["arena"].rejected) == {"empty response": 1}
    assert any("read as lists: prompt, response_a, response_b" in note for note in splits.accounting.notes)


def test_a_cell_that_is_no_json_among_lists_is_rejected(tmp_path: Path) -> None:
    rows = [{"prompt": json.dumps([user(f"{n}?")]), **PAIR} for n in range(66)]
    splits = read(tmp_path, *rows, {"prompt": "[{broken", **PAIR}, on_bad_row="skip")
    assert dict(splits.accounting.sources["rows"].rejected) == {"wrong type": 1}


def test_texts_that_only_look_like_json_stay_texts(tmp_path: Path) -> None:
    """One of two prompts is no list; answers that are JSON lists stay text where the prompt is text."""
    found = read(tmp_path, {"prompt": "[1] says?", "chosen": '["a"]', "rejected": '["b"]'}, {"prompt": '["x"]', **PAIR})
    assert found.train[0].responses[0] == (bot('["a"]'),)
    assert found.train[1].prompt == (user('["x"]'),)


@pytest.mark.parametrize(
    "text",
    [
        "\r\n\r\nHuman: Hi\r\n\r\nAssistant: {}",
        "Human: Hi\n\nAssistant: {}",
        "Human: Hi\nAssistant: {}",
        "\n\nH: Hi\n\nA: {}",
        "User: Hi\n\nAssistant: {}",
        "### Human: Hi\n### Assistant: {}",
        "human: Hi\n\n\nassistant: {}",
    ],
)
def test_spellings_of_dialogues(tmp_path: Path, text: str) -> None:
    (found,) = read(tmp_path, {"chosen": text.format("Hello"), "rejected": text.format("Go away")}).train
    assert (found.prompt, found.responses) == ((user("Hi"),), ((bot("Hello"),), (bot("Go away"),)))


def test_a_speaker_inside_a_turn_is_text(tmp_path: Path) -> None:
    talk = "\r\n\r\nHuman: Translate:\nAssistant: hi\r\n\r\nAssistant: {}"
    (found,) = read(tmp_path, {"chosen": talk.format("a"), "rejected": talk.format("b")}).train
    assert found.prompt == (user("Translate:\nAssistant: hi"),)


def test_nulls_in_optional_columns_are_not_given(tmp_path: Path) -> None:
    optional = [
        "system",
        "margin",
        "weight",
        "target",
        "tie",
        "votes_chosen",
        "votes_rejected",
        "tools",
        "history",
        "input",
    ]
    row = {"prompt": "2+2?", **PAIR, **dict.fromkeys(optional)}
    (found,) = read(tmp_path, row).train
    assert (found.prompt, found.pairs, found.tools) == ((user("2+2?"),), (Pair(0, 1),), None)


def test_decimals_are_numbers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": "2+2?", **PAIR, "margin": Decimal("0.5")}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (found,) = PreferenceData(path=str(tmp_path / "rows.parquet"), validation_fraction=0).read().train
    assert found.pairs == (Pair(0, 1, margin=0.5),)


def test_streaming_where_eval_sets_and_mixtures_ask_too(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", *({"prompt": f"{n}?", "passage": "Ann wrote it.", **PAIR} for n in range(5)))
    good = write(tmp_path / "good.jsonl", *({"prompt": f"x{n}?", **PAIR} for n in range(5)))
    with pytest.raises(DataError, match="column passage"):
        PreferenceData(path=bad, streaming=True).read()
    with pytest.raises(DataError, match=r"data\.eval_sets\.test\.ignore=\[passage\]"):
        PreferenceData(path=good, validation_fraction=0, eval_sets={"test": bad}).read()
    with pytest.raises(DataError, match=r"data\.sources\.b\.ignore=\[passage\]"):
        Mixture(sources={"a": {"path": good}, "b": {"path": bad}}, validation_fraction=0).read()
    mixed = {"a": {"path": good}, "b": {"path": bad, "ignore": ["passage"]}}
    assert len(Mixture(sources=mixed, validation_fraction=0).read().train) == 10
    # What training ignores, an evaluation set need not have.
    splits = PreferenceData(path=bad, ignore=["passage"], validation_fraction=0, eval_sets={"test": good}).read()
    assert len(splits.evals["test"]) == 5
    with pytest.raises(DataError, match="column passage"):  # rows that are left out explain nothing
        PreferenceData(path=bad, where="prompt != '0?'").read()


def test_pointwise_rows_ask_too(tmp_path: Path) -> None:
    rows = [{"prompt": "2+2?", "response": str(n), "score": n, "passage": "Ann wrote it."} for n in range(3)]
    with pytest.raises(DataError, match="column passage"):
        read(tmp_path, *rows)
    assert len(read(tmp_path, *rows, ignore=["passage"]).train) == 1


def test_the_table_of_names_is_one_and_complete() -> None:
    """No fact or medium has the name of a text part; the documentation names every part."""
    texts = {"prompt", "input", "history", "system", "chosen", "rejected"}
    names = {name for part in PARTS if part.name in texts for name in part.names}
    assert not names & {name for kind in FACTS.values() for name in kind}
    assert not names & set(MEDIA)
    assert all(f"| `{part.name}` | `" in markdown() for part in PARTS)


def test_the_page_about_columns_is_what_the_code_says() -> None:
    """After a change of the table: `make columns` writes the page again."""
    page = Path(__file__).parents[2] / "docs" / "columns.md"
    assert page.read_text(encoding="utf-8") == f"{markdown()}\n"


# --- The invariant: every text of a row is read, or named as not read, or asked about, or its row is rejected ---

WORDS = st.sampled_from(["Who wrote it?", "Ann wrote it.", "a long text of many words", "no", "en", "x1"])
NAMES = st.sampled_from(
    [name for part in PARTS if part.name in {"prompt", "input", "history", "context", "system"} for name in part.names]
    + [
        "passage",
        "lang",
        "source",
        "prompt_id",
        "rationale",
        "images",
        "messages",
        "extra_text",
        "response",
        "responses",
    ]
)
VALUES = (
    st.none()
    | WORDS
    | st.integers(0, 9)
    | st.lists(WORDS, max_size=2)
    | st.lists(st.builds(user, WORDS), max_size=2)
    | st.builds(lambda text: json.dumps([user(text)]), WORDS)
    | st.dictionaries(st.sampled_from(["a", "text"]), WORDS, max_size=2)
)
ROW = st.dictionaries(NAMES, VALUES, max_size=4).map(
    lambda row: {**row, "chosen": "the better answer", "rejected": "the worse answer"}
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(ROW, min_size=1, max_size=4))
def test_no_text_is_lost_in_silence(rows: list[dict[str, Any]]) -> None:
    check_that_every_text_is_used_or_named(rows)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ROW, min_size=1, max_size=4))
def test_no_text_is_lost_in_three_thousand_files(rows: list[dict[str, Any]]) -> None:
    check_that_every_text_is_used_or_named(rows)


def check_that_every_text_is_used_or_named(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spec = PreferenceData(
            path=write(Path(folder) / "rows.jsonl", *rows),
            **{"validation_fraction": 0, "on_bad_row": "skip", "max_bad_fraction": 1.0, "allow_empty_prompt": True},
        )
        try:
            splits = spec.read()
        except DataError:
            return  # asked, or no row could be used
    columns = splits.accounting.sources["rows"].columns
    for found in splits.train:
        row = rows[int(found.where.rsplit(":", 1)[1]) - 1]
        for name, value in row.items():
            use = columns[name]["use"]
            said = " ".join(_texts(found))
            if use not in {"fact", "unused", "ignored"}:
                assert all(text in said for text in _leaves(value)), (name, use)
            elif use == "unused":  # named with what it looks like, and short: longer texts are asked about
                assert all(len(text.split()) < 3 or text in said for text in _leaves(value)), name


def _texts(found: Comparison) -> Iterator[str]:
    for part in (found.prompt, *found.responses):
        yield from (message["content"] for message in part)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        try:
            inner = json.loads(value)
        except ValueError:
            yield value
        else:
            yield from _leaves(inner) if isinstance(inner, list) else (value,)
    elif isinstance(value, dict):
        yield from (text for key, inner in value.items() if key != "role" for text in _leaves(inner))
    elif isinstance(value, list):
        yield from (text for inner in value for text in _leaves(inner))
