"""What keys of LLaMA-Factory's stage rm mean together."""

from __future__ import annotations

from typing import Any

from rmx.importing.rules import SHARED_RULES, said_with_the_dataset, set_adapter, set_evaluation
from rmx.importing.translating import Rule, Translation

__all__ = ["RULES_OF_LLAMAFACTORY"]

# Templates that rmx has of the same model family.
_TEMPLATES = {
    "llama3": "llama3", "qwen": "qwen", "qwen3": "qwen3", "qwen3_nothink": "qwen3", "gemma": "gemma", "gemma2": "gemma",
    "gemma3": "gemma3", "mistral": "mistral", "chatml": "chatml", "vicuna": "vicuna", "alpaca": "alpaca",
    "zephyr": "zephyr", "phi": "phi3", "cohere": "cohere", "deepseek3": "deepseekv3", "glm4_moe": "glm4moe",
    "gpt_oss": "gptoss",
}  # fmt: skip


def _stage(t: Translation) -> None:
    """Only reward models are trained here."""
    value = t.get("stage")
    if value != "rm":
        what = "sft, LLaMA-Factory's default" if value is None else value
        t.wrong("stage", f"{what} is not a reward model; rmx trains those alone: stage: rm")
    else:
        t.idle["stage"] = "rmx trains reward models alone"


def names_in(value: Any) -> list[str]:
    """Return the names in a list, or in a text with commas.

    >>> names_in("a, b"), names_in(["a"]), names_in(None)
    (['a', 'b'], ['a'], [])
    """
    parts = value if isinstance(value, list) else str(value or "").split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def _dataset(t: Translation) -> None:
    """Entries of dataset_info.json, joined or interleaved, and where the evaluation rows come from."""
    entries = names_in(t.get("dataset"))
    folder = str(t.get("dataset_dir") or "data")
    if not entries:
        t.wrong("dataset", "is needed: the name of a ranking dataset in dataset_info.json")
        return
    if folder.startswith(("ONLINE", "REMOTE:")):
        t.wrong("dataset_dir", f"{folder} is not a folder; download dataset_info.json and give its folder")
        return
    how = str(t.get("mix_strategy") or "concat")
    if how in ("interleave_under", "interleave_over") and len(entries) > 1:
        _interleaved(t, entries, folder, how)
    else:
        t.set("data", "llamafactory", by="dataset")
        t.set("data.path", folder, by="dataset_dir")
        t.set("data.dataset", entries[0] if len(entries) == 1 else entries, by="dataset")
        for key in ("mix_strategy", "interleave_probs"):
            t.idle[key] = "datasets are joined one after the other, and steps are drawn from all of them"
    if t.says("max_samples"):
        t.set("data.max_samples", t.get("max_samples"), by="max_samples")
    _evaluation_rows(t)


def _interleaved(t: Translation, entries: list[str], folder: str, how: str) -> None:
    spec = "rmx.data.LlamaFactoryData"
    t.set("data", "mixture", by="mix_strategy")
    t.set("data.sources", {name: {"_target_": spec, "path": folder, "dataset": name} for name in entries}, by="dataset")
    t.set("data.order", "interleave", by="mix_strategy")
    t.set("data.stop", "all_exhausted" if how == "interleave_over" else "first_exhausted", by="mix_strategy")
    shares = t.numbers("interleave_probs")
    if shares and len(shares) != len(entries):
        t.wrong("interleave_probs", f"{len(shares)} shares for {len(entries)} datasets")
    elif shares:
        t.set("data.weights", dict(zip(entries, shares, strict=True)), by="interleave_probs")


def _evaluation_rows(t: Translation) -> None:
    share, sets = t.number("val_size"), names_in(t.get("eval_dataset"))
    if share >= 1:
        t.lose("val_size", "a share is held out, not a number of rows: add data.validation_fraction=0.1 or another")
        share = 0.1
    t.set("data.validation_fraction", share, by="val_size")
    if sets:
        if t.words["data"].value == "mixture":
            t.wrong("eval_dataset", "with interleaved datasets evaluation rows are held out: give val_size instead")
        else:
            t.set("data.eval_sets", {name: name for name in sets}, by="eval_dataset")
    has_rows = bool(share or sets)
    set_evaluation(t, has_rows=has_rows)
    if not has_rows and (
        t.says("do_eval") or t.says("do_predict") or str(t.get("eval_strategy", "no")) not in ("no", "False")
    ):
        t.wrong("val_size", "evaluation needs rows: give val_size or eval_dataset")


def _template(t: Translation) -> None:
    """A name of the same family where rmx has one, and else the model's own template."""
    name = t.get("template")
    if not name:
        return
    ours = _TEMPLATES.get(str(name))
    t.set("template", ours or "auto", by="template")
    if ours is None:
        t.differ("template", "rmx has no template of this name, and takes the model's own")
    else:
        t.differ("template", "the family is the same; default system messages may not be: look with phases=[inspect]")


def _adapter(t: Translation) -> None:
    """LoRA unless finetuning_type says otherwise; the scale is twice the rank unless given."""
    kind = str(t.given.get("finetuning_type", "lora"))
    mine = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target", "use_rslora", "use_dora", "pissa_init")
    freezing = ("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules")
    for key in freezing if kind != "freeze" else ():
        t.idle[key] = f"with finetuning_type {kind} it does nothing"
    if kind != "lora":
        t.set("peft", "none", by="finetuning_type")
        for key in mine:
            t.idle[key] = f"with finetuning_type {kind} it does nothing"
        if kind == "freeze":
            t.lose("finetuning_type", "add model.freeze_layers, the number of lowest layers that are not trained")
            for key in freezing:
                t.lose(key, "add model.freeze_layers, the number of lowest layers that are not trained")
        elif kind != "full":
            t.lose("finetuning_type", "adapters are peft=lora, rslora, dora, pissa and qlora")
        if t.says("quantization_bit"):
            t.wrong("quantization_bit", "weights in few bits are trained under an adapter only: finetuning_type: lora")
        return
    _lora(t)


def _lora(t: Translation) -> None:
    bits = t.get("quantization_bit")
    kinds = {"pissa_init": "pissa", "use_dora": "dora", "use_rslora": "rslora"}
    by = next((key for key in kinds if t.says(key)), "finetuning_type")
    chosen = kinds.get(by, "lora")
    if bits == 4 and chosen == "lora":
        chosen, by = "qlora", "quantization_bit"
    for key, name in kinds.items():
        if t.says(key) and key != by:
            t.lose(key, f"one kind of adapter at a time: peft={chosen} is taken, and {name} is not")
    rank = t.number("lora_rank", 8)
    set_adapter(
        t, chosen, by, r=(rank, "lora_rank"),
        alpha=(t.given.get("lora_alpha") or 2 * rank, "lora_alpha"),
        dropout=(t.given.get("lora_dropout", 0.0), "lora_dropout"),
        target_modules=(t.given.get("lora_target", "all"), "lora_target"),
    )  # fmt: skip
    t.set("peft", chosen, by="finetuning_type")
    if bits in (4, 8) and chosen != "qlora":
        t.set("model.quantization", f"{bits}bit", by="quantization_bit")
    elif bits not in (None, 4, 8):
        t.lose("quantization_bit", "bitsandbytes has 4 and 8 bits")
    if "additional_target" not in t.given and chosen == "pissa":
        t.differ("pissa_init", "LLaMA-Factory approximates the singular vectors, rmx computes them")


def _precision(t: Translation) -> None:
    """LLaMA-Factory trains in float32 unless bf16 or fp16 is true; rmx would take what the hardware has."""
    if t.says("pure_bf16"):
        t.set("model.dtype", "bfloat16", by="pure_bf16")
        t.set("trainer.precision", "bf16", by="pure_bf16")
        return
    if not t.says("fp16"):
        t.set("trainer.precision", "bf16" if t.says("bf16") else "fp32", by="bf16")
    if str(t.given.get("finetuning_type", "lora")) == "lora" and not t.says("quantization_bit") and t.says("bf16"):
        t.set("model.dtype", "bfloat16", by="bf16")


def _stopping(t: Translation) -> None:
    """Evaluations without improvement before training ends."""
    if t.says("early_stopping_steps"):
        t.set("callbacks", ["early_stopping"], by="early_stopping_steps")
        patience = "callbacks.early_stopping.early_stopping_patience"
        t.set(patience, t.get("early_stopping_steps"), by="early_stopping_steps")


RULES_OF_LLAMAFACTORY: dict[str, Rule] = SHARED_RULES | {
    "stage": _stage,
    "dataset": _dataset,
    "template": _template,
    "adapter": _adapter,
    "precision": _precision,
    "stopping": _stopping,
    "evaluation": said_with_the_dataset,
}
