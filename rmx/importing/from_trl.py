"""What keys of TRL's `reward.py` mean together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from rmx.config.shipped import conf_folder
from rmx.importing.command_words import read_file
from rmx.importing.rules import SHARED_RULES, said_with_the_dataset, set_adapter, set_evaluation, strategy_of
from rmx.importing.translating import Rule, Translation

__all__ = ["RULES_OF_TRL", "other_script"]

_OTHERS = ("sft", "dpo", "grpo", "kto", "rloo", "ppo", "orpo", "cpo", "gkd", "distillation", "prm", "online_dpo", "bco")


def other_script(script: str) -> str | None:
    """Return the other method that a script trains, or None.

    >>> other_script("trl sft"), other_script("examples/scripts/dpo.py"), other_script("trl.scripts.reward")
    ('sft', 'dpo', None)
    """
    last = re.split(r"[/. ]", script.removesuffix(".py"))[-1]
    return last if last in _OTHERS else None


def _files(t: Translation) -> None:
    """`--config FILE` is read before anything else; a file is merged below the flags."""
    if "config" in t.given:
        t.idle["config"] = "its keys are read as if they stood in the command"


def merged_config(keys: dict[str, Any]) -> dict[str, Any]:
    """Return the keys with those of `--config FILE` below them.

    Raises:
        ConfigError: the file cannot be read.
    """
    return {**(read_file(str(keys["config"])) if "config" in keys else {}), **keys}


def _dataset(t: Translation) -> None:
    """One dataset by its name, or a mixture; the test split is an evaluation set where there is evaluation."""
    sources = t.get("datasets")
    streaming = "dataset_streaming" if "dataset_streaming" in t.given else "streaming"
    name = t.get("dataset_name")
    if sources:
        _mixture(t, sources)
        t.lose("dataset_name", "`datasets` is given, and TRL reads that alone")
    elif not name:
        t.wrong("dataset_name", "is needed, as in --dataset_name trl-lib/ultrafeedback_binarized")
        return
    else:
        shipped = _shipped(str(name))
        t.set("data", shipped or "jsonl", by="dataset_name")
        if shipped is None:
            t.set("data.path", name, by="dataset_name")
        if t.says("dataset_config"):
            t.set("data.config", t.get("dataset_config"), by="dataset_config")
        if shipped is None or "dataset_train_split" in t.given:
            t.set("data.split", t.get("dataset_train_split") or "train", by="dataset_train_split")
    if streaming in t.given:
        t.set("data.streaming", t.get(streaming), by=streaming)
    _test_rows(t, mixture=bool(sources))


def _test_rows(t: Translation, *, mixture: bool) -> None:
    evaluates = strategy_of(t)[0] != "no"
    share = t.get("test_split_size")
    set_evaluation(t, has_rows=evaluates)
    if not evaluates:
        t.idle["test_split_size"] = "without eval_strategy nothing is evaluated"
    if evaluates and share:
        t.set("data.validation_fraction", share, by="test_split_size")
        return
    t.set("data.validation_fraction", 0, by="dataset_test_split")
    split = t.get("dataset_test_split") or "test"
    if evaluates and mixture:
        t.wrong("datasets", "with evaluation there must be rows for it: give test_split_size as well")
    elif evaluates:
        t.set("data.eval_sets", {"test": {"split": split}}, by="dataset_test_split")
    else:
        t.idle["dataset_test_split"] = "without eval_strategy nothing is evaluated"


def _mixture(t: Translation, sources: Any) -> None:
    """`datasets` of DatasetMixtureConfig: a list of path, name, data_dir, data_files, split, columns."""
    if not isinstance(sources, list) or not all(isinstance(item, dict) and item.get("path") for item in sources):
        t.wrong("datasets", "is a list of mappings with a path each")
        return
    ours: dict[str, dict[str, Any]] = {}
    for item in sources:
        label = re.sub(r"\W+", "_", str(item["path"]).rpartition("/")[2]) or "rows"
        while label in ours:
            label += "_2"
        keys = {"path": item["path"], "config": item.get("name"), "split": item.get("split", "train")}
        if files := item.get("data_files"):
            keys = {"path": files}
        ours[label] = {key: value for key, value in keys.items() if value is not None}
        for left in set(item) - {"path", "name", "split", "data_files"}:
            t.lost[f"datasets.{label}.{left}"] = "see data.columns, or give the files themselves as path"
    t.set("data", "mixture", by="datasets")
    t.set("data.sources", ours, by="datasets")


def _shipped(path: str) -> str | None:
    """The file of conf/data/ for this dataset, if there is one."""
    for file in sorted((conf_folder() / "data").glob("*.yaml")):
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        if content.get("path") == path:
            return file.stem
    return None


def _length(t: Translation) -> None:
    """Rows with a response that is too long are left out, as they are in TRL."""
    tokens = t.given.get("max_length", 1024)
    if tokens is None or str(tokens).lower() == "none":
        t.lose("max_length", "there is always a limit: data.max_tokens=2048, longer prompts lose their beginning")
        return
    t.set("data.max_tokens", tokens, by="max_length")
    t.set("data.truncation", "drop", by="max_length")


def _template(t: Translation) -> None:
    """A Jinja file is one here, too; a tokenizer's folder is not read for its template alone."""
    path = t.get("chat_template_path")
    if not path:
        return
    if str(path).endswith((".jinja", ".j2")):
        t.set("template.path", path, by="chat_template_path")
    else:
        t.lose("chat_template_path", "save that tokenizer's chat_template to a file, and add template.path=FILE.jinja")


def _dtype(t: Translation) -> None:
    """TRL loads float32 weights unless told otherwise; rmx does so in full training, and keeps a frozen base's own."""
    value = str(t.given.get("dtype", "float32")).removeprefix("torch.")
    short = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    value = short.get(value, value)
    if value not in ("auto", "float32", "bfloat16", "float16"):
        t.lose("dtype", "rmx takes auto, float32, bfloat16 and float16")
    elif value == "auto" and not t.says("use_peft"):
        t.lose("dtype", "in full training the weights are float32: they are the optimizer's copy")
    elif value == "float32" and (not t.says("use_peft") or t.says("load_in_4bit") or t.says("load_in_8bit")):
        t.idle["dtype"] = "weights that are trained are float32"
    else:
        t.set("model.dtype", value, by="dtype")


def _adapter(t: Translation) -> None:
    """`use_peft` with what belongs to it; without it the other keys do nothing, in TRL as here."""
    keys = (
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_target_modules",
        "lora_modules_to_save",
        "use_rslora",
        "use_dora",
    )
    if not t.says("use_peft"):
        for key in (*keys, "use_bnb_nested_quant"):
            t.idle[key] = "without use_peft it does nothing"
        for key in ("load_in_4bit", "load_in_8bit"):
            if t.says(key):
                t.wrong(key, "weights in few bits are trained under an adapter only: give use_peft as well")
        return
    kinds = {"load_in_4bit": "qlora", "use_dora": "dora", "use_rslora": "rslora"}
    by = next((key for key in kinds if t.says(key)), "use_peft")
    chosen = kinds.get(by, "lora")
    for key in kinds:
        if t.says(key) and key != by:
            t.lose(key, f"one kind of adapter at a time: peft={chosen} is taken")
    set_adapter(
        t, chosen, by, r=(t.get("lora_r") or 16, "lora_r"), alpha=(t.get("lora_alpha") or 32, "lora_alpha"),
        dropout=(t.given.get("lora_dropout", 0.05), "lora_dropout"),
    )  # fmt: skip
    t.set("peft", chosen, by="use_peft")
    if t.says("load_in_8bit"):
        t.set("model.quantization", "8bit", by="load_in_8bit")
    layers = t.get("lora_target_modules")
    if layers:
        set_adapter(t, chosen, by, target_modules=(layers, "lora_target_modules"))
    else:
        t.set("peft.target_modules", ["q_proj", "v_proj"], by="lora_target_modules")
        how = "where no layers are named, peft has them by model family, for most q_proj and v_proj"
        t.differ("use_peft", f"{how}; peft.target_modules=auto takes every linear layer")
    saved = t.get("lora_modules_to_save") or []
    if set([saved] if isinstance(saved, str) else saved) - {"score", "classifier"}:
        t.lose("lora_modules_to_save", "beside the adapter the head alone is trained, always")
    if t.says("load_in_4bit") and not t.says("use_bnb_nested_quant"):
        t.differ("load_in_4bit", "4-bit weights are always quantised twice, which saves 0.4 bits a weight")


RULES_OF_TRL: dict[str, Rule] = SHARED_RULES | {
    "files": _files,
    "dataset": _dataset,
    "length": _length,
    "template": _template,
    "dtype": _dtype,
    "adapter": _adapter,
    "evaluation": said_with_the_dataset,
}
