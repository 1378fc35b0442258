"""Every YAML in conf/ is composed, checked and instantiated, and repeats its target's signature."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from rmx.cli.page import GROUPS
from rmx.config import check, compose, instantiate
from rmx.config.checking import plain
from rmx.config.shipped import conf_folder
from rmx.config.targets import import_target

CONF = conf_folder()
FILES = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.glob("*/*.yaml"))
MUST_GIVE: dict[str, Any] = {  # what `???` asks for
    "model.path": "org/mine",
    "data.path": "pairs.jsonl",
    "data.dataset": "dpo_en_demo",
    "data.sources": {"mine": {"path": "pairs.jsonl"}},
}
ROOTS = {"bradley_terry", "lora", "auto", "hub", "tiny", "jsonl", "synthetic", "default"}  # files that list every knob


@functools.cache
def composed(file: str) -> Any:
    """Compose the default run with one option chosen, giving what it says must be given."""
    group, _, option = file.partition("/")
    cfg = compose([f"{group}=[{option}]" if group == "callbacks" else f"{group}={option}"])
    for key in OmegaConf.missing_keys(cfg):
        OmegaConf.update(cfg, key, MUST_GIVE[key])
    return cfg


def test_there_are_files() -> None:
    assert len(FILES) > 40
    assert {file.partition("/")[0] for file in FILES} == set(GROUPS)


@pytest.mark.parametrize("file", FILES)
def test_every_file_composes_checks_and_instantiates(file: str) -> None:
    cfg = composed(file)
    check(cfg)
    assert instantiate(cfg).config


@pytest.mark.parametrize("file", FILES)
def test_every_file_starts_with_its_launch_command(file: str) -> None:
    lines = [line for line in (CONF / f"{file}.yaml").read_text().splitlines() if "@package" not in line]
    group, _, option = file.partition("/")
    chosen = f"[{option}]" if group == "callbacks" else option
    assert lines[0].startswith("# python -m rmx ") and f"{group}={chosen}" in lines[0]


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("experiment/")])
def test_group_files_list_every_knob(file: str) -> None:
    """So that a reader sees all there is, and `--cfg job` shows what a run used. `trainer` lists the usual ones."""
    group, _, option = file.partition("/")
    node = plain(composed(file))[0].get(group)
    node = node[option] if group == "callbacks" else node
    if node is None or group == "trainer":
        return
    signature = inspect.signature(import_target(node["_target_"]))
    named = {p.name for p in signature.parameters.values() if p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD}}
    if node.get("_partial_"):
        named = {p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert {key for key in node if not key.startswith("_")} == named


def default_of(parameter: inspect.Parameter, target: Any, name: str) -> Any:
    """Return the default that a call would use; dataclass factories are called."""
    fields = getattr(target, "__dataclass_fields__", {})
    if name in fields and callable(fields[name].default_factory):
        return fields[name].default_factory()
    return parameter.default


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if file.split("/")[1] in ROOTS or file.startswith(("loss/", "callbacks/"))],
)
def test_files_that_list_every_knob_repeat_the_defaults(file: str) -> None:
    """A default has one owner, the signature; a YAML that differs says so by building on another file."""
    group, _, option = file.partition("/")
    text = OmegaConf.load(CONF / f"{file}.yaml")
    node: Any = OmegaConf.to_container(text[option] if group == "callbacks" else text)  # type: ignore[index]
    if "_target_" not in node:
        return
    target = import_target(node["_target_"])
    chosen = {"model.name", "callbacks.early_stopping_patience"}  # values that the file is there to choose
    for name, parameter in inspect.signature(target).parameters.items():
        default = default_of(parameter, target, name)
        given = name in node and node[name] != "???" and f"{group}.{name}" not in chosen
        if given and default is not inspect.Parameter.empty:
            assert node[name] == default, f"{file}: {name}"


def test_the_root_repeats_the_workflows_defaults() -> None:
    workflow = import_target("rmx.workflow.Workflow")
    values = plain(compose())[0]
    signature = inspect.signature(workflow).parameters
    groups = {group for group in GROUPS if group not in {"experiment", "callbacks"}}
    listed = {key for key in values if not key.startswith("_")}
    assert listed == set(signature) - {"config", "callbacks"}
    for name in listed - groups:
        assert values[name] == default_of(signature[name], workflow, name), name


def test_every_key_of_a_root_file_has_a_comment() -> None:
    """Comments teach: unit, and when to change it. (A key whose name says it all needs none.)"""
    plain_words = {"defaults", "weight_decay", "eval_strategy", "save_strategy", "load_best_model_at_end"}
    plain_words |= {"gradient_accumulation_steps", "early_stopping", "kind"}
    bare = []
    for file in [f"{group}/{name}" for group in GROUPS for name in sorted(ROOTS) if f"{group}/{name}" in FILES]:
        for line in (CONF / f"{file}.yaml").read_text().splitlines():
            key = line.strip().partition(":")[0]
            if line.strip() and "#" not in line and key not in plain_words and not key.startswith(("_", "-")):
                bare.append(f"{file}: {line}")
    assert bare == []


def test_data_of_the_wild_skips_bad_rows() -> None:
    assert composed("data/hh_rlhf").data.on_bad_row == "skip"
    assert composed("data/hh_rlhf").data.path == "Anthropic/hh-rlhf"
    assert composed("data/jsonl").data.on_bad_row == "error"


def test_adapters_train_with_their_own_learning_rate() -> None:
    rates = {file: compose(["model=gpt2", f"peft={file}"]).trainer.learning_rate for file in ("none", "lora", "qlora")}
    assert rates == {"none": 1e-5, "lora": 1e-4, "qlora": 1e-4}


def test_losses_are_functions_of_two_rewards() -> None:
    loss = instantiate(compose(["loss=hinge", "loss.margin=2.0"])).loss
    assert isinstance(loss, functools.partial) and loss.keywords == {"margin": 2.0, "center_coefficient": 0.0}


def test_no_file_is_out_of_reach() -> None:
    """conf/ is groups of files and the options of -m; nothing deeper, and no other root file than config.yaml."""
    assert [path.name for path in Path(CONF).glob("*.yaml")] == ["config.yaml"]
    deep = {path.relative_to(CONF).parts[:2] for path in CONF.glob("*/*/**/*.yaml")}
    assert deep <= {("hydra", "sweeper")}
