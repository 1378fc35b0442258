"""The keys of the reference are those that a configuration takes, and each has a meaning."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from rmx.config import compose
from rmx.config.checking import plain
from rmx.config.signatures import read_signature
from rmx.reference.config_keys import group_entries, key_entries
from rmx.reference.option_files import options
from rmx.training.keys import ACTS, ELSEWHERE, NOT_HERE

KEYS = key_entries()


def of(name: str) -> list[Any]:
    return [entry for entry in KEYS if entry.name == name]


def test_every_key_has_a_meaning() -> None:
    """A key without one: give it a line under Args of its class, or a comment in its file of conf/."""
    assert [entry.name for entry in KEYS if not entry.meaning.strip()] == []
    assert [entry.name for entry in group_entries() if not entry.meaning.strip()] == []


@pytest.mark.parametrize("data", options("data"))
def test_every_key_of_a_composed_run_is_there(data: str) -> None:
    """What `--cfg job` shows, and what the sweeper takes, but directives and groups that are null."""
    cfg = compose([f"data={data}", "peft=lora", "callbacks=[early_stopping]"])
    for key in OmegaConf.missing_keys(cfg):
        OmegaConf.update(cfg, key, {} if key == "data.sources" else "given")
    names = {entry.name for entry in KEYS}
    found = set()
    for group, value in plain(cfg)[0].items():
        if isinstance(value, dict):
            leaves = value.items() if group != "callbacks" else value["early_stopping"].items()
            prefix = group if group != "callbacks" else "callbacks.early_stopping"
            found |= {f"{prefix}.{key}" for key, _ in leaves if not key.startswith("_")}
        elif not group.startswith("_"):
            found.add(group)
    assert found - names == set()


def test_every_argument_of_the_trainer_is_there_once() -> None:
    trainer = [entry.name.removeprefix("trainer.") for entry in KEYS if entry.name.startswith("trainer.")]
    assert len(trainer) == len(set(trainer))
    own = {
        "max_tokens_per_micro_batch",
        "encoding",
        "precision",
        "eval_precision",
        "comparisons_per_step",
        "async_save",
        "stop_after",
    }
    assert set(trainer) == {*ACTS, *ELSEWHERE, *NOT_HERE, *own}
    refused = {entry.name.removeprefix("trainer.") for entry in KEYS if entry.section == "refused"}
    assert refused == {*ELSEWHERE, *NOT_HERE}


def test_what_an_entry_says() -> None:
    """1e-5 stands in conf/trainer/default.yaml, 1e-4 in lora.yaml and 2e-3 in tiny.yaml."""
    (rate,) = of("trainer.learning_rate")
    assert rate.fact("takes") == "a number from 0 up" and rate.fact("default") == "1.0e-05"
    assert rate.fact("set by options") == "lora: 0.0001, tiny: 0.002"
    (rank,) = of("peft.r")
    assert rank.meaning == "rank of the update; 8 to 64, higher for large datasets"
    assert {entry.section: entry.fact("default") for entry in of("loss.margin")}["loss=hinge"] == "1.0"
    (deepspeed,) = of("trainer.deepspeed")
    assert "parallel=zero2 or zero3" in deepspeed.meaning


def test_an_option_shows_what_it_sets_and_chooses() -> None:
    """16 and 32 are the adapter's own defaults; peft/rslora.yaml sets 64, 16 and its kind."""
    found = {entry.name: entry for entry in group_entries()}
    assert found["peft=rslora"].fact("sets") == "kind=rslora, r=64, alpha=16.0"
    assert found["peft=lora"].fact("sets") == "" and found["peft=lora"].fact("chooses") == "trainer=lora"
    assert found["peft"].fact("keys") == "kind r alpha dropout target_modules merge extra"


def test_the_sweepers_keys_are_those_of_its_settings() -> None:
    found = {entry.name for entry in KEYS if entry.name.startswith("hydra.sweeper.")}
    plugin = read_signature("hydra_plugins.rmx_sweeper.sweeper.RmxSweeper").parameters
    assert found == {f"hydra.sweeper.{name}" for name in plugin}
    assert {entry.fact("default") for entry in KEYS if entry.name == "hydra.sweeper.sampler"} == {"auto"}


def test_a_loss_takes_no_rewards_from_a_configuration() -> None:
    assert not {"loss.winner_M", "loss.loser_M", "loss.pairs"} & {entry.name for entry in KEYS}
