"""What keys of transformers mean together: TRL and LLaMA-Factory share them."""

from __future__ import annotations

from typing import Any

from rmx.importing.translating import Rule, Translation

__all__ = ["SHARED_RULES", "said_with_the_dataset", "set_adapter", "set_evaluation", "strategy_of"]

_TRACKERS = ("wandb", "tensorboard", "trackio", "mlflow", "comet_ml", "clearml", "neptune", "swanlab")
_ALL_LINEAR = ("all", "all-linear", "auto")


def _warmup(t: Translation) -> None:
    """Steps go before a share of all steps; transformers does it so, too."""
    steps, share = t.get("warmup_steps"), t.get("warmup_ratio")
    by = "warmup_steps" if steps or not share else "warmup_ratio"
    t.set("trainer.warmup_steps", (steps if by == "warmup_steps" else share) or 0, by=by)
    if by == "warmup_steps" and share:
        t.idle["warmup_ratio"] = "warmup_steps goes before it"


def strategy_of(t: Translation) -> tuple[str, str]:
    """Return when evaluation happens, no, steps or epoch, and the key that says it."""
    by = "evaluation_strategy" if "evaluation_strategy" in t.given else "eval_strategy"
    value = t.given.get(by, "no")
    return ("no" if value in (None, False) else str(value)), by


def set_evaluation(t: Translation, *, has_rows: bool) -> None:
    """Say when to evaluate; the rule `evaluation` of each program knows whether there are rows to do it on."""
    when, by = strategy_of(t)
    when = when if has_rows else "no"
    t.set("trainer.eval_strategy", when, by=by)
    if when == "steps":
        every = "eval_steps" if t.get("eval_steps") else "logging_steps"
        t.set("trainer.eval_steps", t.get(every), by=every)
    elif "eval_steps" in t.given:
        t.idle["eval_steps"] = f"evaluation goes by {when}"


def said_with_the_dataset(t: Translation) -> None:
    """The rule of keys that the rule `dataset` translates, which knows whether there are rows to evaluate on."""


def _trackers(t: Translation) -> None:
    """`report_to` is one name, several, all or none; swanlab has a switch of its own in LLaMA-Factory."""
    asked: Any = t.given.get("report_to", "none")
    names = [str(name) for name in (asked if isinstance(asked, list) else [asked])]
    if "all" in names:
        t.differ("report_to", "all means whatever is installed; rmx is told by name, so add trackers=[...]")
    known = [name for name in names if name in _TRACKERS]
    unknown = [name for name in names if name not in (*_TRACKERS, "none", "None", "all")]
    if unknown:
        t.lose("report_to", f"{', '.join(unknown)}: trackers are {', '.join(_TRACKERS)}")
    if t.says("use_swanlab"):
        known.append("swanlab")
        t.set("trackers", known, by="use_swanlab")
    t.set("trackers", known, by="report_to")


def _phases(t: Translation) -> None:
    """`do_train`, `do_eval` and `do_predict`; a program that always trains has no use for the first."""
    evaluates = bool(t.given.get("do_eval")) or strategy_of(t)[0] != "no"
    trains = t.given.get("do_train", t.table.name == "trl")
    wanted = {"train": trains, "eval": evaluates, "predict": t.given.get("do_predict")}
    chosen = [name for name, wish in wanted.items() if wish]
    if not chosen:
        t.wrong("do_train", "neither do_train nor do_eval nor do_predict is true: nothing would be done")
    for key in ("do_train", "do_eval", "do_predict"):
        t.set("phases", chosen, by=key)


def _upload(t: Translation) -> None:
    """The model goes to `hub_model_id`, if at all."""
    if t.says("push_to_hub") and t.says("hub_model_id"):
        for key in ("push_to_hub", "hub_model_id"):
            t.set("push_to_hub", t.get("hub_model_id"), by=key)
    else:
        if t.says("push_to_hub"):
            t.lose("push_to_hub", "the repository is named: add push_to_hub=NAME/REPOSITORY")
        t.idle["hub_model_id"] = "without push_to_hub nothing is uploaded"


def _timeout(t: Translation) -> None:
    """Seconds are minutes here; transformers waits half an hour, and so does rmx."""
    if "ddp_timeout" in t.given:
        t.set("parallel.timeout_minutes", t.number("ddp_timeout", 1800) / 60, by="ddp_timeout")


def _sharding(t: Translation) -> None:
    """`fsdp` is a list of words: full_shard, shard_grad_op, hybrid_shard, offload, auto_wrap."""
    asked = t.given.get("fsdp")
    words = str(asked).replace("[", "").replace("]", "").replace(",", " ").split() if t.says("fsdp") else []
    if not words:
        return
    t.set("parallel", "hsdp" if any("hybrid" in word for word in words) else "fsdp", by="fsdp")
    if "offload" in words:
        t.set("parallel.cpu_offload", True, by="fsdp")
    if "shard_grad_op" in words:
        t.differ("fsdp", "shard_grad_op keeps the weights whole; parallel=fsdp divides them, too")


def set_adapter(t: Translation, kind: str, by: str, **keys: tuple[Any, str]) -> None:
    """Choose a kind of adapter; `keys` are peft keys with their value and the other program's key that says it.

    A list of layers is written as one, and every word for all linear layers is `auto`.
    """
    t.set("peft", kind, by=by)
    for name, (value, source) in keys.items():
        if name == "target_modules":
            value = value if isinstance(value, list) else str(value).split(",")
            value = [str(item).strip() for item in value if str(item).strip()]
            value = "auto" if not value or set(value) & set(_ALL_LINEAR) else value
        t.set(f"peft.{name}", value, by=source)


SHARED_RULES: dict[str, Rule] = {
    "warmup": _warmup,
    "trackers": _trackers,
    "phases": _phases,
    "upload": _upload,
    "timeout": _timeout,
    "sharding": _sharding,
}
