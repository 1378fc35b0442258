"""rmx bench: the published row shapes, the published arithmetic, a model and a judge into one report."""

from __future__ import annotations

import json
import math
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

sys.path.insert(0, str(Path(__file__).resolve().parent / "models"))

from rmx.cli import main
from rmx.data.suites import SUITES, Suite, read_suite
from rmx.errors import DataError
from rmx.metrics.benchmarks import (
    auc_within_prompts,
    best_of_n_curve,
    best_of_n_loss,
    best_pick,
    roc_auc,
    style_matrix,
    ties_score,
    weighted_sections,
)
from rmx.models import RewardModelSource, model_card, save_artefact
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
    named = {metric["name"]: metric["value"] for metric in entry["results"][0]["metrics"]}
    assert named["overall"] == round(overall["score"], 6) and len(named) == len(entry["results"][0]["metrics"])
    assert "nan" not in printed
    assert bool(results["curve"]) == bool(results["correctness"]) == (suite in {"ppe", "best_of_n"})
    assert ("best of k, loss" in printed) == ("best of k, loss" in page) == (suite in {"ppe", "best_of_n"})


def test_columns_of_other_names(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists the columns found and proposes a mapping; pasted, the numbers are those of the usual names."""
    rows = [{"prompt": f"Sum {i}", "chosen": "yes" * i, "rejected": "no"} for i in range(1, 5)]
    usual = written(tmp_path / "usual.jsonl", rows)
    names = {"prompt": "question", "chosen": "better", "rejected": "worse"}
    data = written(tmp_path / "own.jsonl", [{names[key]: value for key, value in row.items()} for row in rows])
    words = ["bench", f"model={model}", "suite=pairs"]
    assert main([*words, f"data={data}", f"output={tmp_path / 'a'}"]) == 2
    said = capsys.readouterr().err
    assert f"{data}:1: missing column: chosen (suite=pairs)" in said
    assert "columns found: better, question, worse" in said
    assert "give 'columns={prompt: question, chosen: better, rejected: worse}'" in said
    mapping = "columns={prompt: question, chosen: better, rejected: worse}"
    assert main([*words, f"data={data}", mapping, f"output={tmp_path / 'b'}"]) == 0
    assert main([*words, f"data={usual}", f"output={tmp_path / 'c'}"]) == 0
    lines = [json.loads((tmp_path / name / "results.json").read_text())["lines"][-1] for name in "bc"]
    assert lines[0] == lines[1] and lines[0]["rows"] == 4
    capsys.readouterr()
    assert main([*words, f"data={data}", "columns={chosen: beter}", f"output={tmp_path / 'd'}"]) == 2
    said = capsys.readouterr().err
    assert "has a column beter; did you mean better? Columns found: question, better, worse" in said
    assert main([*words[:2], "suite=rewardbench", f"data={data}", mapping, f"output={tmp_path / 'e'}"]) == 2
    assert "the rows of rewardbench have published columns" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suite", "row", "missing", "hint"),
    [
        ("best_of_n", {"prompt": "p", "responses": ["a", "b"], "quality": [1, 2]}, "scores", "scores: ITS_NAME"),
        ("pairs", {"prompt": "p", "chosen": "a", "bad": "b"}, "rejected", "rejected: ITS_NAME"),
        ("rewardbench", {"prompt": "p", "text": "a", "subset": "x"}, "chosen", ""),
    ],
)
def test_a_missing_column_lists_those_found(
    suite: Suite, row: dict[str, Any], missing: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"missing column: {missing}") as caught:
        read_suite(suite, [str(written(tmp_path / "rows.jsonl", [row]))], [])
    assert f"columns found: {', '.join(sorted(row))}" in str(caught.value) and hint in str(caught.value)


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
    assert "did you mean pairs?\n" in capsys.readouterr().err


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


def test_best_of_n_loss_is_the_mean_over_all_subsets_with_ties() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        rewards, quality = (random.integers(0, 4, 6) / 3).tolist(), (random.integers(0, 4, 6) / 3).tolist()
        found = best_of_n_loss(rewards, quality)
        for n in range(1, 7):
            lost = []
            for chosen in combinations(range(6), n):
                best, most = max(rewards[k] for k in chosen), max(quality[k] for k in chosen)
                lost.append(np.mean([(most - quality[k]) ** 2 for k in chosen if rewards[k] == best]))
            assert found[n - 1] == pytest.approx(np.mean(lost), abs=1e-12)


def test_roc_auc_is_the_share_of_pairs_and_its_interval_sums_over_prompts() -> None:
    random = np.random.default_rng(2)
    rewards = [(random.integers(0, 9, 5) / 2).tolist() for _ in range(7)]
    right = [[1, 0, *random.integers(0, 2, 3).tolist()] for _ in range(7)]
    flat = [(c, r, g) for c in range(7) for r, g in zip(rewards[c], right[c], strict=True)]
    good, bad = [(c, r) for c, r, g in flat if g], [(c, r) for c, r, g in flat if not g]

    def beats(first: float, second: float) -> float:
        return 1.0 if first > second else 0.5 if first == second else 0.0

    area = sum(beats(a, b) for _, a in good for _, b in bad) / len(good) / len(bad)
    parts = [0.0] * 7
    for c, a in good:
        parts[c] += (sum(beats(a, b) for _, b in bad) / len(bad) - area) / len(good)
    for c, b in bad:
        parts[c] += (sum(beats(a, b) for _, a in good) / len(good) - area) / len(bad)
    half = 1.959963984540054 * math.sqrt(7 / 6 * sum(part**2 for part in parts))
    assert roc_auc(rewards, right) == pytest.approx((area, max(0.0, area - half), min(1.0, area + half)), abs=1e-12)
    own = [beats(a, b) for a, g in zip(rewards[0], right[0], strict=True) if g
           for b, h in zip(rewards[0], right[0], strict=True) if not h]  # fmt: skip
    assert auc_within_prompts(rewards[0], right[0]) == pytest.approx(np.mean(own), abs=1e-12)
    assert roc_auc([[1.0, 2.0]], [[1, 1]]) is None and roc_auc([], []) is None


def test_correctness_metrics_of_ppe_by_hand(tmp_path: Path) -> None:
    """Every prompt has rewards 3, 1, 2; what is right differs.

        right          best of 1, 2, 3        loss of 1, 2, 3
        1 0 0   a      1/3, 2/3, 1            0, 0, 0
        0 1 0   b      1/3, 0, 0              0, 2/3, 1      never picked where another is drawn
        0 0 1   c      1/3, 1/3, 0            0, 1/3, 1

    gpqa is b and c: the curve is 1/3, 1/6, 0 and the loss (5/9 + 4/9) / 2. Their right rewards 1 and 2 against the
    wrong ones 3, 2, 3, 1 win 0.5 and 1.5 of 4 each; within b 0 of 2, within c 1 of 2.
    """
    made = [
        {"question_id": name, "prompt": "p", "benchmark": bench, "response_1": "x", "response_2": "y",
         "response_3": "z", "scores": scores, "sampled_conflict_pairs": [[0, 1]]}
        for name, bench, scores in [("a", "math", [1, 0, 0]), ("b", "gpqa", [0, 1, 0]), ("c", "gpqa", [0, 0, 1])]
    ]  # fmt: skip
    rows = read_suite("ppe", [str(written(tmp_path / "p.jsonl", made))], [])
    result = judge_suite("ppe", rows, [np.array([3.0, 1.0, 2.0])] * 3)
    found = {(one.section, one.metric): one.score for one in result.correctness}
    gpqa = {
        "best_of_k_max": 1 / 3,
        "best_of_k_end": 0.0,
        "best_of_k_loss": 1 / 2,
        "roc_auc": 0.25,
        "roc_auc_within_prompts": 0.25,
    }
    maths = {
        "best_of_k_max": 1.0,
        "best_of_k_end": 1.0,
        "best_of_k_loss": 0.0,
        "roc_auc": 1.0,
        "roc_auc_within_prompts": 1.0,
    }
    for name in gpqa:
        assert found["gpqa", name] == pytest.approx(gpqa[name], abs=1e-12)
        assert found["math", name] == pytest.approx(maths[name], abs=1e-12)
        assert found["overall", name] == pytest.approx((gpqa[name] + maths[name]) / 2, abs=1e-12)
    assert len(found) == 15


def test_graded_responses_have_a_loss_and_no_roc_curve(tmp_path: Path) -> None:
    rows = read_suite("best_of_n", [str(written(tmp_path / "b.jsonl", ROWS["best_of_n"]))], [])
    result = judge_suite("best_of_n", rows, [np.array([0.0, 1.0, 2.0])])  # quality 0.1, 0.9, 0.5
    found = {one.metric: one.score for one in result.correctness}
    # n = 2: the third is picked against the second in 1 of 3 draws, and n = 3: 0.4² each
    assert found == pytest.approx(
        {"best_of_k_max": (0.9 + 0.5 * 2) / 3, "best_of_k_end": 0.5, "best_of_k_loss": (0.16 / 3 + 0.16) / 3}
    )


def test_prior_sets_have_half_the_weight_of_a_section(tmp_path: Path) -> None:
    """Chat 1, Safety 0, Prior Sets (1/2 + 1) / 2: (1 + 0 + 0.5 × 0.75) / 2.5 = 0.55; harmless is no part of it."""
    asked = {"role": "user", "content": "p"}
    talk = {side: [asked, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    files = [
        written(tmp_path / "filtered.jsonl", [
            {"id": i, "prompt": "p", "chosen": "a", "rejected": "b", "subset": subset}
            for i, subset in enumerate(["mt-bench-med", "donotanswer"])
        ]),
        written(tmp_path / "shp-00000-of-00001.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 2),
        written(tmp_path / "anthropic_hhh-00000-of-00001.jsonl", [{**talk, "subset": "honest"}]),
        written(tmp_path / "anthropic_harmless-00000-of-00001.jsonl", [{**talk, "prompt": "p"}]),
    ]  # fmt: skip
    rows = read_suite("rewardbench", [str(file) for file in files], [])
    assert [row.section for row in rows[2:]] == ["shp", "shp", "anthropic_hhh", "anthropic_harmless"]
    assert {(row.prompt[0]["content"], len(row.prompt), len(row.responses[0])) for row in rows} == {("p", 1, 1)}
    won, lost = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    result = judge_suite("rewardbench", rows, [won, lost, won, lost, won, lost])
    scores = {line.section: line.score for line in result.lines if line.kind != "subset"}
    assert scores == pytest.approx({"Chat": 1.0, "Safety": 0.0, "Prior Sets (0.5 weight)": 0.75, "overall": 0.55})


def test_every_suite_can_be_asked_for() -> None:
    assert get_args(Suite) == tuple(SUITES)


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


# --- The model card ---


def bench(model: Path, data: Path, output: Path, *more: str) -> int:
    return main(["bench", f"model={model}", "suite=pairs", f"data={data}", f"output={output}", *more])


@pytest.fixture
def carded(model: Path, tmp_path: Path) -> Path:
    """A model folder that rmx wrote, with the card of a run."""
    folder = tmp_path / "run" / "model"
    shutil.copytree(model, folder)
    card = model_card({"name": "demo", "license": "mit", "metrics": [{"set": "eval", "accuracy": 0.75}]})
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def test_the_card_of_a_model_that_rmx_wrote_gets_the_results(
    carded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """huggingface_hub reads them beside the run's own; a second time they are replaced; the text stays as it was."""
    card, before = carded / "README.md", (carded / "README.md").read_text(encoding="utf-8")
    data = written(tmp_path / "p.jsonl", ROWS["pairs"])
    assert bench(carded.parent, data, tmp_path / "a") == 0
    assert f"{card}: results in its model-index" in capsys.readouterr().out
    overall = json.loads((tmp_path / "a" / "results.json").read_text())["lines"][-1]["score"]
    read = ModelCard.load(card)
    found = {(one.dataset_name, one.metric_name): one.metric_value for one in read.data.eval_results}
    assert found == {("eval", "pairwise accuracy"): 0.75, ("pairs", "p"): overall, ("pairs", "overall"): overall}
    assert (read.data.model_name, read.data.license) == ("demo", "mit") and str(tmp_path) not in read.content
    assert read.data.eval_results[-1].dataset_args == {"rows": 2}
    after = card.read_text(encoding="utf-8")
    assert after.split("\n---\n", 1)[1] == before.split("\n---\n", 1)[1]
    assert bench(carded, data, tmp_path / "b") == 0 and card.read_text(encoding="utf-8") == after


def test_the_card_of_another_folder_is_changed_only_when_it_is_asked_for(carded: Path, tmp_path: Path) -> None:
    (carded / "reward_contract.json").unlink()
    card, data = carded / "README.md", written(tmp_path / "p.jsonl", ROWS["pairs"])
    before = card.read_text(encoding="utf-8")
    assert bench(carded, data, tmp_path / "a") == 0 and card.read_text(encoding="utf-8") == before
    assert bench(carded, data, tmp_path / "b", "card=true") == 0
    assert {one.dataset_name for one in ModelCard.load(card).data.eval_results} == {"eval", "pairs"}


def test_card_false_leaves_the_card_alone(carded: Path, tmp_path: Path) -> None:
    before = (carded / "README.md").read_text(encoding="utf-8")
    assert bench(carded, written(tmp_path / "p.jsonl", ROWS["pairs"]), tmp_path / "a", "card=false") == 0
    assert (carded / "README.md").read_text(encoding="utf-8") == before


def test_a_card_that_is_not_there_is_refused_before_anything_is_scored(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "p.jsonl", ROWS["pairs"])
    assert bench(model, data, tmp_path / "a", "card=true") == 2
    assert f"card: there is no README.md in {model}; leave card out" in capsys.readouterr().err
    assert bench(model, data, tmp_path / "a", "card=true", "judge=http://127.0.0.1:9/v1") == 2
    assert "card: with judge= there is no model folder" in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_a_card_that_cannot_be_read_costs_no_result(
    carded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (carded / "README.md").write_text("---\ntags: [a\n---\n", encoding="utf-8")
    data = written(tmp_path / "p.jsonl", ROWS["pairs"])
    assert bench(carded, data, tmp_path / "a") == 0
    said = capsys.readouterr()
    assert "front matter cannot be read" in said.err and "overall" in said.out
    assert bench(carded, data, tmp_path / "b", "card=true") == 2


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
