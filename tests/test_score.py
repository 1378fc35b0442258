"""`rmx score`: rows in, answers out, for every kind of file; resumed after real kills; one message for a mistake."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from run_folders import write_jsonl
from small_rewards import rows_of_candidates, save_reward_model
from tiny_models import save_base

import rmx
from rmx.cli import main
from rmx.errors import ConfigError, DataError, ModelError, NonFiniteError, OutputError
from rmx.scoring.job import ScoreJob
from rmx.scoring.panel import Panel


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_reward_model(tmp_path_factory.mktemp("one") / "model")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return save_reward_model(tmp_path_factory.mktemp("other") / "model", seed=1)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def score(model, rows, tmp_path, name="out.jsonl", **keys):
    source = tmp_path / "rows.jsonl"
    write_jsonl(source, rows)
    ScoreJob(model=str(model), input=str(source), output=str(tmp_path / name), **keys).run()
    return read(tmp_path / name) if name.endswith(".jsonl") else None


def test_candidates_get_the_rewards_that_each_gets_alone(model, tmp_path):
    rows = rows_of_candidates(20)
    answers = score(model, rows, tmp_path, window_rows=7)
    assert [answer["id"] for answer in answers] == [row["id"] for row in rows]
    scorer = rmx.load(model)
    for row, answer in zip(rows, answers, strict=True):
        talks = [
            [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": text}]
            for text in row["responses"]
        ]
        alone = scorer.score(talks)
        assert answer["rewards"] == pytest.approx(alone, abs=1e-5)
        order = sorted(range(3), key=lambda k: -answer["rewards"][k])
        assert answer["best"] == order[0] and answer["ranks"][order[2]] == 3
        assert answer["margin"] == answer["rewards"][order[0]] - answer["rewards"][order[1]]
        assert answer["reward"] == max(answer["rewards"]) and not answer["truncated"]


TALK = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "response": "4"},
        {"messages": TALK},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"prompt": TALK[:1], "responses": ["4"]},
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": "2+2?", "response_a": "4", "response_b": "5"},
        {"prompt": "2+2?", "responses": [{"text": "4", "score": 1}, {"text": "5", "score": 9}]},
        {"prompt": "2+2?", "completion": "4", "label": False},
        {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"},
    ],
    ids=["single", "messages", "sharegpt", "one", "pair", "sides", "scored", "kto", "dialogue"],
)
def test_every_shape_says_the_same_of_the_same_conversation(model, tmp_path, row):
    (answer,) = score(model, [row], tmp_path)
    assert answer["rewards"][0] == pytest.approx(rmx.load(model).score([TALK])[0], abs=1e-5)


@pytest.mark.parametrize("kind", ["jsonl.gz", "csv", "parquet"])
def test_kinds_of_output_say_the_same(model, tmp_path, kind):
    rows = rows_of_candidates(9)
    plain = score(model, rows, tmp_path)
    score(model, rows, tmp_path, f"out.{kind}")
    path = tmp_path / f"out.{kind}"
    if kind == "jsonl.gz":
        assert [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()] == plain
    elif kind == "csv":
        with path.open(newline="") as file:
            got = list(csv.DictReader(file))
        assert [json.loads(row["rewards"]) for row in got] == [row["rewards"] for row in plain]
        assert [row["id"] for row in got] == [row["id"] for row in plain]
    else:
        assert pq.read_table(path).to_pylist() == plain
    assert {file.name for file in tmp_path.iterdir()} == {"rows.jsonl", "out.jsonl", path.name}


SINGLE = ["id", "where", "reward", "tokens", "truncated"]
SEVERAL = ["id", "where", "reward", "rewards", "ranks", "best", "margin", "tokens", "truncated"]
WINNERS = ["id", "where", "prompt", "response", "reward", "margin", "best", "truncated", "candidates"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("rows", "options", "columns"),
    [
        ([{"prompt": "2+2?", "response": "4"}, {"prompt": "3+3?", "response": "6"}], {}, SINGLE),
        (rows_of_candidates(3), {}, SEVERAL),
        (rows_of_candidates(3), {"on_bad_row": "skip"}, [*SEVERAL, "error"]),
        (rows_of_candidates(3), {"best_of_n": 2}, WINNERS),
    ],
    ids=["single", "candidates", "skip", "best of n"],
)
def test_a_table_has_the_columns_that_its_rows_can_fill(model, tmp_path, kind, rows, options, columns):
    """Decided by shape and options: with on_bad_row=skip there is the column error also where no row has one."""
    score(model, rows, tmp_path, f"out.{kind}", **options)
    path = tmp_path / f"out.{kind}"
    if kind == "parquet":
        table = pq.read_table(path)
        found, cells = table.column_names, table.to_pylist()
    else:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            found, cells = list(reader.fieldnames), [{k: v or None for k, v in row.items()} for row in reader]
    assert found == columns and len(cells) == len(rows)
    assert all(row[name] is not None for row in cells for name in columns if name != "error")


def test_a_table_of_several_models_has_their_columns(model, tmp_path):
    """Two models, one a copy of the other: disagreement 0."""
    other = shutil.copytree(model, tmp_path / "other")
    out, rows = tmp_path / "out.csv", tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in rows_of_candidates(2)))
    ScoreJob(model=[str(model), str(other)], input=str(rows), output=str(out)).run()
    with out.open(newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == [*SEVERAL, "members", "stds", "disagreement"]
        assert [float(row["disagreement"]) for row in reader] == [0.0, 0.0]


def test_kinds_of_input_and_a_glob_say_the_same(model, tmp_path):
    rows = rows_of_candidates(10)
    plain = score(model, rows, tmp_path)
    pq.write_table(pa.Table.from_pylist(rows[:5]), tmp_path / "part-0.parquet")
    pq.write_table(pa.Table.from_pylist(rows[5:]), tmp_path / "part-1.parquet")
    out = tmp_path / "glob.jsonl"
    ScoreJob(model=str(model), input=str(tmp_path / "part-*.parquet"), output=str(out)).run()
    assert [row["id"] for row in read(out)] == [row["id"] for row in plain]
    for got, expected in zip(read(out), plain, strict=True):
        assert got["rewards"] == pytest.approx(expected["rewards"], abs=1e-5)


def test_best_of_n_writes_winners_only(model, tmp_path):
    rows = rows_of_candidates(6, responses=5)
    answers = score(model, rows, tmp_path)
    winners = score(model, rows, tmp_path, "best.jsonl", best_of_n=4)
    for row, answer, winner in zip(rows, answers, winners, strict=True):
        first = answer["rewards"][:4]
        assert winner["best"] == first.index(max(first))
        assert winner["response"] == [{"role": "assistant", "content": row["responses"][winner["best"]]}]
        assert winner["reward"] == pytest.approx(max(first), abs=1e-5) and "rewards" not in winner
    with pytest.raises(DataError, match=r"rows.jsonl:1: has 5 candidates, fewer than best_of_n=6"):
        score(model, rows, tmp_path, "none.jsonl", best_of_n=6)


def test_parts_are_the_whole(model, tmp_path):
    rows = rows_of_candidates(11)
    whole = score(model, rows, tmp_path)
    parts = [score(model, rows, tmp_path, f"p{n}.jsonl", part=f"{n}/3", window_rows=2) for n in (1, 2, 3)]
    assert sorted(len(part) for part in parts) == [3, 4, 4]
    together = {answer["id"]: answer["rewards"] for part in parts for answer in part}
    for answer in whole:
        assert together[answer["id"]] == pytest.approx(answer["rewards"], abs=1e-5)


def test_torchrun_processes_take_shares_in_files_of_their_own(model, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    job = ScoreJob(model=str(model), input="rows.jsonl", output=str(tmp_path / "out.jsonl.gz"))
    assert job.share == (2, 2) and job.place.name == "out.part-2-of-2.jsonl.gz"
    with pytest.raises(ConfigError, match="would mix"):
        _ = ScoreJob(model=str(model), input="rows.jsonl", output="-").place


def test_a_killed_job_goes_on_without_missing_or_doubled_rows(model, tmp_path):
    """SIGKILL at three different moments, each after a window more is on the disk; then to the end."""
    rows = rows_of_candidates(60)
    whole = score(model, rows, tmp_path)
    words = [
        f"model={model}",
        f"input={tmp_path / 'rows.jsonl'}",
        f"output={tmp_path / 'killed.jsonl'}",
        "window_rows=4",
    ]
    progress = tmp_path / ".killed.jsonl.progress"
    slow = (
        "import sys, time; from rmx.scoring.panel import Panel; judge = Panel.judge\n"
        "def slowly(*args): time.sleep(0.1); return judge(*args)\n"
        "Panel.judge = slowly; from rmx.cli import main; sys.exit(main(['score', *sys.argv[1:]]))"
    )
    done = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", slow, *words], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if progress.exists() and json.loads(progress.read_text())["rows"] > done:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it was killed, it had not ended
        done = json.loads(progress.read_text())["rows"]
        assert 0 < done < 60
    with (tmp_path / ".killed.jsonl.rows").open("a") as file:
        file.write('{"id": "row-')  # as a kill within a write leaves it
    assert main(["score", *words]) == 0
    killed = read(tmp_path / "killed.jsonl")
    assert [answer["id"] for answer in killed] == [row["id"] for row in rows]
    for answer, expected in zip(killed, whole, strict=True):
        assert answer["rewards"] == pytest.approx(expected["rewards"], abs=1e-5)
    assert not list(tmp_path.glob(".killed*"))


def begun(model, tmp_path, rows):
    """A job that stopped at its ninth row, with two windows of four behind it."""
    with pytest.raises(DataError, match="put the row right"):
        score(model, [*rows[:8], {"prompt": "?", "responses": []}, *rows[8:]], tmp_path, window_rows=4)


def test_a_row_put_right_continues(model, tmp_path, capsys):
    rows = rows_of_candidates(12)
    begun(model, tmp_path, rows)
    assert [answer["id"] for answer in score(model, rows, tmp_path, window_rows=4)] == [row["id"] for row in rows]


def test_another_input_or_other_settings_do_not_continue(model, other, tmp_path):
    rows = rows_of_candidates(12)
    begun(model, tmp_path, rows)
    with pytest.raises(OutputError, match="was begun with another max_tokens"):
        score(model, rows, tmp_path, window_rows=4, max_tokens=20)
    with pytest.raises(OutputError, match="was begun with another model, weights"):
        score(other, rows, tmp_path, window_rows=4)
    with pytest.raises(DataError, match="first 8 rows are not those"):
        score(model, rows_of_candidates(12, responses=2), tmp_path, window_rows=4)
    with pytest.raises(DataError, match="has 3 rows, and 8 are answered"):
        score(model, rows[:3], tmp_path, window_rows=4)


def test_what_exists_is_never_written_over(model, tmp_path):
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(OutputError, match="exists and is never written over"):
        score(model, rows_of_candidates(1), tmp_path)
    assert (tmp_path / "out.jsonl").read_text() == "mine"


def test_two_processes_do_not_write_one_file(model, tmp_path):
    from rmx.scoring.answers_file import AnswersFile

    held = AnswersFile(tmp_path / "out.jsonl", {})
    with pytest.raises(OutputError, match="another process is writing"):
        score(model, rows_of_candidates(1), tmp_path)
    held.close()


def test_bad_rows_are_answers_with_skip(model, tmp_path):
    source = tmp_path / "rows.jsonl"
    good = json.dumps({"messages": TALK}).encode()
    lines = [
        good,
        b'{"messages": []}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": NaN}',
        b"{broken",
        json.dumps({"messages": [{"role": "wizard", "content": "x"}]}).encode(),
        json.dumps({"messages": TALK[:1]}).encode(),
        good,
    ]
    source.write_bytes(b"\n".join(lines) + b"\n")
    ScoreJob(model=str(model), input=str(source), output=str(tmp_path / "o.jsonl"), on_bad_row="skip").run()
    answers = read(tmp_path / "o.jsonl")
    assert ["error" in answer for answer in answers] == [False, True, True, True, True, True, True, False]
    reasons = [answer["error"].partition(":")[0] for answer in answers[1:-1]]
    assert reasons == ["empty response", "not UTF-8", "wrong type", "broken JSON", "unknown role", "empty response"]
    with pytest.raises(DataError, match=r"rows.jsonl:2: empty response"):
        ScoreJob(model=str(model), input=str(source), output=str(tmp_path / "stop.jsonl")).run()


def test_over_long_rows_are_cut_as_in_training_and_say_so(model, tmp_path):
    talk = [{"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "4"}]
    (long, short) = score(model, [{"messages": talk}, {"messages": TALK}], tmp_path, max_tokens=40)
    assert long["truncated"] and not short["truncated"] and long["tokens"][0] <= 40
    with pytest.raises(DataError, match="longer than"):
        score(model, [{"messages": talk}], tmp_path, "error.jsonl", max_tokens=40, truncation="error")


def test_a_model_that_gives_nan_stops_the_job(tmp_path):
    folder = save_reward_model(tmp_path / "model")
    panel = Panel.of([str(folder)], device="cpu")
    with torch.no_grad():
        panel.scorers[0][1].engine.model.score.weight.fill_(torch.nan)
    from rmx.records import Comparison

    row = Comparison("0", "s", tuple(TALK[:1]), ((TALK[1],),), (), where="rows.jsonl:1")
    with pytest.raises(NonFiniteError, match=r"rows\.jsonl:1"):
        panel.judge([row])


def test_a_base_model_has_no_trained_head(tmp_path):
    base = save_base("llama", tmp_path)
    with pytest.raises(ModelError, match="no trained scalar head"):
        score(base, [{"messages": TALK}], tmp_path)


def test_any_sequence_classifier_with_one_label_is_scored(tmp_path):
    """A folder that rmx did not write: its own template and limit are found out, and plain padded calls agree."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = save_base("qwen3", tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain.config.pad_token_id = tokenizer.pad_token_id
    plain.save_pretrained(tmp_path / "foreign")
    tokenizer.save_pretrained(tmp_path / "foreign")
    (answer,) = score(tmp_path / "foreign", [{"messages": TALK}], tmp_path)
    ids = tokenizer.apply_chat_template(TALK, tokenize=True, return_tensors="pt", return_dict=True)["input_ids"]
    assert answer["reward"] == pytest.approx(plain.eval()(ids).logits.item(), abs=1e-5)


def test_standard_input_to_standard_output(model, tmp_path):
    rows = rows_of_candidates(3)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    command = [sys.executable, "-m", "rmx", "score", f"model={model}", "input=-", "output=-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=os.environ, check=True)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [row["id"] for row in rows]
    assert "read as a prompt with candidates" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_message(model, tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", rows_of_candidates(2))
    (tmp_path / ".out.jsonl.rows").symlink_to("/dev/full")
    code = main(["score", f"model={model}", f"input={tmp_path / 'rows.jsonl'}", f"output={tmp_path / 'out.jsonl'}"])
    said = capsys.readouterr().err
    assert code == 2 and "No space left on device" in said and "Traceback" not in said
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "model: is needed"),
        (["modle=x"], "did you mean model?"),
        (["window_rows=0"], "window_rows: 0 is not an integer from 1 up"),
        (["window_rows=nan"], "window_rows: 'nan' is not an integer from 1 up"),
        (["best_of_n=1"], "best_of_n: 1 is not an integer from 2 up"),
        (["--best-of", "x"], "best_of_n: 'x'"),
        (["k=-1"], "k: "),
        (["k=2"], "is for several models"),
        (["part=3/2"], "part: '3/2' is not I/N"),
        (["device=gpu"], "device: 'gpu' is not cpu, cuda"),
        (["center=calibration", "model=[a,b]"], "belong together"),
        (["model=[a,a]"], "names one model twice"),
        (["precision=fp8"], "precision: 'fp8' is not one of fp32, bf16"),
        (["max_tokens=9223372036854775808"], "max_tokens: "),
    ],
)
def test_mistakes_are_exit_2_and_one_message(words, said, capsys):
    given = [] if not words else [w for w in ("model=x", "input=y", "output=z") if w[:6] != words[-1][:6]]
    assert main(["score", *given, *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_the_help_page_names_every_key(capsys):
    from dataclasses import fields

    assert main(["score", "--help"]) == 0
    page = capsys.readouterr().out
    assert all(f"\n  {item.name}: " in page for item in fields(ScoreJob))
