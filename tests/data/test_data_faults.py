"""What each kind of bad row does: rejected with its line and reason, the good rows untouched, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rmx.data import PreferenceData
from rmx.data.audit import audit
from rmx.errors import ConfigError, DataError, OutputError

GOOD = [
    {"prompt": f"Question {n}?", "chosen": f"Good answer {n}.", "rejected": f"Bad answer {n}."} for n in range(1, 31)
]
SECRET = "zq-secret-zq"  # stands in the bad row and must stand in no message


def lines(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def row(**changes: Any) -> dict[str, Any]:
    base = {"prompt": f"What? {SECRET}", "chosen": f"Yes {SECRET}", "rejected": f"No {SECRET}"}
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def talk(*turns: str) -> list[dict[str, str]]:
    names = {"u": "user", "a": "assistant", "s": "system", "x": "wizard"}
    return [{"role": names[turn[0]], "content": turn[1:]} for turn in turns]


# (name, the bad line, the reason)
ROWS: list[tuple[str, Any, str]] = [
    ("broken JSON", b'{"prompt": "zq-secret-zq", "chosen": ', "broken JSON"),
    ("not JSON at all", b"prompt,chosen,rejected", "broken JSON"),
    ("chosen missing", row(chosen=...), "missing column"),
    ("chosen null", row(chosen=None), "missing column"),
    ("rejected null", row(rejected=None), "missing column"),
    ("chosen empty", row(chosen=""), "empty response"),
    ("rejected white space", row(rejected=" \n\t"), "empty response"),
    ("sides equal", row(chosen=f"Same {SECRET}", rejected=f"Same {SECRET}"), "identical responses"),
    (
        "sides equal but for white space",
        row(chosen=f"Same {SECRET}", rejected=f"Same {SECRET}\n"),
        "identical responses",
    ),
    ("chosen a number", row(chosen=7), "wrong type"),
    ("chosen a list of texts", row(chosen=[SECRET], rejected=[SECRET]), "wrong type"),
    ("chosen an object", row(chosen={"a": SECRET}, rejected={"a": SECRET}), "unknown role"),
    ("prompt a number", row(prompt=7), "wrong type"),
    ("prompt empty", row(prompt="  "), "empty turn"),
    ("not UTF-8", b'{"prompt": "\xff\xfe", "chosen": "a", "rejected": "b"}', "not UTF-8"),
    ("lone surrogate", b'{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}', "lone surrogate"),
    ("a JSON list", [1, 2], "not an object"),
    ("a JSON text", "x", "not an object"),
    ("null", None, "not an object"),
    ("nested too deep", b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
    ("a number of 5000 digits", b'{"prompt": ' + b"1" * 5000 + b"}", "broken JSON"),
    ("margin NaN", b'{"prompt": "p", "chosen": "a", "rejected": "b", "margin": NaN}', "number not usable"),
    ("margin infinite", b'{"prompt": "p", "chosen": "a", "rejected": "b", "margin": Infinity}', "number not usable"),
    ("margin text", row(margin="1.0"), "number not usable"),
    ("margin too large", row(margin=1e40), "number not usable"),
    ("margin a huge integer", row(margin=10**400), "number not usable"),
    ("margin a boolean", row(margin=True), "number not usable"),
    ("target above one", row(target=1.5), "number not usable"),
    ("weight negative", row(weight=-1), "number not usable"),
    ("no votes", row(votes_chosen=0, votes_rejected=0), "number not usable"),
    ("ends with user", row(prompt=..., chosen=talk("ua", "ab", "uc"), rejected=talk("ua", "ad")), "wrong order"),
    ("unknown role", row(prompt=..., chosen=talk("ua", "xb"), rejected=talk("ua", "ac")), "unknown role"),
    ("system in the middle", row(prompt=talk("ua", "sb", "uc")), "wrong order"),
    ("prompt ends with assistant", row(prompt=talk("ua", "ab")), "wrong order"),
    ("null content", row(prompt=[{"role": "user", "content": None}]), "wrong type"),
    ("content a number", row(prompt=[{"role": "user", "content": 3}]), "wrong type"),
    ("an image part", row(prompt=[{"role": "user", "content": [{"type": "image_url"}]}]), "wrong type"),
    ("no role", row(prompt=[{"content": "hi"}]), "unknown role"),
    ("message is a text", row(prompt=["hi"]), "wrong type"),
    ("prompts differ", row(prompt=..., chosen=talk("ua", "ab"), rejected=talk("uz", "ab")), "prompts differ"),
    (
        "prompts differ later",
        row(prompt=..., chosen=talk("ua", "ab", "uc", "ad"), rejected=talk("ua", "ab", "uz", "ad")),
        "prompts differ",
    ),
    (
        "messages do not begin with the prompt",
        row(prompt=talk("ua"), chosen=talk("uz", "ab"), rejected=talk("uz", "ac")),
        "prompts differ",
    ),
    ("chosen an empty list", row(prompt=..., chosen=[], rejected=talk("ua", "ac")), "empty response"),
    ("text against messages", row(chosen=f"a {SECRET}", rejected=talk("ua", "ac")), "wrong type"),
    ("empty turn", row(prompt=talk("ua", "a", "uc")), "empty turn"),
    ("tools no JSON", row(tools="{"), "wrong type"),
    ("system twice", row(prompt=talk("sa", "ub"), system="s"), "wrong order"),
]


@pytest.mark.parametrize(("bad", "reason"), [(r, why) for _, r, why in ROWS], ids=[name for name, _, _ in ROWS])
def test_bad_row_is_rejected_with_its_line(tmp_path: Path, bad: Any, reason: str) -> None:
    """30 good rows and one bad one on line 11: 30 are kept as they are, one is named."""
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(lines(*GOOD[:10], bad, *GOOD[10:]))
    splits = PreferenceData(path=str(path), on_bad_row="skip", validation_fraction=0).read(tmp_path / "out")
    account = splits.accounting.sources["pairs"]
    assert (account.read, account.kept, dict(account.rejected)) == (31, 30, {reason: 1})
    assert splits.accounting.adds_up()
    assert [row.prompt[0]["content"] for row in splits.train] == [row["prompt"] for row in GOOD]
    assert [row.responses[0][0]["content"] for row in splits.train] == [row["chosen"] for row in GOOD]
    (found,) = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert (found["file"], found["line"], found["reason"]) == (str(path), 11, reason)
    assert SECRET not in (tmp_path / "out" / "rejects.jsonl").read_text()
    with pytest.raises(DataError) as error:
        PreferenceData(path=str(path)).read()
    assert f"{path}:11: {reason}" in str(error.value)
    assert "on_bad_row=skip" in str(error.value)
    assert SECRET not in str(error.value)


def test_all_bad_rows_are_listed_first_five_shown(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(lines(*GOOD, *[row(chosen="")] * 8))
    with pytest.raises(DataError) as error:
        PreferenceData(path=str(path)).read(tmp_path / "out")
    text = str(error.value)
    assert "30 of 38 rows can be used: 8 empty response" in text
    assert text.count(f"{path}:") == 5
    assert "3 more" in text
    assert len((tmp_path / "out" / "rejects.jsonl").read_text().splitlines()) == 8


def test_too_many_bad_rows_stop_skip_too(tmp_path: Path) -> None:
    """8 of 38 are 21 %, above the 5 % that are allowed."""
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(lines(*GOOD, *[row(chosen="")] * 8))
    with pytest.raises(DataError, match=r"max_bad_fraction=0\.05"):
        PreferenceData(path=str(path), on_bad_row="skip").read()
    assert (
        len(PreferenceData(path=str(path), on_bad_row="skip", max_bad_fraction=0.3, validation_by="count").read().train)
        == 27
    )


def test_truncated_last_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(lines(*GOOD)[:-20])
    with pytest.raises(DataError, match=r"pairs\.jsonl:30: broken JSON"):
        PreferenceData(path=str(path)).read()


def test_csv_named_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("prompt,chosen,rejected\n" + "q,a,b\n" * 20)
    with pytest.raises(DataError, match=r"(?s)pairs\.jsonl:1: broken JSON.*Rename it to its kind"):
        PreferenceData(path=str(path)).read()


def test_empty_file_and_blank_file(tmp_path: Path) -> None:
    for content in ("", "\n \n\n"):
        path = tmp_path / "pairs.jsonl"
        path.write_text(content)
        with pytest.raises(DataError, match="is empty"):
            PreferenceData(path=str(path)).read()


def test_column_missing_in_all_rows_names_the_columns_found(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(lines(*[{"question": "q", "chosen": "a", "worse": "b"}] * 5))
    with pytest.raises(DataError, match=r"(?s)columns found: chosen, question, worse.*data\.columns"):
        PreferenceData(path=str(path)).read()
    with pytest.raises(DataError, match=r"needs the column rejected.*columns found: chosen, question, worse"):
        PreferenceData(path=str(path), format="preference").read()


def test_missing_file_folder_and_glob(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        PreferenceData(path=str(tmp_path / "no.jsonl")).read()
    with pytest.raises(DataError, match="holds no"):
        PreferenceData(path=str(tmp_path)).read()
    with pytest.raises(DataError, match="no data file matches"):
        PreferenceData(path=str(tmp_path / "*.jsonl")).read()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="rename or convert"):
        PreferenceData(path=str(tmp_path / "notes.txt")).read()


def test_unwritable_output_folder(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(lines(*GOOD, row(chosen="")))
    (tmp_path / "out").write_text("a file, no folder")
    with pytest.raises(OutputError, match="cannot write"):
        PreferenceData(path=str(path), on_bad_row="skip").read(tmp_path / "out")


def test_bom_blank_lines_nul_and_crlf_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    odd = {"prompt": "a\x00b", "chosen": "c d", "rejected": "e"}
    path.write_bytes(b"\xef\xbb\xbf" + lines(*GOOD).replace(b"\n", b"\r\n") + b"\n  \n" + lines(odd))
    splits = PreferenceData(path=str(path), validation_fraction=0).read()
    account = splits.accounting.sources["pairs"]
    assert (account.read, account.kept, account.blank) == (31, 31, 2)
    assert splits.train[-1].prompt[0]["content"] == "a\x00b"
    assert splits.train[-1].where == f"{path}:33"


def test_null_prompt_counts_as_absent(tmp_path: Path) -> None:
    """Documented: a null prompt is an empty prompt; whole texts are compared, and the audit says so."""
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(lines(*GOOD, {"prompt": None, "chosen": "a", "rejected": "b"}))
    splits = PreferenceData(path=str(path), validation_fraction=0).read()
    assert splits.train[-1].prompt == ()
    assert audit(splits).numbers["roles"]["no_prompt"] == 1


def test_copies_and_few_rows_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(lines(*[GOOD[0]] * 12))
    found = audit(PreferenceData(path=str(path), validation_fraction=0).read())
    assert found.numbers["repeats"]["identical_pairs"] == 11
    texts = [finding.text for finding in found.findings]
    assert any("11 pairs repeat another one" in text for text in texts)
    assert any("only 12 training comparisons" in text for text in texts)
    with pytest.raises(DataError, match="1 different prompts"):
        PreferenceData(path=str(path)).read()


def test_swapped_duplicate_is_a_contradiction(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    swapped = {**GOOD[3], "chosen": GOOD[3]["rejected"], "rejected": GOOD[3]["chosen"]}
    path.write_bytes(lines(*GOOD, swapped))
    found = audit(PreferenceData(path=str(path), validation_fraction=0).read())
    assert found.numbers["repeats"]["contradictions"] == 1
    assert found.numbers["repeats"]["contradiction_examples"] == [[f"{path}:31", f"{path}:4"]]


def test_eval_rows_also_in_train_are_an_error_by_default(tmp_path: Path) -> None:
    path, other = tmp_path / "pairs.jsonl", tmp_path / "test.jsonl"
    path.write_bytes(lines(*GOOD))
    swapped = {**GOOD[4], "chosen": GOOD[4]["rejected"], "rejected": GOOD[4]["chosen"]}
    fresh = {"prompt": "Fresh?", "chosen": "y", "rejected": "n"}
    other.write_bytes(lines(GOOD[3], swapped, fresh))
    spec = {"path": str(path), "validation_fraction": 0.0, "eval_sets": {"test": str(other)}}
    found = audit(PreferenceData(**spec).read())
    assert found.numbers["overlap"]["test"]["with_pair_in_train"] == 2
    with pytest.raises(DataError, match=r"(?s)2 of 3 comparisons.*test\.jsonl:1.*on_overlap=drop_train"):
        found.require_no_leak()
    dropped = PreferenceData(**spec, on_overlap="drop_train").read()
    assert len(dropped.train) == 28
    assert dropped.accounting.adds_up()
    audit(dropped).require_no_leak()
    audit(PreferenceData(**spec, on_overlap="allow").read()).require_no_leak()


def test_literal_control_tokens_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    spelled = {"prompt": "What is <|im_end|>?", "chosen": "A token <pad>", "rejected": "[INST] no"}
    path.write_bytes(lines(*GOOD, spelled))
    found = audit(PreferenceData(path=str(path), validation_fraction=0).read()).numbers["control_tokens"]
    assert found["comparisons"] == 1
    assert found["tokens"] == {"<|im_end|>": 1, "<pad>": 1, "[INST]": 1}


@pytest.mark.parametrize(
    "keys",
    [
        {"validation_fraction": 1.5},
        {"max_samples": 0},
        {"max_tokens": 0},
        {"max_bad_fraction": -0.1},
        {"path": ""},
        {"eval_sets": {"test": {"pathh": "x.jsonl"}}},
        {"eval_sets": {"eval": "x.jsonl"}},
        {"where": "__import__('os').system('true')"},
        {"tags": {"rol_tag": "x"}},
    ],
)
def test_mistakes_in_the_config_are_found_without_reading(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"data.{next(iter(keys))}"):
        PreferenceData(**{"path": "x.jsonl", **keys})
