"""The routes that RL loops ask, each with the request that its client builds, and its answer read as the client does.

The requests are built here as the documented clients build them (their code is not installed):

    verl             RewardLoopWorker: messages rendered by the reward model's tokenizer, BOS off, use_activation off
    OpenRLHF         query: prompt and response decoded with special tokens; prompts and labels beside it
    LLaMA-Factory    the PPO trainer's API reward: decoded texts, "model" for the model's name
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from small_server import small_server
from tiny_models import save_base

import rmx
from rmx.models import RewardModelSource, save_artefact
from rmx.templates import Template

TALKS = [
    [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": answer}] for answer in ("4", "5", "four!")
]


@pytest.fixture(scope="module")
def rewards(scorer):
    return [scorer.score([talk])[0] for talk in TALKS]


@pytest.fixture(scope="module")
def texts(scorer):
    """As `tokenizer.apply_chat_template` of the saved folder gives them to every client."""
    return [scorer.tokenizer.apply_chat_template(talk, tokenize=False) for talk in TALKS]


def close(values):
    return pytest.approx(values, rel=1e-6, abs=1e-6)


# --- verl ---


def verl_payload(tokenizer, name, chat):
    """What verl's reward loop posts for one rollout."""
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=False, tokenize=False)
    if tokenizer.bos_token is not None and prompt.startswith(tokenizer.bos_token):
        prompt = prompt[len(tokenizer.bos_token) :]
    return {"model": name, "input": prompt, "use_activation": False}


def test_verl_with_vllm(server, scorer, model, rewards):
    said = [
        server.post("/classify", verl_payload(scorer.tokenizer, str(model), talk)).raise_for_status().json()
        for talk in TALKS
    ]
    assert [answer["data"][-1]["probs"][-1] for answer in said] == close(rewards)


def test_verl_with_sglang(server, scorer, model, rewards):
    payload = verl_payload(scorer.tokenizer, str(model), TALKS[0])
    del payload["use_activation"]
    said = server.post("/v1/embeddings", payload).raise_for_status().json()
    assert said["data"][-1]["embedding"][-1] == close(rewards[0])


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory):
    """A Llama-3-like reward model: its template begins every text with a BOS that verl takes off."""
    folder = tmp_path_factory.mktemp("bos")
    loaded = RewardModelSource(name="llama", path=str(save_base("llama", folder))).load(seed=0)
    bound = Template("llama3").bind(loaded.tokenizer)
    contract = {"max_tokens": 256, "truncation": "keep_end"}
    return save_artefact(loaded, folder / "model", template=bound, contract=contract)


def test_a_text_whose_bos_was_taken_off_is_scored_with_it(with_bos):
    scorer = rmx.load(with_bos, device="cpu")
    payload = verl_payload(scorer.tokenizer, str(with_bos), TALKS[0])
    assert not payload["input"].startswith("<|begin_of_text|>")
    expected = scorer.score([TALKS[0]])[0]
    with small_server(with_bos) as server:
        said = server.post("/classify", payload).raise_for_status().json()
        assert said["data"][0]["probs"] == close([expected])
        whole = {**payload, "input": "<|begin_of_text|>" + payload["input"]}
        assert server.post("/classify", whole).json()["data"][0]["probs"] == close([expected])
        bare = server.post("/classify", {**payload, "add_special_tokens": False})
        assert bare.status_code == 422 and "<|begin_of_text|>" in bare.json()["error"]["message"]


# --- vLLM's own shapes ---


def test_classify_answers_as_vllm(server, model, texts, rewards):
    said = server.post("/classify", {"model": str(model), "input": texts, "use_activation": False}).json()
    assert said["id"].startswith("classify-") and said["object"] == "list" and said["model"] == str(model)
    assert isinstance(said["created"], int)
    assert [one["index"] for one in said["data"]] == [0, 1, 2]
    assert {one["num_classes"] for one in said["data"]} == {1} and said["data"][0]["label"] == "reward"
    assert [one["probs"][0] for one in said["data"]] == close(rewards)
    assert said["usage"]["prompt_tokens"] == said["usage"]["total_tokens"] == 25 + 25 + 29  # bytes and markers


def test_without_use_activation_it_is_the_sigmoid_as_in_vllm(server, texts, rewards):
    for keys in ({}, {"use_activation": True}, {"activation": True}):
        said = server.post("/classify", {"input": texts[0], **keys}).json()
        assert said["data"][0]["probs"] == close([1 / (1 + math.exp(-rewards[0]))])
    assert server.post("/classify", {"input": texts[0], "activation": False}).json()["data"][0]["probs"] == close(
        [rewards[0]]
    )


def test_messages_are_rendered_here(server, rewards):
    said = server.post("/classify", {"messages": TALKS[1], "use_activation": False}).raise_for_status().json()
    assert said["data"][0]["probs"] == close([rewards[1]])


def test_pooling_answers_as_vllm(server, texts, rewards):
    said = server.post("/pooling", {"input": texts[:2], "use_activation": False, "request_id": "mine"}).json()
    assert said["id"] == "pool-mine"
    assert [(one["index"], one["object"]) for one in said["data"]] == [(0, "pooling"), (1, "pooling")]
    assert [one["data"][0] for one in said["data"]] == close(rewards[:2])


def test_token_ids_are_taken_as_they_are(server, scorer, texts, rewards):
    ids = [scorer.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for given, expected in ((ids[0], rewards[:1]), (ids, rewards)):
        said = server.post("/classify", {"input": given, "use_activation": False}).raise_for_status().json()
        assert [one["probs"][0] for one in said["data"]] == close(expected)
    cut = server.post("/classify", {"input": ids[0][:-1], "use_activation": False})
    assert cut.status_code == 422 and "<|im_end|>" in cut.json()["error"]["message"]
    unknown = server.post("/classify", {"input": [5, 2**30], "use_activation": False})
    assert unknown.status_code == 422 and "token id is not from 0" in unknown.json()["error"]["message"]


def test_truncate_prompt_tokens_keeps_the_end(server, scorer, texts):
    """10 tokens of the 25 are kept; the model judges exactly those."""
    said = server.post("/classify", {"input": texts[0], "use_activation": False, "truncate_prompt_tokens": 10}).json()
    ids = scorer.tokenizer(texts[0], add_special_tokens=False)["input_ids"][-10:]
    alone = server.post("/classify", {"input": ids, "use_activation": False}).json()
    assert said["data"][0]["truncated"] is True and said["usage"]["total_tokens"] == 10
    assert said["data"][0]["probs"] == close(alone["data"][0]["probs"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"priority": 3}, "priority"),
        ({"add_generation_prompt": True}, "add_generation_prompt"),
        ({"truncate_prompt_tokens": 1}, "leaves nothing to judge"),
        ({"truncation_side": "right"}, "truncation_side"),
        ({"sofmax": False}, "sofmax"),
        ({"use_activation": True, "activation": False}, "contradict"),
        ({"messages": TALKS[0]}, "either input"),
        ({"input": None}, "either input"),
        ({"input": []}, "nothing to score"),
        ({"input": ""}, "empty text"),
        ({"input": [[]]}, "fewer than 2 tokens"),
        ({"input": [2.5]}, "input"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_vllm_takes_and_rmx_does_not_is_refused_by_name(server, texts, body, said):
    answer = server.post("/classify", {"input": texts[0], **body})
    assert answer.status_code == 422 and said in answer.json()["error"]["message"], answer.text


def test_another_models_name_is_404(server, texts, model):
    for path in ("/classify", "/pooling", "/v1/embeddings"):
        answer = server.post(path, {"input": texts[0], "model": "gpt-5"})
        assert answer.status_code == 404 and str(model) in answer.json()["error"]["message"]


def test_models_are_listed_as_openai_lists_them(model):
    with small_server(model, name="judge") as server:
        listed = server.client.get("/v1/models").json()
        assert listed["object"] == "list" and listed["data"][0]["id"] == "judge"
        assert listed["data"][0]["object"] == "model" and listed["data"][0]["max_model_len"] == 256
        for name in ("judge", str(model)):
            assert server.post("/classify", {"messages": TALKS[0], "model": name}).status_code == 200


# --- OpenRLHF ---


def openrlhf_payload(tokenizer, chats):
    """What OpenRLHF posts for its samples: token ids of prompt and response, decoded with special tokens."""
    prompts = [tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True) for chat in chats]
    queries = []
    for prompt, chat in zip(prompts, chats, strict=True):
        ids = tokenizer(prompt + chat[-1]["content"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        queries.append(tokenizer.decode(ids, skip_special_tokens=False))
    return {"query": queries, "prompts": prompts, "labels": [""] * len(chats)}


def test_openrlhf(server, scorer, rewards):
    payload = openrlhf_payload(scorer.tokenizer, TALKS)
    said = server.post("/get_reward", payload).raise_for_status().json()
    assert said["rewards"] == close(rewards) and said["scores"] == said["rewards"] and said["extra_logs"] == {}
    older = server.post("/get_reward", {"query": payload["query"]}).json()  # clients without prompts and labels
    assert older["rewards"] == close(rewards)


def test_a_response_that_was_cut_at_its_longest_is_ended_here(server, scorer, rewards):
    """Without the scored token, with padding on either side, or with the template's newline: the same conversation."""
    (query, *_) = openrlhf_payload(scorer.tokenizer, TALKS[:1])["query"]
    bare = query.removesuffix("<|im_end|>")
    queries = [bare, query + "<|pad|><|pad|>", "<|pad|>" * 3 + query, query + "\n", bare + "<|pad|>"]
    said = server.post("/get_reward", {"query": queries}).raise_for_status().json()
    assert said["rewards"] == close([rewards[0]] * 5)


def test_openrlhf_lists_of_different_lengths_are_refused(server, texts):
    answer = server.post("/get_reward", {"query": texts, "prompts": ["a"], "labels": ["", "", ""]})
    assert answer.status_code == 422 and "prompts: 1 for 3" in answer.json()["error"]["message"]


# --- LLaMA-Factory ---


def test_llamafactory(server, scorer, texts, rewards):
    """As its PPO trainer does: token ids decoded with special tokens, posted, and `scores` of the text read."""
    ids = scorer.tokenizer(texts, add_special_tokens=False)["input_ids"]
    messages = scorer.tokenizer.batch_decode(ids, skip_special_tokens=False)
    headers = {"Content-Type": "application/json"}
    response = server.post("/v1/score/evaluation", {"model": "model", "messages": messages}, headers=headers)
    assert np.array(json.loads(response.text)["scores"]) == close(rewards)
    said = response.json()
    assert said["object"] == "score.evaluation" and said["id"].startswith("scoreeval-") and said["model"]


def test_llamafactory_max_length(server, texts):
    body = {"model": "model", "messages": texts[:1], "max_length": 10}
    assert server.post("/v1/score/evaluation", body).json()["truncated"] == [True]
    body["max_length"] = 1
    assert server.post("/v1/score/evaluation", body).status_code == 422


def test_texts_for_models_of_different_templates_are_refused(model, with_bos, texts):
    with small_server([model, with_bos], center="none") as server:
        answer = server.post("/get_reward", {"query": texts})
        assert answer.status_code == 422 and "different templates" in answer.json()["error"]["message"]
        assert server.post("/score", {"messages": TALKS[0]}).status_code == 200
