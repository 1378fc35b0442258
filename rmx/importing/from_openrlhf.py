"""What flags of OpenRLHF's train_rm mean together."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from rmx.importing.rules import set_adapter
from rmx.importing.translating import Rule, Translation

__all__ = ["RULES_OF_OPENRLHF"]


def _dataset(t: Translation) -> None:
    """Paths by commas, joined or drawn by shares, and the evaluation rows."""
    paths = [path.strip() for path in str(t.get("data.dataset") or "").split(",") if path.strip()]
    if not paths:
        t.wrong("data.dataset", "is needed: a file, a folder or a dataset of the hub")
        return
    split = str(t.get("data.dataset_split") or "train")
    places = [_place(t, "data.dataset", path, split) for path in paths]
    if not any("split" in place for place in places):
        t.idle["data.dataset_split"] = "a file has one split, and of a hub's dataset train is taken anyway"
    if len(places) == 1:
        t.set("data", "jsonl", by="data.dataset")
        for key, value in places[0].items():
            t.set(f"data.{key}", value, by="data.dataset" if key == "path" else "data.dataset_split")
        if "data.dataset_probs" in t.given:
            t.idle["data.dataset_probs"] = "there is one dataset"
    else:
        _mixture(t, paths, places)
    most = t.get("data.max_samples")
    if most is not None:
        t.set("data.max_samples", most, by="data.max_samples")
    _evaluation(t)


def _mixture(t: Translation, paths: list[str], places: list[dict[str, Any]]) -> None:
    labels: list[str] = []
    for path in paths:
        stem = PurePosixPath(path.partition("@")[0]).name.partition(".")[0] or "rows"
        labels.append(stem if stem not in labels else f"{stem}_{len(labels) + 1}")
    t.set("data", "mixture", by="data.dataset")
    t.set("data.sources", dict(zip(labels, places, strict=True)), by="data.dataset")
    shares = t.numbers("data.dataset_probs")
    if shares and len(shares) != len(labels):
        t.wrong("data.dataset_probs", f"{len(shares)} shares for {len(labels)} datasets")
    elif shares:
        t.set("data.order", "interleave", by="data.dataset_probs")
        t.set("data.stop", "all_exhausted", by="data.dataset_probs")
        t.set("data.weights", dict(zip(labels, shares, strict=True)), by="data.dataset_probs")


def _place(t: Translation, key: str, path: str, split: str) -> dict[str, Any]:
    """Where one dataset is: `path@folder` names a folder of a hub's dataset."""
    name, _, folder = path.partition("@")
    if folder:
        t.lose(key, f"the folder {folder} of {name}: download it, and give it as data.path")
    is_file = PurePosixPath(name).suffix in (".json", ".jsonl", ".csv", ".parquet", ".arrow")
    return {"path": name.strip()} | ({} if is_file or split == "train" else {"split": split})


def _evaluation(t: Translation) -> None:
    given = str(t.get("eval.dataset") or "")
    t.idle["eval.split"] = "a file has one split, and without eval.dataset rows of training are held out"
    if not given:
        t.set("data.validation_fraction", 0.01, by="eval.dataset")
        return
    paths = [path.strip() for path in given.split(",") if path.strip()]
    split = str(t.get("eval.split") or "train")
    sets: dict[str, Any] = {}
    for number, path in enumerate(paths, start=1):
        place = _place(t, "eval.dataset", path, split)
        sets["eval" if len(paths) == 1 else f"eval{number}"] = place if len(place) > 1 else place["path"]
    t.set("data.validation_fraction", 0, by="eval.dataset")
    t.set("data.eval_sets", sets, by="eval.dataset")


def _columns(t: Translation) -> None:
    """Names of columns that are not the usual ones; without a prompt's, whole texts are compared."""
    names = {part: t.get(f"data.{part}_key") for part in ("prompt", "chosen", "rejected")}
    renamed = {part: name for part, name in names.items() if name and name != part}
    in_mixture = t.words.get("data") is not None and t.words["data"].value == "mixture"
    for part, name in names.items():
        key = f"data.{part}_key"
        if name and name != part and in_mixture:
            t.lose(key, "in a mixture each source has its columns: data.sources.NAME.columns={...}")
        elif name and name != part:
            t.set("data.columns", renamed, by=key)
        else:
            t.idle[key] = "a column of this name is found by itself"


def _template(t: Translation) -> None:
    """The model's template, a template of one's own, or the text as it stands."""
    own, form = t.get("data.tokenizer_chat_template"), t.get("data.input_template")
    if t.says("data.apply_chat_template"):
        t.set("template", "auto", by="data.apply_chat_template")
        if own:
            t.set("template.jinja", own, by="data.tokenizer_chat_template")
        if form:
            t.idle["data.input_template"] = "with apply_chat_template it is not used"
        return
    if own:
        t.idle["data.tokenizer_chat_template"] = "without apply_chat_template it is not used"
    before, hole, after = str(form).partition("{}") if form else ("", "", "")
    if form and not hole:
        t.lose("data.input_template", "has no {} for the prompt, and OpenRLHF does not use it either")
        before = after = ""
    t.set("template", "auto", by="data.apply_chat_template")
    t.set(
        "template.jinja", as_it_stands(before, after), by="data.input_template" if hole else "data.apply_chat_template"
    )
    t.differ(
        "data.input_template" if hole else "data.apply_chat_template",
        "text goes in as it stands, with the end token behind it; template=auto is the model's own template",
    )


def as_it_stands(before: str, after: str) -> str:
    """Return a Jinja template for a prompt between two texts, the response and the end token.

    >>> as_it_stands("", "")
    '{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}'
    >>> as_it_stands("User: ", " ")[23:75]
    '{% if m.role == "user" %}User: {{ m.content }} {% el'
    """
    prompt = (
        f'{{% if m.role == "user" %}}{before}{{{{ m.content }}}}{after}{{% else %}}{{{{ m.content }}}}{{% endif %}}'
    )
    each = prompt if before or after else "{{ m.content }}"
    return f"{{% for m in messages %}}{each}{{% endfor %}}{{{{ eos_token }}}}"


def _adapter(t: Translation) -> None:
    """LoRA where the rank is above 0."""
    rank = t.get("ds.lora.rank") or 0
    if not rank:
        for key in ("ds.lora.rank", "ds.lora.alpha", "ds.lora.dropout", "ds.lora.target_modules"):
            t.idle[key] = "without a rank above 0 there is no adapter"
        if t.says("ds.load_in_4bit"):
            t.wrong("ds.load_in_4bit", "weights in few bits are trained under an adapter only: give ds.lora.rank")
        return
    kind = "qlora" if t.says("ds.load_in_4bit") else "lora"
    set_adapter(
        t, kind, "ds.lora.rank", r=(rank, "ds.lora.rank"),
        alpha=(t.given.get("ds.lora.alpha", 16), "ds.lora.alpha"),
        dropout=(t.given.get("ds.lora.dropout", 0), "ds.lora.dropout"),
        target_modules=(t.given.get("ds.lora.target_modules", "all-linear"), "ds.lora.target_modules"),
    )  # fmt: skip
    if kind == "qlora":
        t.set("peft", kind, by="ds.load_in_4bit")


def _margin(t: Translation) -> None:
    """rmx reads a column of margins wherever there is one; OpenRLHF only when it is asked to."""
    if t.says("model.margin_loss_enable"):
        t.idle["model.margin_loss_enable"] = "a column `margin` is always read"
    else:
        t.differ(
            "model.margin_loss_enable",
            "a column `margin` is always read here; where rows have one, and OpenRLHF did not use it, rename it",
        )


def _betas(t: Translation) -> None:
    """Two numbers are two keys."""
    pair = t.given.get("adam.betas", [0.9, 0.95])
    if not isinstance(pair, list) or len(pair) != 2:
        t.wrong("adam.betas", f"{pair} is not two numbers")
        return
    if pair[0] != 0.9:  # what AdamW has anyway
        t.set("trainer.adam_beta1", pair[0], by="adam.betas")
    t.set("trainer.adam_beta2", pair[1], by="adam.betas")


def _schedule(t: Translation) -> None:
    """The schedule, and where it ends."""
    name = str(t.get("lr_scheduler") or "cosine_with_min_lr")
    t.set("trainer.lr_scheduler_type", name, by="lr_scheduler")
    if "min_lr" in name:
        share = t.given.get("min_lr_ratio", 0.1)
        t.set("trainer.lr_scheduler_kwargs", {"min_lr_rate": share}, by="min_lr_ratio")
    else:
        t.idle["min_lr_ratio"] = f"{name} has no lowest rate"


def _saving(t: Translation) -> None:
    """-1 is never for checkpoints, and once an epoch for evaluation."""
    steps = t.given.get("ckpt.save_steps", -1)
    t.set("trainer.save_strategy", "no" if steps == -1 else "steps", by="ckpt.save_steps")
    if steps != -1:
        t.set("trainer.save_steps", steps, by="ckpt.save_steps")
    t.set("trainer.load_best_model_at_end", False, by="ckpt.save_steps")
    t.set("phases", ["train", "eval"], by="eval.steps")
    every = t.given.get("eval.steps", -1)
    t.set("trainer.eval_strategy", "epoch" if every == -1 else "steps", by="eval.steps")
    if every != -1:
        t.set("trainer.eval_steps", every, by="eval.steps")


def _trackers(t: Translation) -> None:
    """Where numbers go; a key is never written into a command."""
    used = {"wandb": "logger.wandb.key", "tensorboard": "logger.tensorboard_dir"}
    chosen = [name for name, key in used.items() if t.says(key)]
    for key in used.values():
        t.set("trackers", chosen, by=key)
    if t.says("logger.wandb.key"):
        t.differ("logger.wandb.key", "keys do not belong into commands: set the environment variable WANDB_API_KEY")
    if "logger.wandb.project" in t.given:
        t.set("project", t.given["logger.wandb.project"], by="logger.wandb.project")
    if t.says("logger.tensorboard_dir"):
        t.differ("logger.tensorboard_dir", "TensorBoard's files lie in the run folder")


def _tensor(t: Translation) -> None:
    """Processes that compute every layer together."""
    size = t.get("ds.tensor_parallel_size") or 1
    if size != 1:
        t.set("parallel", "fsdp_tp", by="ds.tensor_parallel_size")
        t.set("parallel.tensor", size, by="ds.tensor_parallel_size")


RULES_OF_OPENRLHF: dict[str, Rule] = {
    "dataset": _dataset,
    "columns": _columns,
    "template": _template,
    "adapter": _adapter,
    "margin": _margin,
    "betas": _betas,
    "schedule": _schedule,
    "saving": _saving,
    "trackers": _trackers,
    "tensor": _tensor,
}
