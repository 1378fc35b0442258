"""compose, check, instantiate, run_yaml: what they accept, and every mistake with its sentence."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from rmx.config import check, compose, instantiate, run_yaml
from rmx.config.composing import Composer
from rmx.errors import ConfigError
from rmx.workflow import Workflow


def mistakes(*overrides: str, config_dir: Path | None = None) -> list[str]:
    """Compose and check; return the lines of the one error."""
    with pytest.raises(ConfigError) as caught:
        check(compose(list(overrides), config_dir))
    return str(caught.value).splitlines()


def test_the_default_configuration_is_the_default_workflow() -> None:
    workflow = instantiate(compose())
    assert isinstance(workflow, Workflow)
    assert (workflow.model.name, workflow.data.name, workflow.phases) == (
        "tiny",
        "synthetic",
        ["train", "eval", "predict"],
    )


def test_values_on_the_command_line_win_over_experiment_and_groups() -> None:
    cfg = compose(["experiment=smoke", "data.size=50", "peft=lora", "trainer.learning_rate=0.5"])
    assert (cfg.data.size, cfg.trainer.max_steps, cfg.peft.kind, cfg.trainer.learning_rate) == (50, 20, "lora", 0.5)


def test_a_model_is_named_by_its_repository_or_folder() -> None:
    assert instantiate(compose(["model=hub", "model.path=org/name"])).model.name == "name"
    assert instantiate(compose(["model=hub", "model.path=outputs/hh/model"])).model.name == "hh"
    assert instantiate(compose(["model=hub", "model.path=org/name", "model.name=mine"])).model.name == "mine"


def test_a_key_that_no_yaml_lists_needs_no_plus() -> None:
    settings = instantiate(compose(["trainer.adam_beta2=0.95"])).trainer
    assert settings.arguments["adam_beta2"] == 0.95


def test_a_model_chooses_its_template_and_the_command_line_wins() -> None:
    assert compose(["model=pythia"]).template.name == "plain"
    assert compose(["model=pythia", "template=chatml"]).template.name == "chatml"


@pytest.mark.parametrize(
    ("override", "key", "parts"),
    [
        ("model=lama3", "model", ["'lama3' is not an option", "did you mean llama3?", "options: deberta_v3"]),
        ("parallel=deepspeed", "parallel", ["'deepspeed' is not an option; its stages are called zero2 and zero3"]),
        ("model=/data/mine", "model", ["write model=hub model.path=/data/mine"]),
        ("modle=llama3", "modle", ["no such group or key", "did you mean model?"]),
        ("+typo=1", "typo", ["no such group or key", "value 1"]),
        ("learning_rate=1e-5", "learning_rate", ["did you mean trainer.learning_rate?"]),
        ("+trainer.lerning_rate=3", "trainer.lerning_rate", ["value 3", "did you mean trainer.learning_rate?"]),
        ("trainer.learning_rate=abc", "trainer.learning_rate", ["'abc' is not a number"]),
        ("trainer.max_steps=1.5", "trainer.max_steps", ["1.5 is not an integer"]),
        ("trainer.max_steps=20.0", "trainer.max_steps", ["write 20"]),
        (
            "trainer.eval_strategy=stpes",
            "trainer.eval_strategy",
            ["not one of no, steps, epoch", "did you mean steps?"],
        ),
        ("trainer.lr_scheduler_type=cosin", "trainer.lr_scheduler_type", ["did you mean cosine?"]),
        ("trainer.precision=fp16", "trainer.precision", ["not one of auto, fp32, bf16"]),
        ("trainer.seed=3", "trainer.seed", ["use the root key seed"]),
        ("seed=abc", "seed", ["'abc' is not an integer"]),
        ("verbose=1", "verbose", ["1 is not true or false"]),
        ("project=7", "project", ["'project=\"7\"'"]),
        ("phases=[trian]", "phases[0]", ["did you mean train?"]),
        ("phases=train", "phases", ["write phases=[train]"]),
        ("loss.margn=1", "loss.margn", ["no such key in loss", "did you mean loss.margin?"]),
        ("data.size=${nope}", "data.size", ["cannot be resolved", "'nope' not found"]),
        ("peft.r=8", "peft.r", ["peft is null here", "peft=lora"]),
        ("peft=null", "peft", ["write peft=none"]),
        ("callbacks=[early]", "callbacks", ["options: early_stopping"]),
        ("experiment=smok", "experiment", ["did you mean smoke?"]),
        ("tags=[a", "tags", ["cannot be read"]),
        ("seed=1,2", "seed", ["add -m", "seed=[1,2]"]),
        ("model/x=tiny", "model/x", ["no such group", "did you mean model?"]),
        ("~data.nope", "data.nope", ["does not exist"]),
        ("data=jsonl", "data.path", ["must be given: data.path=..."]),
        ("_convert_=all2", "_convert_", []),
    ],
)
def test_one_mistake_names_the_key_the_value_and_the_remedy(override: str, key: str, parts: list[str]) -> None:
    if not parts:
        check(compose([override]))  # a directive that rmx's own calls have no use for
        return
    (line,) = mistakes(override)
    assert line.startswith(f"{key}: ")
    for part in parts:
        assert part in line


def test_a_word_without_equals_is_named() -> None:
    assert mistakes("reprot") == ["'reprot' is not key=value"]


def test_all_mistakes_come_in_one_error() -> None:
    lines = mistakes("model=lama3", "seed=abc", "trainer.lerning_rate=3", "modle=x", "phases=[trian]", "reprot")
    assert len(lines) == 6
    assert [line.partition(":")[0] for line in lines] == [
        "model", "'reprot' is not key=value", "phases[0]", "seed", "modle", "trainer.lerning_rate",
    ]  # fmt: skip


def test_errors_of_the_objects_themselves_come_together_too() -> None:
    """A template that does not exist and an argument that rmx decides are refused by two constructors."""
    with pytest.raises(ConfigError) as caught:
        instantiate(compose(["template.name=nope", "peft=lora", "peft.extra={use_dora: true}"]))
    lines = str(caught.value).splitlines()
    assert {line.partition(":")[0] for line in lines} == {"template.name", "peft.extra.use_dora"}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


def test_a_typo_in_an_experiment_file_is_found_there(tmp_path: Path) -> None:
    write(tmp_path, "experiment/mine.yaml", "# @package _global_\ntrainer:\n  lerning_rate: 3\n")
    (line,) = mistakes("experiment=mine", config_dir=tmp_path)
    assert line.startswith("trainer.lerning_rate: ") and "did you mean trainer.learning_rate?" in line


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            "# @package _global_\ndefaults:\n  - override /model: lama3\n",
            "model has no option 'lama3'; did you mean llama3?",
        ),
        ("# @package _global_\ndefaults:\n  - override /modle: gpt2\n", "did you mean model?"),
        ("defaults:\n  - override /model: gpt2\n", "the first line of its file must be: # @package _global_"),
        ("trainer:\n  learning_rate: 3.0\n", "the first line of its file must be: # @package _global_"),
        ("# @package _global_\ntrainer: [a\n", "mine.yaml:3: not valid YAML"),
        ("# @package _global_\nseed: !!python/object/apply:os.getcwd []\n", "mine.yaml:2: not valid YAML"),
    ],
)
def test_a_broken_experiment_file_is_explained(tmp_path: Path, text: str, part: str) -> None:
    write(tmp_path, "experiment/mine.yaml", text)
    assert any(part in line for line in mistakes("experiment=mine", config_dir=tmp_path))


def test_a_broken_experiment_does_not_hide_other_mistakes(tmp_path: Path) -> None:
    write(tmp_path, "experiment/mine.yaml", "# @package _global_\ndefaults:\n  - override /model: lama3\n")
    lines = mistakes("experiment=mine", "seed=abc", config_dir=tmp_path)
    assert [line.partition(":")[0] for line in lines] == ["experiment=mine", "seed"]


def test_files_that_can_never_be_chosen_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "model/tiny.yaml", "name: x\n")
    (line,) = mistakes(config_dir=tmp_path)
    assert "model/tiny.yaml" in line and "rename it" in line


def test_missing_folders_and_files_are_named(tmp_path: Path) -> None:
    assert mistakes(config_dir=tmp_path / "nope")[0].startswith("--config-dir: there is no folder")
    write(tmp_path, "mine.yaml", "defaults:\n  - config\n")
    with pytest.raises(ConfigError, match=r"there is no mien.yaml; did you mean mine\?"):
        compose([], tmp_path, "mien")


def test_an_own_root_file_can_build_on_the_shipped_one(tmp_path: Path) -> None:
    write(tmp_path, "mine.yaml", "defaults:\n  - config\n  - _self_\nseed: 9\n")
    assert instantiate(compose([], tmp_path, "mine")).seed == 9


def test_run_yaml_repeats_the_run(tmp_path: Path) -> None:
    """run.yaml is a root file without choices: every key stands in it, and keys can still be set."""
    first = compose(["experiment=smoke", "peft=lora", "callbacks=[early_stopping]", "tags=[a,b]"])
    write(tmp_path, "run.yaml", run_yaml(first))
    again = compose(["seed=5"], tmp_path, "run")
    assert OmegaConf.to_container(again) == OmegaConf.to_container(first) | {"seed": 5}
    check(again)
    with pytest.raises(ConfigError, match=r"run.yaml chooses no options"):
        compose(["model=gpt2"], tmp_path, "run")


def test_a_sweep_over_run_yaml_has_the_shipped_sweep_settings(tmp_path: Path) -> None:
    write(tmp_path, "run.yaml", run_yaml(compose()))
    lines = Composer(tmp_path, "run").sweep_overrides(["seed=1,2", "hydra.sweep.dir=here", "trainer.adam_beta2=0.9"])
    assert lines[0] == "hydra/sweeper=rmx" and lines[-3:] == [
        "seed=1,2",
        "hydra.sweep.dir=here",
        "++trainer.adam_beta2=0.9",
    ]
    assert sum("hydra.sweep.dir" in line for line in lines) == 1
    assert Composer().sweep_overrides(["seed=1,2"]) == ["seed=1,2"]


def test_each_value_of_a_sweep_is_tried_once() -> None:
    """Two choices and an interval: the first of each, then one change at a time."""
    runs = Composer().single_runs(["peft=none,lora", "trainer.learning_rate=interval(1e-6,1e-3)", "seed=range(1,4)"])
    assert [run[2] for run in runs] == ["seed=1", "seed=1", "seed=1", "seed=2", "seed=3"]
    assert runs[1][0] == "peft=lora" and runs[2][1] == "trainer.learning_rate=0.001"


def test_run_yaml_keeps_text_that_looks_like_a_reference(tmp_path: Path) -> None:
    cfg = compose(["template.jinja='\\${seed} stays'"])
    assert instantiate(cfg).template.jinja == "${seed} stays"
    write(tmp_path, "run.yaml", run_yaml(cfg))
    assert instantiate(compose([], tmp_path, "run")).template.jinja == "${seed} stays"


ODD_KEYS = """
model data trainer callbacks experiment seed phases tags trainer.learning_rate data.size data.x.y loss.margin
loss._partial_ model._target_ _target_ hydra.x hydra/launcher hydra.run.dir hydra.job.name model@foo a/b seed.x phases.0
peft.r callbacks.x._target_ _convert_ + ++seed +seed ~seed ~model ~data.size hydra
"""
ODD_VALUES = """
tiny null 1 1e-5 true [a,b] [] {} {a:1} {_target_:os.system} ${seed} ${nope} ${model} ${oc.env:NOPE_X} ${hydra:run.dir}
??? 'x "q" a,b range(1,3) interval(0,1) [[1],{a:[2]}] \\ $ ${ } = @ lora nan é * glob(*) ${..seed} pkg://os sort(a,b)
int(3.2) extend_list(a)
"""


def test_no_words_on_the_command_line_end_in_a_traceback() -> None:
    """60 random overrides out of keys and values that are odd in some way: composed, checked, or refused in words."""
    draw, composer = random.Random(0), Composer()
    keys, values = ODD_KEYS.split(), ODD_VALUES.split()
    for _ in range(20):
        words = [draw.choice(keys) + draw.choice(["=", "=", "=", ""]) + draw.choice(values) for _ in range(3)]
        _, mistakes = composer.checked(words)
        assert all(str(mistake) for mistake in mistakes)
        for run in composer.single_runs(words):
            assert all(isinstance(word, str) for word in run)


def test_the_workflow_gets_the_text_that_repeats_it() -> None:
    workflow = instantiate(compose(["experiment=smoke", "seed=3"]))
    assert workflow.config is not None and "\nseed: 3\n" in workflow.config


def test_secrets_are_hidden_by_name_and_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_HUB_TOKEN", "hf_0123456789abcdef")
    cfg = compose(["trainer.hub_token=hf_zzz", "project=hf_0123456789abcdef", "tags=[x-hf_0123456789abcdef]"])
    text = run_yaml(cfg)
    assert "hf_" not in text
    assert "project: '***'" in text and "- x-***" in text and "hub_token: '***'" in text
    assert "max_tokens: 2048" in text


def test_error_messages_do_not_repeat_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-0123456789abcdef")
    lines = mistakes("seed=sk-0123456789abcdef", "trainer.hub_token=[hf_zzz]", "hub_token=hf_zzz")
    assert not any("sk-0" in line or "hf_zzz" in line for line in lines)


def test_a_configuration_that_contains_itself_is_refused() -> None:
    cfg = compose(["data=jsonl", "data.path=x"])
    cfg.data.columns = {"again": "${data}"}
    with pytest.raises(ConfigError, match=r"contains itself|cannot be resolved"):
        check(cfg)


def test_a_root_without_target_is_refused() -> None:
    for root in ({"seed": 1}, {"_target_": "rmx.templates.Template"}, {"_target_": "os.system", "command": "true"}):
        with pytest.raises(ConfigError, match=r"root of a configuration must have _target_: rmx.workflow.Workflow"):
            check(OmegaConf.create(root))


def test_callbacks_are_chosen_as_a_list_and_kept_by_name() -> None:
    callbacks = instantiate(compose(["callbacks=[early_stopping]"])).callbacks
    assert callbacks is not None and list(callbacks) == ["early_stopping"]
    assert type(callbacks["early_stopping"]).__name__ == "EarlyStoppingCallback"


def test_an_application_of_the_callers_own_is_left_as_it_was(tmp_path: Path) -> None:
    """rmx.compose inside someone's Hydra program: their global application is the same object afterwards."""
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        theirs = GlobalHydra.instance().hydra
        assert theirs is not None
        assert compose(["seed=3"]).seed == 3
        assert GlobalHydra.instance().hydra is theirs


def test_no_private_name_of_hydra_or_optuna_is_used() -> None:
    """The two are pinned to a minor version; what carries a promise is all that is used of them."""
    root = Path(__file__).resolve().parent.parent
    files = [path for folder in ("rmx", "hydra_plugins") for path in (root / folder).rglob("*.py")]
    private = re.compile(r"\b(?:hydra|optuna)(?:\.\w+)*\._\w+|from (?:hydra|optuna)[\w.]* import (?:.*, )?_")
    found = {str(path.relative_to(root)) for path in files if private.search(path.read_text(encoding="utf-8"))}
    assert len(files) > 100 and found == set()


def test_two_keys_of_one_command_line_of_which_one_does_nothing() -> None:
    """In files they may stand together: smoke.yaml gives max_steps to a trainer that has its epochs."""
    given = ["trainer.max_steps=3", "trainer.num_train_epochs=2", "trainer.eval_strategy=no", "trainer.eval_steps=4"]
    _, mistakes = Composer().checked(given)
    assert [str(mistake) for mistake in mistakes] == [
        "trainer.num_train_epochs: does nothing with trainer.max_steps=3; leave one of them out",
        "trainer.eval_steps: does nothing with trainer.eval_strategy='no'; leave one of them out",
    ]
    assert Composer().checked(["experiment=smoke", "trainer.num_train_epochs=2"])[1] == []


def test_a_file_kind_is_no_option_and_the_keys_of_an_unknown_option_are_not_judged() -> None:
    _, mistakes = Composer().checked(["data=csv", "data.path=prefs.csv"])
    assert len(mistakes) == 1
    assert str(mistakes[0]).startswith(
        "data: 'csv' is not an option; csv files are read by data=jsonl data.path=FILE.csv; options: "
    )


def test_keys_of_a_plan_are_refused_where_none_is_made() -> None:
    """In a file they stand beside what is trained: card_24gb.yaml."""
    _, mistakes = Composer().checked(["plan.device=h100"])
    told = "plan.device: does nothing without phases=[plan]; leave it out, or give that"
    assert [str(mistake) for mistake in mistakes] == [told]
    assert Composer().checked(["plan.device=h100", "phases=[plan]"])[1] == []
    assert Composer().checked(["experiment=card_24gb"])[1] == []
