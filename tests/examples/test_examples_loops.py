"""The loops' files, called as their hosts call them; the rewards are those of rmx.load.

No host is installed here. Their calls are replayed from their public code of August 2026: OpenRLHF 0.11
(openrlhf/utils/agent.py), verl (trainer/ppo/reward.py, experimental/reward_loop, workers/reward_manager/batch.py) and
NeMo-RL (environments/interfaces.py, experience/rollouts.py). Where a file imports its host, a stand-in with the same
names is put in its place: verl's RewardManagerBase, NeMo-RL's EnvironmentInterface and EnvironmentReturn, ray.remote.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from broken_folders import sound

import rmx
from rmx.errors import ConfigError, DataError, ModelError, NonFiniteError
from rmx.models import tiny_tokenizer
from rmx.scoring.connected import connect, conversation

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROMPTS = [
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What is 2 + 2?"}],
    [{"role": "user", "content": "Name a colour."}],
]
RESPONSES = ["4", "Blue, I should say."]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound(tmp_path_factory.mktemp("loop") / "model")


@pytest.fixture(scope="module")
def expected(model: Path) -> list[float]:
    conversations = [
        [*prompt, {"role": "assistant", "content": response}]
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
    rewards = rmx.load(model).score(conversations)
    assert abs(rewards[0] - rewards[1]) > 0.1
    return rewards


def hosted(name: str) -> ModuleType:
    """As OpenRLHF and verl import it: from its path, under a name of theirs."""
    spec = importlib.util.spec_from_file_location("reward_func", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rendered(prompt: list[dict[str, str]]) -> str:
    return str(tiny_tokenizer().apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))


# --- OpenRLHF ---


@pytest.mark.parametrize("label", ["messages", "json"])
def test_openrlhf_calls_it_with_one_row_per_thread(
    label: str, model: Path, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries are decoded with their special tokens; keys of the answer are rewards, scores and extra_logs."""
    monkeypatch.setenv("RMX_MODEL", str(model))
    reward_func = hosted("openrlhf_reward").reward_func

    async def rollouts() -> list[dict[str, Any]]:
        calls = []
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
            text = rendered(prompt)
            query = f"{text}{response}<|im_end|>"
            given = prompt if label == "messages" else json.dumps(prompt)
            calls.append(asyncio.to_thread(reward_func, [query], [text], [given]))
        return list(await asyncio.gather(*calls))

    answers = asyncio.run(rollouts())
    assert [answer["rewards"].tolist() for answer in answers] == [[pytest.approx(one, abs=1e-5)] for one in expected]
    assert all(set(answer) == {"rewards", "scores", "extra_logs"} for answer in answers)


def test_openrlhf_without_messages(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain prompt is the user's turn; a rendered one is refused, and so is a query that lost its prompt."""
    monkeypatch.setenv("RMX_MODEL", str(model))
    reward_func = hosted("openrlhf_reward").reward_func
    (reward,) = reward_func(["Name a colour.Blue<|im_end|>"], ["Name a colour."], ["[1, 2]"])["rewards"].tolist()
    talk = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue"}]
    assert reward == pytest.approx(rmx.load(model).score([talk])[0], abs=1e-5)
    text = rendered(PROMPTS[1])
    with pytest.raises(DataError, match="the prompt is rendered already"):
        reward_func([text + "Blue"], [text], [""])
    with pytest.raises(ValueError, match="was the prompt cut"):
        reward_func(["colour.Blue"], ["Name a colour."], [""])


# --- verl ---


def test_verl_calls_compute_score(model: Path, expected: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive manager: keyword arguments, in an executor, with the keywords of the config merged in."""
    monkeypatch.setenv("RMX_MODEL", str(model))
    raw = hosted("verl_reward").compute_score
    compute_score = partial(lambda fn, extra, *args, **kwargs: fn(*args, **{**kwargs, **extra}), raw, {"beta": 1})

    async def run_single(number: int) -> Any:
        extra_info = {"messages": np.array(PROMPTS[number], dtype=object), "num_turns": 2, "rollout_reward_scores": {}}
        call = partial(
            compute_score,
            data_source="chat",
            solution_str=RESPONSES[number],
            ground_truth="",
            extra_info=extra_info,
        )
        return await asyncio.get_running_loop().run_in_executor(None, call)

    async def both() -> list[Any]:
        return list(await asyncio.gather(run_single(0), run_single(1)))

    assert asyncio.run(both()) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="extra_info has no messages"):
        compute_score(data_source="chat", solution_str="4", ground_truth="", extra_info={})


def test_verl_calls_a_batch(model: Path, expected: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMX_MODEL", str(model))
    scores = hosted("verl_reward").compute_score_batched(
        data_sources=["chat", "chat"],
        solution_strs=RESPONSES,
        ground_truths=[None, None],
        extra_infos=np.array([{"messages": prompt} for prompt in PROMPTS], dtype=object),
    )
    assert scores == pytest.approx(expected, abs=1e-5)


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A module of a host that is not installed, and the packages above it."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), ModuleType(parts[depth - 1]))
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


class RewardManagerBase:
    """What verl's base class does with its arguments."""

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any) -> None:
        self.config, self.tokenizer, self.compute_score = config, tokenizer, compute_score
        self.loop = asyncio.get_event_loop()


class Sample(list):
    """A DataProto: a list of items that slices to itself."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return Sample(found) if isinstance(place, slice) else found


def test_verl_asks_the_manager(model: Path, expected: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses are padded on the right; the mask covers prompt and response."""
    monkeypatch.setenv("RMX_MODEL", str(model))
    stand_in(monkeypatch, "verl.experimental.reward_loop.reward_manager.base", RewardManagerBase=RewardManagerBase)
    manager_class = hosted("verl_reward_manager").RmxRewardManager
    tokenizer = tiny_tokenizer()

    def sample(number: int) -> Sample:
        ids = tokenizer.encode(f"{RESPONSES[number]}<|im_end|>", add_special_tokens=False)
        width = len(ids) + 4
        mask = torch.tensor([1] * 5 + [1] * len(ids) + [0] * 4)
        batch = {"responses": torch.tensor(ids + [0] * (width - len(ids))), "attention_mask": mask}
        return Sample([SimpleNamespace(batch=batch, non_tensor_batch={"raw_prompt": np.array(PROMPTS[number])})])

    async def run() -> list[dict[str, Any]]:
        manager = manager_class(config=None, tokenizer=tokenizer, compute_score=None)
        return [await manager.run_single(sample(number)) for number in range(2)]

    answers = asyncio.run(run())
    assert [answer["reward_score"] for answer in answers] == pytest.approx(expected, abs=1e-5)
    assert all(answer["reward_extra_info"] == {} for answer in answers)


# --- NeMo-RL ---


class EnvironmentReturn(NamedTuple):
    observations: Any
    metadata: Any
    next_stop_strings: Any
    rewards: Any
    terminateds: Any
    answers: Any


def test_nemo_rl_steps_the_environment(model: Path, expected: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processors have rendered the user's message; the messages themselves come in extra_env_info."""
    stand_in(
        monkeypatch,
        "nemo_rl.environments.interfaces",
        EnvironmentInterface=object,
        EnvironmentReturn=EnvironmentReturn,
    )
    stand_in(monkeypatch, "ray", remote=lambda actor: actor)
    environment = hosted("nemo_rl_environment").RmxEnvironment({"model": str(model)})
    logs = [
        [{"role": "user", "content": rendered(prompt)}, {"role": "assistant", "content": response}]
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
    found = environment.step(logs, [{"messages": prompt} for prompt in PROMPTS])
    assert found.rewards.dtype == torch.float32
    assert found.rewards.tolist() == pytest.approx(expected, abs=1e-5)
    assert found.terminateds.tolist() == [True, True]
    assert len(found.observations) == len(found.metadata) == len(found.next_stop_strings) == 2
    with pytest.raises(DataError, match="the prompt is rendered already"):
        environment.step(logs, [{"ground_truth": "4"}, None])
    plain = [[{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": RESPONSES[1]}]]
    assert environment.step(plain, [None]).rewards.tolist() == pytest.approx(expected[1:], abs=1e-5)
    batch, metrics = environment.global_post_process_and_metrics({"rewards": torch.tensor([1.0, 3.0])})
    assert batch["rewards"].tolist() == [1.0, 3.0]
    assert metrics == {"rmx/reward_mean": 2.0, "rmx/reward_std": 1.0}


# --- A server ---


class ScoreServer(BaseHTTPRequestHandler):
    """`POST /score` as `rmx serve` answers it: conversations in, rewards out (here: the number of messages)."""

    seen: list[dict[str, Any]] = []  # noqa: RUF012  one list for all requests
    answers: list[tuple[int, dict[str, str], Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        usual = (200, {}, {"model": "m", "rewards": [float(len(one)) for one in body["conversations"]]})
        status, headers, answer = self.answers.pop(0) if self.answers else usual
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *args: Any) -> None:
        """Nothing on the screen."""


@pytest.fixture
def url() -> Iterator[str]:
    ScoreServer.seen, ScoreServer.answers = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), ScoreServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_is_asked_for_conversations(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMX_MODEL", f"{url}/")
    monkeypatch.setenv("RMX_SERVE_KEY", "secret")
    scores = hosted("verl_reward").compute_score_batched(
        data_sources=["", ""],
        solution_strs=RESPONSES,
        ground_truths=["", ""],
        extra_infos=[{"messages": p} for p in PROMPTS],
    )
    assert scores == [3.0, 2.0]
    (request,) = ScoreServer.seen
    assert request["path"] == "/score" and request["key"] == "Bearer secret"
    assert request["conversations"][1] == [*PROMPTS[1], {"role": "assistant", "content": RESPONSES[1]}]


def test_a_busy_server_is_asked_again_and_others_are_named(url: str) -> None:
    talk = [conversation("Hi", "Hello")]
    ScoreServer.answers = [(503, {"Retry-After": "0"}, {"error": {"message": "full"}})]
    assert connect(url)(talk) == [2.0] and len(ScoreServer.seen) == 2
    ScoreServer.answers = [(401, {}, {"error": {"message": "no key"}})]
    with pytest.raises(ModelError, match="answered 401: no key"):
        connect(url)(talk)
    ScoreServer.answers = [(200, {}, {"rewards": [1.0, 2.0]})]
    with pytest.raises(ModelError, match="2 rewards for 1 conversations"):
        connect(url)(talk)
    ScoreServer.answers = [(200, {}, {"rewards": [None]})]
    with pytest.raises(NonFiniteError, match="not finite"):
        connect(url)(talk)
    ScoreServer.answers = [(200, {}, {"hello": 1})]
    with pytest.raises(ModelError, match="answered without rewards"):
        connect(url)(talk)
    with pytest.raises(ModelError, match="cannot be asked"):
        connect("http://127.0.0.1:9")(talk)


def test_what_belongs_to_the_other_kind_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match="has no meaning for the server"):
        connect("http://127.0.0.1:9", device="cpu")
    with pytest.raises(ConfigError, match="is a model and no server"):
        connect(str(model), key="secret")
