"""One whole run through the library, and what it leaves."""

from __future__ import annotations

import json
import logging
import weakref
from pathlib import Path

import pytest
from transformers import TrainerCallback
from workflows import make_workflow

import rmx
from rmx.errors import ConfigError, DataError, OutputError
from rmx.files import FolderLock
from rmx.training import proof

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    make_workflow(folder, size=160, max_steps=6).run()
    return folder


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def rows(folder: Path, name: str = "generated_predictions.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_a_run_leaves_everything_it_promises(finished: Path) -> None:
    for name in (
        "environment.json", "metrics.jsonl", "train_results.json", "eval_results.json", "predict_results.json",
        "all_results.json", "generated_predictions.jsonl", "report.html", "audit.json", "run.log",
        "plots/training_loss.png", "plots/training_eval_loss.svg", "plots/training_eval_accuracy.png",
        "model/model.safetensors", "model/config.json", "model/README.md", "model/reward_contract.json",
    ):  # fmt: skip
        assert (finished / name).is_file(), name
    assert not list(finished.rglob("*.bin"))


def test_result_files_have_the_names_that_llama_factory_gives(finished: Path) -> None:
    train, evaluation = read(finished, "train_results.json"), read(finished, "eval_results.json")
    assert {
        "epoch", "total_flos", "train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second"
    } <= train.keys()  # fmt: skip
    assert {"eval_loss", "eval_accuracy", "eval_runtime", "eval_samples_per_second", "epoch"} <= evaluation.keys()
    assert {"predict_loss", "predict_accuracy"} <= read(finished, "predict_results.json").keys()
    assert train.items() <= read(finished, "all_results.json").items()


def test_predictions_hold_full_precision_scores_in_input_order(finished: Path) -> None:
    """accuracy = share of rows with margin above 0; ids are those of the evaluation set, in its order."""
    found = rows(finished)
    evals = make_workflow(finished.parent / "unused", size=160).data.read().evals["eval"]
    assert [row["id"] for row in found] == [comparison.id for comparison in evals]
    assert all(row["margin"] == row["chosen"] - row["rejected"] for row in found)
    right = sum(row["margin"] > 0 for row in found) / len(found)
    assert read(finished, "eval_results.json")["eval_accuracy"] == pytest.approx(right)
    assert any(len(repr(row["chosen"])) > 8 for row in found)


def test_metrics_are_logged_under_their_phase(finished: Path) -> None:
    found = rows(finished, "metrics.jsonl")
    train = [row for row in found if row["phase"] == "train"]
    assert train and {
        "train/loss", "train/accuracy", "train/margin", "train/chosen_reward", "train/rejected_reward",
        "train/reward_std", "train/pairs_per_second", "train/tokens_per_second", "train/unique_tokens_per_second",
        "train/unique_tokens", "train/flops", "train/padded_flops", "train/tflops_per_device",
        "train/padded_tflops_per_device", "train/grad_norm",
        "train/learning_rate",
    } <= train[0].keys()  # fmt: skip
    last = [row for row in found if row["phase"] == "eval"][-1]
    assert {"eval/loss", "eval/accuracy", "eval/accuracy_low", "eval/ceiling_accuracy"} <= last.keys()


def test_load_scores_a_conversation_as_the_run_did(finished: Path) -> None:
    scorer = rmx.load(finished)
    comparison = make_workflow(finished.parent / "unused", size=160).data.read().evals["eval"][0]
    pair = comparison.pairs[0]
    conversations = [[*comparison.prompt, *comparison.responses[k]] for k in (pair.winner, pair.loser)]
    row = rows(finished)[0]
    assert scorer.score(conversations) == pytest.approx([row["chosen"], row["rejected"]], abs=1e-6)


def test_rank_puts_the_better_response_first(finished: Path) -> None:
    scorer = rmx.load(finished / "model")
    ranked = scorer.rank([{"role": "user", "content": "How?"}], ["Happy to help you!", "You bother me now."])
    assert [score for score, _ in ranked] == sorted((score for score, _ in ranked), reverse=True)


def test_scores_do_not_depend_on_what_is_scored_beside(finished: Path) -> None:
    scorer = rmx.load(finished)
    texts = [
        [{"role": "user", "content": "Q" * n}, {"role": "assistant", "content": "A" * (40 - n)}] for n in (1, 20, 39)
    ]
    together = scorer.score(texts)
    assert together == pytest.approx([scorer.score([text])[0] for text in texts], abs=1e-6)


def test_a_finished_model_is_evaluated_without_training(finished: Path, tmp_path: Path) -> None:
    from rmx.models import RewardModelSource

    again = make_workflow(
        tmp_path / "again", size=160, phases=["eval", "predict"],
        model=RewardModelSource(name="again", path=str(finished / "model")),
    )  # fmt: skip
    again.run()
    assert not (tmp_path / "again" / "model").exists()
    assert [row["chosen"] for row in rows(tmp_path / "again")] == pytest.approx(
        [row["chosen"] for row in rows(finished)], abs=1e-6
    )


def test_audit_reads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rmx.models import RewardModelSource

    loads: list[str] = []
    monkeypatch.setattr(RewardModelSource, "load", lambda self, **_: loads.append(self.name))
    workflow = make_workflow(tmp_path / "audit", size=160, phases=["audit", "inspect"])
    workflow.run()
    assert loads == []
    found = read(tmp_path / "audit", "audit.json")
    assert found["rows"]["adds_up"] is True
    assert not (tmp_path / "audit" / "report.html").exists()


def test_adapter_runs_score_the_same_when_loaded_and_merged(tmp_path: Path) -> None:
    from rmx.models import Adapter

    folder = tmp_path / "lora"
    make_workflow(folder, size=80, max_steps=3, peft=Adapter(kind="lora", r=4, merge=True)).run()
    row = rows(folder)[0]
    comparison = make_workflow(folder, size=80).data.read().evals["eval"][0]
    chosen = [*comparison.prompt, *comparison.responses[comparison.pairs[0].winner]]
    assert rmx.load(folder / "model").score([chosen])[0] == pytest.approx(row["chosen"], abs=1e-6)
    assert rmx.load(folder / "model-merged").score([chosen])[0] == pytest.approx(row["chosen"], abs=1e-5)


def test_several_evaluation_sets_get_a_file_and_metrics_each(tmp_path: Path) -> None:
    from rmx.data import PreferenceData

    def write(name: str, n: int) -> str:
        path = tmp_path / name
        lines = [
            {"prompt": f"{name} {i}?", "chosen": f"yes {i}", "rejected": f"no, never {i}"} for i in range(n)
        ]  # fmt: skip
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        return str(path)

    data = PreferenceData(
        path=write("train.jsonl", 24), validation_fraction=0.0,
        eval_sets={"easy": write("easy.jsonl", 5), "hard": write("hard.jsonl", 7)},
    )  # fmt: skip
    folder = tmp_path / "run"
    results = make_workflow(folder, data=data, max_steps=2).run()
    assert len(rows(folder, "generated_predictions_easy.jsonl")) == 5
    assert len(rows(folder, "generated_predictions_hard.jsonl")) == 7
    pooled = (5 * results["eval_easy_accuracy"] + 7 * results["eval_hard_accuracy"]) / 12
    assert results["eval_accuracy"] == pytest.approx(pooled)
    assert (folder / "plots" / "training_eval_easy_loss.png").is_file()


def test_evaluation_needs_a_set(tmp_path: Path) -> None:
    from rmx.data import SyntheticData

    workflow = make_workflow(tmp_path / "r", data=SyntheticData(size=20, validation_fraction=0.0), phases=["eval"])
    with pytest.raises(DataError, match=r"need an evaluation set; set data.validation_fraction"):
        workflow.run()


def test_an_unknown_phase_is_refused_when_built(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"phases\[0\]: 'trian' is not one of audit, inspect, train, .* did you mean train\?"
    ):
        make_workflow(tmp_path, phases=["trian"])


def test_an_unwritable_folder_is_found_before_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    workflow = make_workflow(tmp_path / "file" / "run")
    with pytest.raises(OutputError, match="output_dir"):
        workflow.run()


def test_quiet_runs_print_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_workflow(tmp_path / "quiet", size=240, max_steps=1, verbose=False).run()
    out = capsys.readouterr().out.strip().splitlines()
    assert out == [str(tmp_path / "quiet")]
    assert not [h for h in logging.getLogger("rmx").handlers if type(h).__module__ == "rmx.run.screen"]


def test_a_crash_is_in_the_log_and_closes_everything(tmp_path: Path) -> None:
    def broken(winner, loser, pairs):
        raise ZeroDivisionError("in the loss")

    workflow = make_workflow(tmp_path / "crash", size=40, loss=broken)
    with pytest.raises(ZeroDivisionError):
        workflow.run()
    assert not [h for h in logging.getLogger("rmx").handlers if type(h).__module__ == "rmx.run.screen"]
    FolderLock(tmp_path / "crash").release()  # the crashed run has let it go
    assert "in the loss" in (tmp_path / "crash" / "run.log").read_text()


def test_verbs_alone_close_what_they_open_and_go_on_in_one_folder(tmp_path: Path) -> None:
    """`train`, then `evaluate` and `predict` of the trained model; after each the folder is free and the log closed."""
    workflow = make_workflow(tmp_path / "verbs", size=160, max_steps=6, phases=["audit"])
    for verb in (workflow.train, workflow.evaluate, workflow.predict):
        verb()
        FolderLock(tmp_path / "verbs").release()
        assert not [h for h in logging.getLogger("rmx").handlers if type(h).__module__ == "rmx.run.screen"]
    make_workflow(tmp_path / "whole", size=160, max_steps=6).run()
    assert [row["chosen"] for row in rows(tmp_path / "verbs")] == [row["chosen"] for row in rows(tmp_path / "whole")]
    evaluations = [row for row in rows(tmp_path / "verbs", "metrics.jsonl") if row["phase"] == "eval"]
    assert evaluations[-1]["step"] == 6


def test_a_verb_without_output_dir_and_its_followers_share_a_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    workflow = make_workflow(tmp_path, size=160, output_dir=None)
    workflow.train()
    predictions = workflow.predict()
    assert (predictions.parent / "model").is_dir()


def test_what_was_not_asked_for_does_not_happen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """phases=[train] without evaluation steps scores no evaluation set, at its end neither; the card says none."""
    from rmx.scoring import evaluation

    scored: list[int] = []
    original = evaluation.evaluate_set
    monkeypatch.setattr(evaluation, "evaluate_set", lambda *a, **k: scored.append(1) or original(*a, **k))
    quiet = {"trainer_eval_strategy": "no", "trainer_load_best_model_at_end": False}
    make_workflow(tmp_path / "train", size=160, phases=["train"], **quiet).run()
    assert scored == []
    assert "eval" not in (tmp_path / "train" / "all_results.json").read_text()
    make_workflow(tmp_path / "both", size=160, phases=["train", "eval", "predict"], **quiet).run()
    assert scored == [1]  # eval and predict share one pass


def test_evaluating_before_and_after_training_scores_two_models(tmp_path: Path) -> None:
    workflow = make_workflow(tmp_path / "twice", size=160, max_steps=6, phases=["eval", "train", "eval"])
    workflow.run()
    found = [row for row in rows(tmp_path / "twice", "metrics.jsonl") if row["phase"] == "eval"]
    assert found[0]["step"] == 0 and found[-1]["step"] == 6
    assert found[0]["eval/loss"] != found[-1]["eval/loss"]


def pairs_file(path: Path, count: int, **columns: object) -> str:
    name = path.stem
    rows = [{"prompt": f"{name} {i}?", "chosen": f"yes {i}", "rejected": f"no {i}", **columns} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("weightless", "phases"), [("train", ["train"]), ("test", ["train"]), ("test", ["eval"])])
def test_rows_that_all_weigh_nothing_are_refused_by_their_set(tmp_path: Path, weightless: str, phases: list) -> None:
    from rmx.data import PreferenceData

    paths = {
        name: pairs_file(tmp_path / f"{name}.jsonl", 8, weight=0.0 if name == weightless else 1.0)
        for name in ("train", "test")
    }
    data = PreferenceData(path=paths["train"], eval_sets={"test": paths["test"]}, validation_fraction=0.0)
    with pytest.raises(DataError, match=rf"data, {weightless}: all 8 comparisons have weight 0"):
        make_workflow(tmp_path / "run", data=data, phases=phases).run()
    assert not (tmp_path / "run" / "model").exists()


def test_a_set_of_which_nothing_is_left_is_named(tmp_path: Path) -> None:
    from rmx.data import PreferenceData

    long = pairs_file(tmp_path / ("long" * 20 + ".jsonl"), 8)
    data = PreferenceData(
        path=pairs_file(tmp_path / "s.jsonl", 8), eval_sets={"test": long}, validation_fraction=0.0, max_tokens=60,
        truncation="drop",
    )  # fmt: skip
    with pytest.raises(DataError, match=r"data, test: 0 of 8 rows left: 8 dropped.*raise data.max_tokens"):
        make_workflow(tmp_path / "run", data=data).run()


def test_an_adapter_without_training_is_said_to_do_nothing(tmp_path: Path) -> None:
    from rmx.models import Adapter

    make_workflow(tmp_path / "run", phases=["eval"], peft=Adapter(kind="lora", r=4)).run()
    assert "peft=lora does nothing: phases has no train" in (tmp_path / "run" / "run.log").read_text()


def test_a_phase_that_scores_nothing_says_nothing_of_the_adapter(tmp_path: Path) -> None:
    from rmx.models import Adapter

    make_workflow(tmp_path / "run", phases=["audit"], peft=Adapter(kind="lora", r=4)).run()
    assert "does nothing" not in (tmp_path / "run" / "run.log").read_text()


def test_the_optimizer_is_gone_before_the_saved_model_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second copy of the weights takes the place of the optimizer's moments."""
    alive: dict[str, weakref.ref] = {}
    at_check: list[object] = []
    verify = proof.verify_artefact

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **given) -> None:
            alive["optimizer"] = weakref.ref(optimizer)

    def checked(*args, **options):
        at_check.append(alive["optimizer"]())
        return verify(*args, **options)

    monkeypatch.setattr(proof, "verify_artefact", checked)
    make_workflow(tmp_path / "run", callbacks={"watch": Watch()}).train()
    assert at_check == [None]
