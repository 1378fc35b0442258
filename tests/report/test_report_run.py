from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_folders import metric_rows, prediction_rows, write_jsonl, write_run

from rmx import metrics
from rmx.cli.report import main
from rmx.errors import ConfigError, DataError, OutputError
from rmx.report import write_run_report
from rmx.report.facts import set_facts, worst_mistakes
from rmx.report.texts import read_texts
from rmx.results import read_run

VOID = {"meta", "link", "br", "hr", "img", "input"}
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Page(HTMLParser):
    """The text of a page, its ids, and whether its tags close in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_headline_says_what_the_metrics_say(tmp_path: Path) -> None:
    """The page's numbers are those of rmx.metrics on the same rows, beside the three baselines."""
    folder = write_run(tmp_path / "run")
    rows = prediction_rows(300)
    numbers = metrics.pair_metrics([r["chosen"] for r in rows], [r["rejected"] for r in rows])
    best = metrics.ceiling([r["truth_chosen"] for r in rows], [r["truth_rejected"] for r in rows])
    page = Page(write_run_report(folder))
    assert f"Accuracy {100 * numbers['accuracy']:.1f} %" in page.text
    interval = f"{100 * numbers['accuracy_low']:.1f} % to {100 * numbers['accuracy_high']:.1f} %"
    assert f"95 % interval {interval}, 300 pairs" in page.text
    assert f"the true rewards {best['loss']:.4f} on average" in page.text
    assert f"the true rewards, on average {100 * best['accuracy']:.1f} %" in page.text
    assert f"the true rewards, on these labels {100 * best['drawn_accuracy']:.1f} %" in page.text
    assert "chance 50.0 %" in page.text
    assert "Correlation with true reward" in page.text
    assert len(set(page.ids)) == len(page.ids)
    assert page.tags.count("svg") == 8
    assert "Training time 1 min 12 s" in page.text
    assert f"--config-dir {folder} --config-name run" in page.text


@pytest.mark.parametrize(("sign", "leaning"), [(1, "longer"), (-1, "shorter")])
def test_a_model_that_counts_tokens_is_called_out(tmp_path: Path, sign: int, leaning: str) -> None:
    """Reward = ± tokens: right exactly where the preferred response has the length it likes; 40 of 60 are such."""
    rows = []
    for i in range(60):
        chosen, rejected = (20, 10) if (i < 40) == (sign > 0) else (10, 20)
        rewards = {"chosen": sign * chosen, "rejected": sign * rejected}
        rows.append({"id": str(i), "chosen_tokens": chosen, "rejected_tokens": rejected} | rewards)
    write_jsonl(tmp_path / "generated_predictions.jsonl", rows)
    page = Page(write_run_report(tmp_path))
    assert f"This model leans to the {leaning} response" in page.text
    assert f"always the {leaning} response 66.7 %" in page.text
    assert "Length-controlled accuracy 50.0 %" in page.text


def test_page_is_self_contained_and_locked(tmp_path: Path) -> None:
    """No address but those of XML namespaces; a policy that lets only the page's own script run."""
    html = write_run_report(write_run(tmp_path / "run")).read_text()
    addresses = set(re.findall(r"https?://[^\s\"'<]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in html and re.search(r"script-src 'sha256-[A-Za-z0-9+/=]+'", html)
    assert len(html) < 600_000


def test_user_data_is_escaped(tmp_path: Path) -> None:
    """Ids, sources, metric keys, audit keys, config, command and texts may hold anything."""
    folder = write_run(tmp_path / "a<b>&")
    rows = [row | {"id": f"{i}{EVIL}", "source": EVIL} for i, row in enumerate(prediction_rows(40))]
    rows[0]["source"] = "other"
    write_jsonl(folder / "generated_predictions.jsonl", rows)
    write_jsonl(folder / "metrics.jsonl", [row | {f"{EVIL}/loss": 1} for row in metric_rows(5)])
    write_jsonl(folder / f"generated_predictions_{EVIL.replace('/', '')}.jsonl", rows)
    (folder / "audit.json").write_text(json.dumps({EVIL: {EVIL: EVIL}}))
    (folder / "run.yaml").write_text(f"model: {EVIL}\n")
    (folder / "environment.json").write_text(json.dumps({"command": EVIL, "versions": {EVIL: EVIL}}))
    texts = {row["id"]: {"prompt": EVIL, "chosen": EVIL, "rejected": EVIL} for row in rows}
    path = write_run_report(folder, texts=texts)
    page = Page(path)
    assert page.tags.count("script") == 1 and "img" not in page.tags
    assert EVIL in page.text
    for _, drawn in re.findall(r'<svg class="plot"([^>]*)>(.*?)</svg>', path.read_text(), flags=re.DOTALL):
        assert "<script" not in drawn


def test_texts_are_off_by_default_and_behind_a_click(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", pairs=40, steps=2)
    worst = worst_mistakes(read_run(folder).predictions["eval"], {})[0].id
    rows = [{"id": worst, "prompt": [{"role": "user", "content": "a secret question"}], "chosen": "c", "rejected": "r"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert "a secret question" not in write_run_report(folder).read_text()
    html = write_run_report(folder, texts=read_texts(tmp_path / "rows.jsonl")).read_text()
    assert re.search(r"<details class=\"mistake-texts\"><summary>show</summary>.*?user: a secret question", html, re.S)


def test_texts_without_id_are_found_by_line(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "rows.jsonl", [{"chosen": "1st text", "rejected": "x"}, {"chosen": "2nd text", "rejected": "y"}]
    )
    write_jsonl(tmp_path / "generated_predictions.jsonl", [{"id": "hh:2", "chosen": 0.0, "rejected": 1.0}])
    html = write_run_report(tmp_path, texts=read_texts(tmp_path / "rows.jsonl")).read_text()
    assert "2nd text" in html and "1st text" not in html


def test_texts_with_columns_of_other_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists the columns and proposes a flag, which works."""
    folder, rows = write_run(tmp_path / "run", pairs=40, steps=2), tmp_path / "rows.jsonl"
    worst = worst_mistakes(read_run(folder).predictions["eval"], {})[0].id
    write_jsonl(rows, [{"id": worst, "question": "a secret question", "better": "c", "worse": "r"}])
    with pytest.raises(DataError, match="columns found: better, id, question, worse") as caught:
        main([str(folder), "--texts", str(rows)])
    flag = "--columns={prompt: question, chosen: better, rejected: worse}"
    assert f"give '{flag}'" in str(caught.value)
    assert main([str(folder), "--texts", str(rows), flag]) == 0
    assert "a secret question" in (folder / "report.html").read_text()
    with pytest.raises(
        DataError, match=r"not even the first row of rows.jsonl has a column beter; did you mean better"
    ):
        main([str(folder), "--texts", str(rows), "--columns={chosen: beter, rejected: worse}"])
    with pytest.raises(ConfigError, match="--columns is for the rows of --texts"):
        main([str(folder), "--columns={chosen: better}"])


@pytest.mark.parametrize("line", ["not json", '{"id": 1, "chosen": "x"}', "[1]"])
def test_bad_texts_name_the_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"chosen": "a", "rejected": "b"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl:2: .*"):
        main([str(tmp_path), "--texts", str(tmp_path / "rows.jsonl")])


def test_worst_mistakes_are_the_most_confident_errors(tmp_path: Path) -> None:
    """Margins 1, -3, -1, 0 and a labelled tie at -9: worst first, without the tie and the equal pair."""
    margins = [1.0, -3.0, -1.0, 0.0, -9.0]
    rows = [{"id": str(i), "chosen": m, "rejected": 0.0, "labelled_tie": i == 4} for i, m in enumerate(margins)]
    write_jsonl(tmp_path / "generated_predictions.jsonl", rows)
    found = worst_mistakes(read_run(tmp_path).predictions["eval"], {})
    assert [mistake.id for mistake in found] == ["1", "2"]
    assert found[0].p_chosen == pytest.approx(1 / (1 + math.exp(3)))


def test_disagreement_with_the_reported_accuracy_is_said(tmp_path: Path) -> None:
    folder = tmp_path
    write_jsonl(folder / "generated_predictions.jsonl", prediction_rows(40))
    (folder / "all_results.json").write_text('{"eval_accuracy": 0.123}')
    assert "reports an accuracy of 0.123000" in Page(write_run_report(folder)).text
    facts = set_facts(read_run(folder).predictions["eval"])
    assert facts is not None
    (folder / "all_results.json").write_text(json.dumps({"eval_accuracy": facts.numbers["accuracy"]}))
    assert "reports an accuracy" not in Page(write_run_report(folder)).text


def test_run_without_predictions_shows_its_last_numbers(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "metrics.jsonl", metric_rows(40, sets=("eval", "eval_code")))
    page = Page(write_run_report(tmp_path))
    assert "Evaluation set eval" in page.text and "Evaluation set code" in page.text
    assert "no generated_predictions.jsonl" in page.text


def test_audit_only_and_broken_side_files(tmp_path: Path) -> None:
    """phases=[audit] leaves no metrics; a torn environment.json must not cost the page."""
    (tmp_path / "audit.json").write_text('{"read": 10, "kept": 9}')
    (tmp_path / "environment.json").write_text('{"command": "rmx pha')
    page = Page(write_run_report(tmp_path))
    assert "Data audit" in page.text and "kept 9" in page.text


def test_audit_of_real_data_is_shown(tmp_path: Path) -> None:
    """What rmx.data's own audit writes: counts, sets and lengths stand in tables, findings as a list."""
    from rmx.data import SyntheticData
    from rmx.data.audit.findings import audit

    found = audit(SyntheticData(size=120).read())
    content = found.as_dict()
    content["findings"] = [{"level": "warning", "text": f"beware {EVIL}"}]
    content["truncation"] = {
        "train": {
            "read": 90,
            "kept": 86,
            "truncated": 7,
            "dropped": 2,
            "max_tokens": 64,
            "longest": 99,
            "refused": 1,
            "all_equal": 1,
            "equal_pairs": {"template": 2, "limit": 1},
            "unprinted": {"tool_calls": 4},
        }
    }
    (tmp_path / "audit.json").write_text(json.dumps(content))
    page = Page(write_run_report(tmp_path))
    account = content["rows"]["sources"]["synthetic"]
    assert f"synthetic {account['read']} {account['kept']} 0 0 0 {account['train']} nothing left out" in page.text
    rule = 100 * content["characters"]["sets"]["train"]["length_only_accuracy"]
    assert f"{rule:.1f} % (" in page.text
    assert "train 90 86 7 2 64 99 1 1 3 tool_calls of 4" in page.text
    assert f"warning beware {EVIL}" in page.text
    assert page.tags.count("svg") == 2  # response lengths of train and eval


@pytest.mark.parametrize(
    "content",
    [{}, {"findings": "x", "sets": [1], "rows": None, "tokens": {"sets": {"a": {"histogram": {"edges": [0]}}}}}],
)
def test_audit_of_another_shape_costs_no_page(tmp_path: Path, content: dict[str, object]) -> None:
    (tmp_path / "audit.json").write_text(json.dumps(content))
    assert Page(write_run_report(tmp_path)).tags.count("h1") == 1


@pytest.mark.parametrize(
    "rewards",
    [[(0.0, 0.0)] * 4, [(1.0, 0.0)], [(1.0, 0.0)] * 30, [(-800.0, 800.0)] * 3],
    ids=["untrained", "one pair", "all right", "all wrong by far"],
)
def test_odd_predictions_give_a_page(tmp_path: Path, rewards: list[tuple[float, float]]) -> None:
    rows = [
        {"id": str(i), "chosen": c, "rejected": r, "chosen_tokens": 4, "rejected_tokens": 4}
        for i, (c, r) in enumerate(rewards)
    ]
    write_jsonl(tmp_path / "generated_predictions.jsonl", rows)
    page = Page(write_run_report(tmp_path))
    assert "nan" not in page.text.lower().split() and "None" not in page.text


def test_all_labelled_ties_give_a_page(tmp_path: Path) -> None:
    rows = [row | {"labelled_tie": True} for row in prediction_rows(5)]
    write_jsonl(tmp_path / "generated_predictions.jsonl", rows)
    assert "5 called a tie by their annotators" in Page(write_run_report(tmp_path)).text


def test_every_figure_has_a_text_of_its_own(tmp_path: Path) -> None:
    html = write_run_report(write_run(tmp_path / "run")).read_text()
    labels = re.findall(r'<svg class="plot" role="img" aria-label="([^"]*)"', html)
    assert len(labels) == 8 == len(set(labels)) and all(len(label) > 30 for label in labels)


def test_drawing_again_changes_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", pairs=40, steps=20)
    first = write_run_report(folder).read_bytes()
    assert write_run_report(folder).read_bytes() == first


def test_unwritable_folder_is_an_output_error(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", pairs=5, steps=2)
    (folder / "report.html").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_run_report(folder)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 1, "train/loss": 0.5}])
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert (tmp_path / "plots" / "training_loss.png").is_file()


def test_module_ends_with_the_exit_code_of_wrong_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rmx", "report", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such folder" in done.stderr and "Traceback" not in done.stderr


def test_report_needs_no_torch() -> None:
    code = (
        "import sys, rmx.report; sys.exit(bool({'torch', 'matplotlib.pyplot', 'optuna', 'hydra'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
