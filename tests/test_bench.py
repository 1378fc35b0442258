"""rmx bench: the published row shapes, the published arithmetic, a model and a judge into one report."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent / "models"))

from rmx.cli import main
from rmx.data.suites import read_suite
from rmx.errors import DataError
from rmx.metrics.benchmarks import best_of_n_curve, best_pick, style_matrix, ties_score, weighted_sections
from rmx.models import RewardModelSource, save_artefact
from rmx.models.tiny import CHATML
from rmx.scoring.benchmark import judge_suite, score_suite
from rmx.scoring.scorer import load


class Bound:
    name, jinja, start_token, end_token = "chatml", CHATML, None, "<|im_end|>"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    loaded = RewardModelSource(name="tiny").load(seed=1)
    with torch.no_grad():
        loaded.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    return save_artefact(
        loaded, tmp_path_factory.mktemp("run") / "model", template=Bound(), contract={"max_tokens": 96}
    )


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


SIDES = {"question": "q", "response_A": "a", "response_B": "b"}
ROWS: dict[str, list[dict[str, Any]]] = {
    "rewardbench": [
        {"id": i, "prompt": f"Sum {i}", "chosen": "yes", "rejected": "no" * i, "subset": subset}
        for i, subset in enumerate(["math-prm", "hep-cpp", "hep-cpp", "mt-bench-med", "donotanswer"], 1)
    ],
    "rewardbench2": [
        {"id": "1", "prompt": "a", "chosen": ["b"], "rejected": ["c", "d", "e"], "num_correct": 1, "subset": "Math"},
        {"id": "ref:1", "prompt": "p", "chosen": ["q"], "rejected": ["r"], "num_correct": 1, "subset": "Ties"},
        {"id": "tied:1", "prompt": "p", "chosen": ["q", "s"], "rejected": ["r"], "num_correct": 2, "subset": "Ties"},
    ],
    "rm_bench": [
        {"id": i, "prompt": "p", "domain": domain, "chosen": ["a", "bb", "ccc"], "rejected": ["d", "ee", "fff"]}
        for i, domain in enumerate(["chat", "math", "safety-refuse", "safety-response"])
    ],
    "judgebench": [
        {**SIDES, "pair_id": "x", "source": "mmlu-pro-law", "label": "B>A"},
        {**SIDES, "pair_id": "y", "source": "livecodebench", "label": "A>B"},
    ],
    "ppe": [
        {
            "question_id": "q1", "prompt": "p", "response_1": "a", "response_2": "b", "response_3": "c",
            "scores": [True, False, True], "sampled_conflict_pairs": [[0, 1], [1, 2]],
        }
    ],
    "pairs": [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {
            "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}],
            "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "b"}],
        },
    ],
    "best_of_n": [{"prompt": "p", "responses": ["a", "b", "c"], "scores": [0.1, 0.9, 0.5]}],
}  # fmt: skip


@pytest.mark.parametrize("suite", ROWS)
def test_every_published_shape_gives_table_report_and_results(
    suite: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = written(tmp_path / f"{suite}.jsonl", ROWS[suite]), tmp_path / "out"
    assert main(["bench", f"model={model}", f"suite={suite}", f"data={data}", f"output={out}"]) == 0
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    overall = results["lines"][-1]
    assert overall["kind"] == "overall" and overall["low"] <= overall["score"] <= overall["high"]
    assert f"{100 * overall['score']:.1f} %" in printed
    page = (out / "report.html").read_text()
    assert f"{100 * overall['score']:.1f} %" in page and "rmx report FOLDER" not in page
    (entry,) = yaml.safe_load((out / "model-index.yaml").read_text())["model-index"]
    assert entry["results"][0]["metrics"][-1]["value"] == round(overall["score"], 6)
    assert bool(results["curve"]) == (suite in {"ppe", "best_of_n"})


def test_rewards_are_those_of_the_scorer(model: Path, tmp_path: Path) -> None:
    """The prompt is computed once, and the template and limit are the training's: also where a prompt is cut.

    Rewards of a shared row and of texts alone differ by the rounding of float32 sums in another order.
    """
    rows = [*ROWS["best_of_n"], {"prompt": "long " * 50, "responses": ["a", "bb"], "scores": [1, 0], "id": "cut"}]
    read = read_suite("best_of_n", [str(written(tmp_path / "rows.jsonl", rows))], [])
    scorer = load(model)
    assert scorer.max_tokens == 96
    found = score_suite(scorer, read)
    for row, rewards in zip(read, found, strict=True):
        alone = scorer.score([[*row.prompt, *response] for response in row.responses])
        assert rewards.tolist() == pytest.approx(alone, abs=1e-5)


def test_a_row_of_another_shape_is_refused_with_its_place(tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", [ROWS["judgebench"][0], {**ROWS["judgebench"][0], "label": "A=B"}])
    with pytest.raises(DataError, match=r"rows\.jsonl:2: wrong type: label: A>B or B>A"):
        read_suite("judgebench", [str(data)], [])


def test_wrong_words_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "modle=x", "suite=rewardbnch"]) == 2
    said = capsys.readouterr().err
    assert "modle" in said and "did you mean" in said and "rewardbench" in said and "data: is needed" in said


def test_a_suite_that_is_nearly_right_is_proposed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "model=x", "suite=pair", "data=y"]) == 2
    assert "suite: pair is no suite; did you mean pairs?\n" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("kept")
    assert main(["bench", "model=x", "suite=pairs", "data=y", f"output={tmp_path / 'out'}"]) == 2
    assert f"output: {tmp_path / 'out'} is a file; give a new folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "kept"


# --- The published arithmetic, written out row by row ---


def test_rewardbench_weights_subsets_by_their_published_counts() -> None:
    found = weighted_sections(
        {"math-prm": 0.25, "hep-go": 0.75, "hep-js": 0.5, "mt-bench-hard": 1.0, "llmbar-natural": 0.5}
    )
    assert found["Reasoning"] == (0.25 * 984 + 0.75 * 164 + 0.5 * 164) / (984 + 164 + 164)
    assert found["Chat Hard"] == (37 * 1.0 + 100 * 0.5) / 137 and set(found) == {"Reasoning", "Chat Hard"}


def test_ties_score_on_random_rewards() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        rows = []
        for prompt in range(12):
            rows.append((f"ref:{prompt}", 1, random.normal(size=3).tolist()))
            rows.append((f"tied:{prompt}", 3, (random.normal(size=5) + np.array([2, 2, 2, 0, 0])).tolist()))
        gap = {name: min(scores[:right]) - max(scores[right:]) for name, right, scores in rows}
        spread = {name: max(scores[:right]) - min(scores[:right]) for name, right, scores in rows}
        total = 0.0
        for prompt in range(12):
            ref, tied, wide = gap[f"ref:{prompt}"], gap[f"tied:{prompt}"], spread[f"tied:{prompt}"]
            total += 0.3 * (tied > 0) + 0.3 * (ref > 0) + 0.2 * (tied > wide) + 0.2 * (min(ref, tied) > wide)
            total += 0.01 * math.tanh(min(ref, tied) / wide - 1)
        assert ties_score(rows) == pytest.approx(total / 12, abs=1e-14)


def test_ties_score_of_equal_right_answers() -> None:
    assert ties_score([("ref:0", 1, [1.0, 0.0]), ("tied:0", 2, [1.0, 1.0, 0.0])]) == pytest.approx(1.01)  # 1 / 0
    assert ties_score([("ref:0", 1, [0.0, 0.0]), ("tied:0", 2, [0.0, 0.0, 0.0])]) == 0.0  # 0 / 0
    with pytest.raises(DataError, match="1 right"):
        ties_score([("tied:0", 1, [1.0, 0.0])])


def test_a_shared_first_place_of_best_of_four_counts_in_part() -> None:
    assert [best_pick([1, 1, 1, 1]), best_pick([1, 1, 0, 2])] == [0.25, 0.0]


def test_style_matrix_on_random_rewards() -> None:
    random = np.random.default_rng(0)
    right, wrong = random.normal(size=(17, 3)), random.normal(size=(17, 3))
    share = {(i, j): sum(right[r, i] > wrong[r, j] for r in range(17)) / 17 for i in range(3) for j in range(3)}
    found = style_matrix(right, wrong)
    assert found["hard"] == pytest.approx((share[0, 1] + share[0, 2] + share[1, 2]) / 3, abs=1e-15)
    assert found["normal"] == pytest.approx((share[0, 0] + share[1, 1] + share[2, 2]) / 3, abs=1e-15)
    assert found["easy"] == pytest.approx((share[1, 0] + share[2, 0] + share[2, 1]) / 3, abs=1e-15)


def test_best_of_n_curve_is_the_mean_over_all_subsets() -> None:
    rewards, quality = [0.3, 0.9, 0.3, 0.1, 0.9], [1.0, 0.0, 0.5, 0.25, 0.75]
    found = best_of_n_curve(rewards, quality)
    for n in range(1, 6):
        picked = []
        for chosen in combinations(range(5), n):
            best = max(rewards[k] for k in chosen)
            picked.append(np.mean([quality[k] for k in chosen if rewards[k] == best]))
        assert found[n - 1] == pytest.approx(np.mean(picked), abs=1e-12)


def test_sections_and_overall_by_hand(tmp_path: Path) -> None:
    rows = read_suite("judgebench", [str(written(tmp_path / "j.jsonl", ROWS["judgebench"]))], [])
    assert [row.responses[0][0]["content"] for row in rows] == ["b", "a"]  # the right one first
    result = judge_suite("judgebench", rows, [np.array([1.0, 0.0]), np.array([0.5, 0.5])])
    assert [(line.section, line.score) for line in result.lines] == [
        ("coding", 0.0),
        ("knowledge", 1.0),
        ("overall", 0.5),
    ]
    rows = read_suite("ppe", [str(written(tmp_path / "p.jsonl", ROWS["ppe"]))], [])
    assert rows[0].pairs == ((0, 1), (2, 1))
    assert judge_suite("ppe", rows, [np.array([2.0, 1.0, 0.0])]).overall.score == 0.5


def test_human_preference_ties_are_counted_and_not_scored(tmp_path: Path) -> None:
    made = [{"prompt": "p", "response_1": "a", "response_2": "b", "winner": w} for w in ("model_b", "tie (bothbad)")]
    rows = read_suite("ppe", [str(written(tmp_path / "h.jsonl", made))], [])
    result = judge_suite("ppe", rows, [np.array([0.0, 1.0])] * 2)
    assert result.overall.score == 1.0 and result.counts["labelled_ties"] == 1


# --- A judge behind an endpoint ---


class Endpoint(BaseHTTPRequestHandler):
    """Prefers "good" wherever it stands, always says A for "biased", a tie for "even", and refuses "secret"."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        self.seen.append(body | {"key": self.headers.get("Authorization"), "path": self.path})
        if "secret" in text:
            said = "I cannot help with that."
        elif "even" in text:
            said = "Equal. [[C]]"
        elif "biased" in text:
            said = "[[A]]"
        else:
            said = "[[A]]" if "good" in text.partition("<Response B>")[0] else "First [[A]], but no: [[B]]"
        answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_judge_is_asked_in_both_orders_and_reported_alike(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k-123")
    prompts = ["plain", "biased", "even", "secret"]
    data = written(tmp_path / "p.jsonl", [{"prompt": p, "chosen": "good", "rejected": "bad"} for p in prompts])
    words = ["bench", "model=judge-1", "suite=pairs", f"data={data}", f"output={tmp_path / 'o'}", f"judge={endpoint}"]
    assert main(words) == 0
    results = json.loads((tmp_path / "o" / "results.json").read_text())
    assert results["lines"][-1]["score"] == 0.25  # only the plain one is won in both orders together
    counts = {name: results["counts"][name] for name in ("answers", "refused", "judge_ties", "inconsistent")}
    assert counts == {"answers": 8, "refused": 2, "judge_ties": 2, "inconsistent": 1}
    assert len(Endpoint.seen) == 8
    assert {(seen["key"], seen["model"], seen["path"]) for seen in Endpoint.seen} == {
        ("Bearer k-123", "judge-1", "/v1/chat/completions")
    }
    assert "k-123" not in (tmp_path / "o" / "results.json").read_text() + capsys.readouterr().out


def test_a_judge_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "p.jsonl", ROWS["pairs"])
    words = [
        "bench",
        "model=m",
        "suite=pairs",
        f"data={data}",
        f"output={tmp_path / 'o'}",
        "judge=http://127.0.0.1:9/v1",
    ]
    assert main(words) == 2
    assert "judge: http://127.0.0.1:9/v1 gives no answer" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_judge_compares_two(endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "p.jsonl", ROWS["rm_bench"])
    words = ["bench", "model=m", "suite=rm_bench", f"data={data}", f"output={tmp_path / 'o'}", f"judge={endpoint}"]
    assert main(words) == 2 and "has 6 responses, and a judge compares two" in capsys.readouterr().err


def test_a_row_with_tools_is_not_scored_as_if_it_had_none(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"prompt": "2+2?", "chosen": "4", "rejected": "5", "tools": [{"name": "add"}]}
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl:1: wrong type: tools: a benchmark's rows have no tools"):
        read_suite("pairs", [str(file)], [])
