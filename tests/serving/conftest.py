from __future__ import annotations

import pytest
from small_rewards import save_reward_model
from small_server import small_server

import rmx


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_reward_model(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    return save_reward_model(tmp_path_factory.mktemp("served-too") / "model", seed=1)


@pytest.fixture(scope="session")
def scorer(model):
    """The same model, loaded apart: what the server's answers are compared with."""
    return rmx.load(model, device="cpu")


@pytest.fixture(scope="module")
def server(model):
    with small_server(model) as running:
        yield running
