"""Several models as one: the arithmetic by hand, through `rmx score`, and that disagreement predicts error."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from run_folders import write_jsonl
from small_rewards import rows_of_candidates, save_reward_model

from rmx.cli import main
from rmx.data.synthetic import SyntheticData
from rmx.errors import ConfigError
from rmx.scoring.ensemble import Ensemble, Scale
from rmx.scoring.job import ScoreJob


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [str(save_reward_model(folder / f"m{seed}", seed=seed)) for seed in (0, 1, 2)]


def answers(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_calibrated_rewards_are_in_standard_deviations():
    """Model a has mean 2 and std 1, model b mean 10 and std 4: (3-2)/1 = 1 and (18-10)/4 = 2, mean 1.5, std 0.5."""
    ensemble = Ensemble(center="calibration", scales=(Scale(2.0, 1.0), Scale(10.0, 4.0)))
    reward, std, disagreement = ensemble.combined(np.array([[3.0], [18.0]]))
    assert reward.tolist() == [1.5] and std.tolist() == [0.5] and disagreement == 0.5


def test_min_is_the_worst_case_and_an_offset_of_a_model_means_nothing():
    """Centred: [-1, 1] and [-3, 3]; the minimum of each response is -3 and 1."""
    members = np.array([[1.0, 3.0], [100.0, 106.0]])
    assert Ensemble("min").combined(members)[0].tolist() == [-3.0, 1.0]
    assert Ensemble("min", center="none").combined(members)[0].tolist() == [1.0, 3.0]


def test_one_response_cannot_be_centred_on_its_prompt():
    with pytest.raises(ConfigError, match="center=calibration"):
        Ensemble().combined(np.array([[1.0], [2.0]]))


def test_a_model_without_spread_cannot_be_calibrated():
    with pytest.raises(ConfigError, match="2 rewards without spread"):
        Scale.of([1.0, 1.0], "m")


def test_the_file_holds_what_each_model_says_alone(models, tmp_path):
    source = tmp_path / "rows.jsonl"
    write_jsonl(source, rows_of_candidates(8))
    alone = []
    for number, model in enumerate(models):
        ScoreJob(model=model, input=str(source), output=str(tmp_path / f"{number}.jsonl")).run()
        alone.append(answers(tmp_path / f"{number}.jsonl"))
    together = ScoreJob(model=models, input=str(source), output=str(tmp_path / "all.jsonl"), combine="lower", k=2.0)
    together.run()
    for row, *members in zip(answers(tmp_path / "all.jsonl"), *alone, strict=True):
        assert row["members"] == [member["rewards"] for member in members]
        centered = np.array(row["members"]) - np.mean(row["members"], axis=1, keepdims=True)
        assert row["stds"] == pytest.approx(centered.std(axis=0).tolist())
        assert row["rewards"] == pytest.approx((centered.mean(axis=0) - 2 * centered.std(axis=0)).tolist())
        best, second = np.argsort(row["ranks"])[:2]
        assert row["disagreement"] == pytest.approx((centered[:, best] - centered[:, second]).std())


def test_calibration_rows_give_mean_and_spread(models, tmp_path):
    """On the rows it was calibrated on, the combined reward has mean 0: each model's has."""
    source = tmp_path / "rows.jsonl"
    write_jsonl(source, rows_of_candidates(8))
    out = tmp_path / "out.jsonl"
    job = ScoreJob(model=models, input=str(source), output=str(out), center="calibration", calibration=str(source))
    job.run()
    rewards = [reward for row in answers(out) for reward in row["rewards"]]
    assert np.mean(rewards) == pytest.approx(0.0, abs=1e-6) and np.std(rewards) <= 1.0


def test_disagreement_predicts_error():
    """Four models see a true lead of 1 through noise of their own, of std 2 in half of the rows and 0.2 in the others.

    The mean of 4 has noise of std 2/sqrt(4) = 1: it is wrong with probability Phi(-1) = 0.1587 in the first half, and
    Phi(-10) = 0 in the second. The std over the models tells the halves apart: rows of the upper half of disagreements
    are wrong 0.1587 of the time, within three standard errors sqrt(0.1587 * 0.8413 / 5000) = 0.0052.
    """
    rng = np.random.default_rng(0)
    noise = np.repeat([2.0, 0.2], 5000)
    wrong, disagreement = [], []
    for spread in noise:
        lead = 1.0 + spread * rng.normal(size=4)
        reward, _, disagrees = Ensemble().combined(np.stack([lead / 2, -lead / 2], axis=1))
        wrong.append(reward[0] < reward[1])
        disagreement.append(disagrees)
    upper = np.array(disagreement) > np.median(disagreement)
    expected = 0.5 * (1 + math.erf(-1 / math.sqrt(2)))
    assert np.mean(np.array(wrong)[upper]) == pytest.approx(expected, abs=3 * 0.0052)
    assert np.mean(np.array(wrong)[~upper]) < 0.002


@pytest.mark.slow
def test_rows_with_more_disagreement_for_their_lead_are_wrong_more_often(tmp_path):
    """Three seeds of one run on 4,000 fresh rows: thirds by disagreement / margin, the first response being right.

    The runs and rows of docs/concepts/ensembles.md: 3.0 %, 5.7 % and 24.4 %, with standard errors of 0.5, 0.6 and
    1.2 %. Disagreement alone is in reward units, grows with the lead, and orders them the other way round.
    """
    folders = [tmp_path / f"seed-{seed}" for seed in (1, 2, 3)]
    for seed, folder in enumerate(folders, 1):
        words = ["data=synthetic", "data.size=1000", f"seed={seed}", f"output_dir={folder}"]
        assert main([*words, "trackers=[]", "verbose=false"]) == 0
    rows = SyntheticData(size=4000, seed=1, validation_fraction=0).read().train
    texts = [[one[0]["content"] for one in (row.prompt, *row.responses)] for row in rows]
    write_jsonl(tmp_path / "fresh.jsonl", [dict(zip(("prompt", "chosen", "rejected"), t, strict=True)) for t in texts])
    judged = f"model=[{','.join(map(str, folders))}]"
    assert main(["score", judged, f"input={tmp_path / 'fresh.jsonl'}", f"output={tmp_path / 'out.jsonl'}"]) == 0
    said = answers(tmp_path / "out.jsonl")
    wrong = np.array([one["best"] != 0 for one in said])
    doubt = np.array([one["disagreement"] for one in said])

    def thirds(key):
        return [part.mean() for part in np.array_split(wrong[np.argsort(key, kind="stable")], 3)]

    first, second, third = thirds(doubt / [one["margin"] for one in said])
    assert first + 0.01 < second and second + 0.1 < third
    assert thirds(doubt)[2] < thirds(doubt)[0]
