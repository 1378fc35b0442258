"""`POST /score`: the same answers as `rmx score` gives for the same rows, whatever waits beside them."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from run_folders import write_jsonl
from small_rewards import rows_of_candidates
from small_server import held, small_server, wait_until

from rmx.scoring.job import ScoreJob

TALK = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


def offline(model, rows, folder, **keys):
    write_jsonl(folder / "rows.jsonl", rows)
    ScoreJob(model=str(model), input=str(folder / "rows.jsonl"), output=str(folder / "out.jsonl"), **keys).run()
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "response": "4"},
        {"messages": TALK},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"prompt": TALK[:1], "candidates": ["4"]},
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": "2+2?", "responses": [{"text": "4"}, {"text": "5"}]},
        {"conversations": [TALK, TALK]},
        {"rows": [{"messages": TALK}]},
    ],
    ids=["single", "messages", "sharegpt", "one", "pair", "candidates", "conversations", "rows"],
)
def test_every_shape_says_the_same_of_the_same_conversation(server, scorer, row):
    said = server.post("/score", row).raise_for_status().json()
    rewards = (said["answers"][0] if "answers" in said else said)["rewards"]
    assert rewards[0] == pytest.approx(scorer.score([TALK])[0], rel=1e-6, abs=1e-6)


def test_candidates_are_ranked_as_offline(server, model, tmp_path):
    rows = rows_of_candidates(12)
    said = server.post("/score", {"rows": rows}).raise_for_status().json()["answers"]
    for got, expected in zip(said, offline(model, rows, tmp_path), strict=True):
        assert got["id"] == expected["id"] and got["ranks"] == expected["ranks"] and got["best"] == expected["best"]
        assert got["rewards"] == pytest.approx(expected["rewards"], rel=1e-6, abs=1e-6)
        assert got["margin"] == pytest.approx(expected["margin"], rel=1e-6, abs=1e-6)
        assert got["tokens"] == expected["tokens"] and got["truncated"] is False


def test_answers_of_many_at_once_are_neither_lost_nor_swapped(server, model, tmp_path):
    """120 rows from 40 threads: every answer is the one of its own row, by its id and by its rewards."""
    rows = rows_of_candidates(120)
    expected = {answer["id"]: answer["rewards"] for answer in offline(model, rows, tmp_path)}
    with ThreadPoolExecutor(40) as pool:
        said = list(pool.map(lambda row: server.post("/score", row).raise_for_status().json(), rows))
    assert [answer["id"] for answer in said] == [row["id"] for row in rows]
    for answer in said:
        assert answer["rewards"] == pytest.approx(expected[answer["id"]], rel=1e-6, abs=1e-6)


def test_requests_of_one_prompt_compute_it_once(model, tmp_path):
    """The prompt of 41 tokens and the end of each response are what 5 waiting requests of one prompt cost.

    Byte tokens: <|im_start|> 'user\\n' + 10 x 'why ' <|im_end|> '\\n' <|im_start|> 'assistant\\n' are 1+5+40+1+1+1+10 =
    59, then 'answer ' that all five share (7), and 'k<|im_end|>' of each (2): 66 + 5 * 2 = 76 tokens; alone 5 * 68.
    """
    rows = [{"prompt": "why " * 10, "response": f"answer {k}"} for k in range(5)]
    with small_server(model) as server, ThreadPoolExecutor(6) as pool:
        with held(server.service) as go:
            first = pool.submit(server.post, "/score", {"messages": TALK})  # the worker is busy with it
            wait_until(lambda: server.service.accepted == 1 and not len(server.service.hall))
            futures = [pool.submit(server.post, "/score", row) for row in rows]
            wait_until(lambda: len(server.service.hall) == 5)
            before = _tokens(server.service)
            go.set()
            rewards = [future.result().raise_for_status().json()["reward"] for future in futures]
            first.result()
        computed, alone = (b - a for a, b in zip(before, _tokens(server.service), strict=True))
    own = 25  # of TALK, whose batch was counted after `before`
    assert (computed - own, alone - own) == (76, 5 * 68)
    assert rewards == pytest.approx([answer["reward"] for answer in offline(model, rows, tmp_path)], rel=1e-6, abs=1e-6)


def _tokens(service):
    registry = service.meters.registry
    return [registry.get_sample_value("rmx_tokens_total", {"kind": kind}) or 0.0 for kind in ("computed", "alone")]


def test_over_long_rows_are_cut_as_in_training_and_say_so(model, tmp_path):
    talk = [{"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "4"}]
    (expected,) = offline(model, [{"messages": talk}], tmp_path, max_tokens=40)
    with small_server(model, max_tokens=40) as server:
        said = server.post("/score", {"conversations": [talk, TALK]}).raise_for_status().json()
        assert said["truncated"] == [True, False] and said["tokens"][0] <= 40
        assert said["rewards"][0] == pytest.approx(expected["reward"], rel=1e-6, abs=1e-6)
        assert server.service.meters.registry.get_sample_value("rmx_truncated_total") == 1
    with small_server(model, max_tokens=40, truncation="error") as server:
        refused = server.post("/score", {"messages": talk})
        assert refused.status_code == 422 and "longer than" in refused.json()["error"]["message"]


def test_columns_of_the_command_are_those_of_the_requests(model, scorer):
    with small_server(model, columns={"prompt": "ask", "response": "say"}) as server:
        said = server.post("/score", {"ask": "2+2?", "say": "4"}).raise_for_status().json()
    assert said["reward"] == pytest.approx(scorer.score([TALK])[0], rel=1e-6, abs=1e-6)


def test_several_models_are_an_ensemble_as_offline(model, other, tmp_path):
    """mean - 2 * std, centred on each prompt; one response has no such centre, and says so."""
    rows = rows_of_candidates(4)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out.jsonl"
    keys = {"combine": "lower", "k": 2.0}
    ScoreJob(model=[str(model), str(other)], input=str(tmp_path / "rows.jsonl"), output=str(out), **keys).run()
    expected = [json.loads(line) for line in out.read_text().splitlines()]
    with small_server([model, other], **keys) as server:
        said = server.post("/score", {"rows": rows}).raise_for_status().json()["answers"]
        single = server.post("/score", {"messages": TALK})
        assert single.status_code == 422 and "center=prompt" in single.json()["error"]["message"]
    for got, answer in zip(said, expected, strict=True):
        for name in ("rewards", "stds"):
            assert got[name] == pytest.approx(answer[name], rel=1e-6, abs=1e-6)
        assert got["disagreement"] == pytest.approx(answer["disagreement"], rel=1e-6, abs=1e-6)
        assert len(got["members"]) == 2


def test_an_ensemble_without_centre_answers_texts_too(model, other, scorer):
    """The lower of both models' rewards; both have one template, so a rendered text is right for both."""
    import rmx

    with small_server([model, other], combine="min", center="none") as server:
        text = scorer.template.render(TALK)
        said = server.post("/get_reward", {"query": [text]}).raise_for_status().json()
    both = [scorer.score([TALK])[0], rmx.load(other, device="cpu").score([TALK])[0]]
    assert said["rewards"] == pytest.approx([min(both)], rel=1e-6, abs=1e-6)


def test_an_async_client_that_goes_away_takes_nothing_with_it(model, scorer):
    """20 clients close their connections while they wait; the 21st, behind them, has its answer."""
    with small_server(model) as server:

        async def leave() -> None:
            async with httpx.AsyncClient(base_url=server.url) as client:
                with pytest.raises(httpx.ReadTimeout):
                    await client.post("/score", json={"messages": TALK}, timeout=0.3)

        async def all_leave() -> None:
            await asyncio.gather(*(leave() for _ in range(20)))

        with held(server.service) as go, ThreadPoolExecutor(1) as pool:
            asyncio.run(all_leave())
            wait_until(lambda: server.service.accepted == 0)
            last = pool.submit(server.post, "/score", {"messages": TALK})
            wait_until(lambda: server.service.accepted == 1)
            go.set()
            assert last.result().json()["reward"] == pytest.approx(scorer.score([TALK])[0], rel=1e-6, abs=1e-6)
        assert server.service.meters.registry.get_sample_value("rmx_abandoned_total") == 20
        wait_until(lambda: server.service.limits.held == 0)
