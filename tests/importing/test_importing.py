"""`rmx import`: every key of the three interfaces is known, and what is printed makes a run."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from rmx.cli import main
from rmx.cli.importing import imported
from rmx.config import compose, instantiate
from rmx.errors import ConfigError
from rmx.importing.command_words import read_words
from rmx.importing.from_llamafactory import RULES_OF_LLAMAFACTORY
from rmx.importing.from_openrlhf import RULES_OF_OPENRLHF, as_it_stands
from rmx.importing.from_trl import RULES_OF_TRL
from rmx.importing.pages import write_pages
from rmx.importing.peer_tables import PEERS, peer_table
from rmx.importing.translating import Translation

ROOT = Path(__file__).parents[2]
RULES = {"llamafactory": RULES_OF_LLAMAFACTORY, "trl": RULES_OF_TRL, "openrlhf": RULES_OF_OPENRLHF}
LEAST: dict[str, dict[str, Any]] = {
    "llamafactory": {"model_name_or_path": "org/x", "stage": "rm", "do_train": True, "dataset": "pairs"},
    "trl": {"model_name_or_path": "org/x", "dataset_name": "pairs.jsonl"},
    "openrlhf": {"model.model_name_or_path": "org/x", "data.dataset": "pairs.jsonl"},
}
# Names of classes and flags as they stand in the sources, read with ast; see the file for the commits.
RECORDED = json.loads((Path(__file__).parent / "interfaces.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("program", "owner", "key"),
    [
        (program, owner, key)
        for program, content in RECORDED.items()
        for owner, keys in content["classes"].items()
        for key in keys
    ],
)
def test_every_recorded_key_is_in_the_table(program: str, owner: str, key: str) -> None:
    assert key in peer_table(program).entries


def test_every_key_of_the_installed_trl_is_in_its_table_and_no_other() -> None:
    """The table's sections are the dataclasses that `trl reward` is made of; the rest is transformers'."""
    from transformers import TrainingArguments
    from trl import DatasetMixtureConfig, ModelConfig, RewardConfig, ScriptArguments

    entries = peer_table("trl").entries
    of_transformers = {item.name for item in dataclasses.fields(TrainingArguments)}
    for cls in (RewardConfig, ModelConfig, ScriptArguments, DatasetMixtureConfig):
        names = {item.name for item in dataclasses.fields(cls)}
        assert names - entries.keys() == set()
        section = {entry.name for entry in entries.values() if entry.section == cls.__name__}
        assert section - names == set()
        assert names - section - of_transformers == set()


def test_defaults_in_the_tables_are_those_of_the_installed_trl_and_transformers() -> None:
    """A default that rmx does not share is written into the command, so it has to be the real one."""
    from trl import ModelConfig, RewardConfig, ScriptArguments

    checked = 0
    for cls in (RewardConfig, ModelConfig, ScriptArguments):
        for item in dataclasses.fields(cls):
            entry = peer_table("trl").entries[item.name]
            if entry.to is not None and isinstance(entry.default, int | float | str | None):
                assert item.default == entry.default, item.name
                checked += 1
    assert checked > 10


@pytest.mark.parametrize("program", PEERS)
def test_no_key_is_dropped(program: str) -> None:
    """A strange value, alone beside what is needed, is in the command, without a counterpart, refused, or explained.

    What must not happen is the last resort of the account, "asks for nothing that is not so anyway".
    """
    table = peer_table(program)
    dropped = []
    for entry in table.entries.values():
        t = Translation(table, {**LEAST[program], entry.name: LEAST[program].get(entry.name, 7)})
        t.translate(RULES[program])
        where = entry.name in t.carried, entry.name in t.lost, entry.name in t.differs, entry.name in t.idle
        known = any(where) or any(entry.name == mistake.key for mistake in t.mistakes)
        if not known or t.idle.get(entry.name) == "asks for nothing that is not so anyway":
            dropped.append(entry.name)
    assert " ".join(dropped) == ""


def test_unknown_keys_are_named_with_what_was_meant() -> None:
    run = imported("trl", ["trl reward --model_name_or_path x --dataset_name a.jsonl --learning_rat 1 --zzz"])
    assert run.translation.lost == {
        "learning_rat": "is no key of TRL 1.16; did you mean learning_rate?",
        "zzz": "is no key of TRL 1.16",
    }
    assert "#   zzz: true: is no key of TRL 1.16" in run.text()


def words_of(text: str) -> list[str]:
    """The overrides of the command that was printed, as a shell reads them."""
    command = text.partition("\n#")[0].replace("\\\n", " ")
    return shlex.split(command)[1:]


def test_llamafactory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LoRA with rank 8 has alpha 16 there; a warm-up of a tenth; the share held out; no tracker; a new start."""
    file = tmp_path / "rm.yaml"
    file.write_text(
        "model_name_or_path: org/llama\nstage: rm\ndo_train: true\nfinetuning_type: lora\nlora_target: q_proj,v_proj\n"
        "dataset: one, two\ndataset_dir: lf data\ntemplate: llama3\ncutoff_len: 1024\nval_size: 0.1\n"
        "eval_strategy: steps\neval_steps: 50\nlearning_rate: 1e-4\nlr_scheduler_type: cosine\nwarmup_ratio: 0.1\n"
        "bf16: true\noverwrite_output_dir: true\noutput_dir: saves/rm\npreprocessing_num_workers: 16\n"
        "hf_hub_token: hf_secret\n"
    )
    assert main(["import", "llamafactory", str(file), "per_device_train_batch_size=2"]) == 0
    text = capsys.readouterr().out
    assert "hf_secret" not in text and "hf_hub_token: ***" in text
    cfg = compose(words_of(text))
    assert (cfg.data.path, list(cfg.data.dataset), cfg.data.max_tokens) == ("lf data", ["one", "two"], 1024)
    assert (cfg.peft.r, cfg.peft.alpha, list(cfg.peft.target_modules)) == (8, 16, ["q_proj", "v_proj"])
    trainer = cfg.trainer
    assert (trainer.learning_rate, trainer.warmup_steps, trainer.lr_scheduler_type) == (1e-4, 0.1, "cosine")
    assert (trainer.per_device_train_batch_size, trainer.gradient_accumulation_steps) == (2, 1)
    assert (trainer.num_train_epochs, trainer.eval_strategy, trainer.eval_steps) == (3.0, "steps", 50)
    assert (trainer.load_best_model_at_end, trainer.save_total_limit, trainer.save_steps) == (False, None, 500)
    assert (trainer.precision, cfg.model.dtype, cfg.template.name) == ("bf16", "bfloat16", "llama3")
    assert (cfg.phases, cfg.trackers, cfg.resume, cfg.output_dir) == (["train", "eval"], [], "never", "saves/rm")
    assert "#   cutoff_len: 1024: LLaMA-Factory cuts" in text
    assert instantiate(cfg).data.validation_fraction == 0.1


def test_llamafactory_without_evaluation_rows_evaluates_nothing(tmp_path: Path) -> None:
    file = tmp_path / "rm.json"
    file.write_text(json.dumps({**LEAST["llamafactory"], "finetuning_type": "full", "dataset": ["a"]}))
    cfg = compose(imported("llamafactory", [f"FORCE_TORCHRUN=1 llamafactory-cli train {file}"]).words)
    assert (cfg.peft, cfg.phases, cfg.trainer.eval_strategy) == (None, ["train"], "no")
    assert (cfg.data.validation_fraction, cfg.trainer.precision) == (0, "fp32")


def test_llamafactory_interleaves(tmp_path: Path) -> None:
    """Two entries in shares 0.7 and 0.3, the shorter one again until the longer one ends."""
    file = tmp_path / "rm.yaml"
    file.write_text(
        "model_name_or_path: org/x\nstage: rm\ndo_train: true\ndataset: a,b\nmix_strategy: interleave_over\n"
        "interleave_probs: 0.7,0.3\nval_size: 0.2\ndo_eval: true\n"
    )
    data = instantiate(compose(imported("llamafactory", [str(file)]).words)).data
    assert (data.weights, data.stop, data.order) == ({"a": 0.7, "b": 0.3}, "all_exhausted", "interleave")
    assert data.sources["a"].datasets == ["a"]


def test_trl() -> None:
    """TRL's defaults: 3 epochs of steps of 8 pairs, linearly down from 1e-4, pairs above 1024 tokens left out."""
    command = (
        "CUDA_VISIBLE_DEVICES=0,1 accelerate launch --multi_gpu --num_processes 2 reward.py --model_name_or_path org/x "
        "--dataset_name org/pairs --eval_strategy steps --logging-steps 5 --center_rewards_coefficient=1e-2 --bf16 "
        "--report_to wandb tensorboard --adam_beta2 0.95"
    )
    run = imported("trl", [command])
    cfg = compose(run.words)
    assert (cfg.trainer.learning_rate, cfg.trainer.num_train_epochs, cfg.trainer.lr_scheduler_type) == (
        1e-4,
        3,
        "linear",
    )
    assert (cfg.trainer.per_device_train_batch_size, cfg.trainer.gradient_accumulation_steps) == (8, 1)
    assert (cfg.data.max_tokens, cfg.data.truncation, cfg.data.path) == (1024, "drop", "org/pairs")
    assert (cfg.trainer.eval_steps, cfg.trainer.adam_beta2, cfg.trainer.precision) == (5, 0.95, "bf16")
    assert (cfg.loss.center_coefficient, cfg.parallel.processes, cfg.peft) == (0.01, 2, None)
    assert (cfg.data.eval_sets, cfg.data.validation_fraction) == ({"test": {"split": "test"}}, 0)
    assert list(cfg.trackers) == ["wandb", "tensorboard"]
    assert run.launcher == {"CUDA_VISIBLE_DEVICES": "0,1", "multi_gpu": True}
    assert "#   multi_gpu: true: of the launcher, and not read" in run.text()


def test_secrets_are_not_repeated() -> None:
    """In a variable before the command, in a key that is known, and in one that is not."""
    command = (
        "WANDB_API_KEY=s3cret-1 trl reward --model_name_or_path x --dataset_name a.jsonl --hub_token s3cret-2 "
        "--swanlab_api_key s3cret-3"
    )
    text = imported("trl", [command]).text()
    assert "s3cret" not in text
    assert text.count("***") == 3


def test_trl_reads_its_config_file_below_the_flags(tmp_path: Path) -> None:
    file = tmp_path / "reward.yaml"
    file.write_text(
        "model_name_or_path: org/x\ndataset_name: pairs.jsonl\nlearning_rate: 3e-5\neval_strategy: no\nseed: 5\n"
    )
    cfg = compose(imported("trl", ["trl", "reward", "--config", str(file), "--learning_rate", "2e-5"]).words)
    assert (cfg.trainer.learning_rate, cfg.seed, cfg.trainer.eval_strategy) == (2e-5, 5, "no")


def test_trl_adapters() -> None:
    """peft's own choice of layers where none are named; TRL's dropout of 0.05; QLoRA for 4 bits."""
    base = "trl reward --model_name_or_path org/x --dataset_name pairs.jsonl --use_peft"
    cfg = compose(imported("trl", [base]).words)
    assert (cfg.peft.kind, cfg.peft.r, cfg.peft.alpha, cfg.peft.dropout) == ("lora", 16, 32.0, 0.05)
    assert (list(cfg.peft.target_modules), cfg.model.dtype) == (["q_proj", "v_proj"], "float32")
    cfg = compose(imported("trl", [base + " --load_in_4bit --lora_target_modules all-linear --lora_r 4"]).words)
    assert (cfg.peft.kind, cfg.peft.r, cfg.peft.target_modules) == ("qlora", 4, "auto")


def test_openrlhf() -> None:
    """Sizes of the whole job, AdamW's 0.95, a lowest rate of a tenth, evaluation once an epoch on a hundredth."""
    command = (
        "deepspeed --module openrlhf.cli.train_rm --model.model_name_or_path org/x --data.dataset a.jsonl,b.jsonl "
        "--data.dataset_probs 0.9,0.1 --data.apply_chat_template --train.batch_size 256 --ds.lora.rank 8 "
        "--logger.wandb.key abcdef --ds.zero_stage 3 --data.max_len 4096"
    )
    run = imported("openrlhf", [command])
    assert "abcdef" not in run.text()
    cfg = compose(run.words)
    assert (cfg.trainer.comparisons_per_step, cfg.trainer.learning_rate, cfg.trainer.adam_beta2) == (256, 9e-6, 0.95)
    assert (cfg.trainer.lr_scheduler_type, cfg.trainer.lr_scheduler_kwargs) == (
        "cosine_with_min_lr",
        {"min_lr_rate": 0.1},
    )
    assert (cfg.trainer.eval_strategy, cfg.trainer.save_strategy, cfg.data.validation_fraction) == ("epoch", "no", 0.01)
    assert (cfg.data.weights, cfg.data.stop, cfg.data.max_tokens) == ({"a": 0.9, "b": 0.1}, "all_exhausted", 4096)
    assert (cfg.peft.r, cfg.peft.alpha, cfg.trackers) == (8, 16, ["wandb"])
    assert "ds.zero_stage" in run.translation.lost


def test_openrlhf_flags_of_before() -> None:
    command = "python -m openrlhf.cli.train_rm --pretrain org/x --dataset a.jsonl --l2 0.1 --adam_betas 0.9 0.99"
    cfg = compose(imported("openrlhf", command.split()).words)
    assert (cfg.model.path, cfg.trainer.weight_decay, cfg.trainer.adam_beta2) == ("org/x", 0.1, 0.99)


def test_openrlhf_templates_survive_the_command_line() -> None:
    """Text with quotes, braces and a line break comes out of Hydra's grammar as it went in."""
    form = 'It\'s: "{}"\nA: '
    words = ["--model.model_name_or_path", "x", "--data.dataset", "a.jsonl", "--data.input_template", form]
    run = imported("openrlhf", ["-m", "openrlhf.cli.train_rm", *words])
    assert compose(words_of(run.text())).template.jinja == as_it_stands("It's: \"", '"\nA: ')


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["axolotl", "x.yaml"], "give one of llamafactory, trl, openrlhf"),
        (["trl"], "give a file or a command"),
        (["trl", "trl sft --model_name_or_path x"], "trains by sft"),
        (["openrlhf", "python -m openrlhf.cli.train_dpo --pretrain x"], "trains by train_dpo"),
        (["trl", "trl reward --dataset_name a.jsonl"], "model_name_or_path: is needed"),
        (["trl", "trl reward --model_name_or_path x"], "dataset_name: is needed"),
        (["trl", "trl reward --model_name_or_path $MODEL"], "holds a variable of the shell"),
        (["trl", "trl reward --seed 1 --seed 2 --model_name_or_path x --dataset_name y"], "seed: is given twice"),
        (["trl", "trl reward --model_name_or_path x --dataset_name y --load_in_4bit"], "give use_peft as well"),
        (["trl", "trl reward --model_name_or_path x --dataset_name y --seed a"], "seed (seed): 'a' is not an integer"),
        (["trl", "trl 'reward"], "cannot be split into words"),
        (["llamafactory", "nothing.yaml"], "nothing.yaml: cannot be read"),
        (["openrlhf", "-m x --pretrain x --dataset a,b --dataset_probs 1"], "1 shares for 2 datasets"),
    ],
)
def test_wrong_input_ends_with_its_reason(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", *words]) == 2
    out, err = capsys.readouterr()
    assert message in err and "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage: dpo\n", "stage: dpo is not a reward model"),
        ("model_name_or_path: x\n", "sft, LLaMA-Factory's default"),
        ("stage: rm\ndo_train: true\ndataset_dir: ONLINE\ndataset: a\n", "ONLINE is not a folder"),
        ("stage: rm\ndataset: a\n", "nothing would be done"),
        ("stage: rm\ndo_train: true\ndataset: a\ndo_eval: true\n", "evaluation needs rows"),
        ("- a\n", "holds no keys"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_wrong_files_end_with_their_reason(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "rm.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        imported("llamafactory", [str(file)])


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--help"]) == 0
    assert "rmx import openrlhf" in capsys.readouterr().out


def test_words_without_a_value_and_with_several() -> None:
    given = read_words(["torchrun --nproc-per-node=2 --nnodes 1 x.py --a --no_b --c 1 -1 --d=e f"])
    assert given.keys == {"processes": 2, "a": True, "b": False, "c": [1, -1], "d": ["e", "f"]}
    assert given.launcher == {"nnodes": 1}


def test_pages_are_written_from_the_tables(tmp_path: Path) -> None:
    """`make coming-from` has been run."""
    write_pages(tmp_path)
    for name in PEERS:
        assert (tmp_path / f"{name}.md").read_text() == (ROOT / "docs" / "coming_from" / f"{name}.md").read_text()
