"""What the crossing test crosses: the features, the files and overrides of a cell, and which cells are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allpairspy import AllPairs

FEATURES: dict[str, list[Any]] = {
    "data": [
        "pairs", "dialogue", "llamafactory", "llamafactory_two", "mixture", "mixture_llamafactory",
        "mixture_synthetic", "synthetic", "ranked",
    ],
    "phases": [
        ("train", "eval", "predict"), ("train",), ("audit", "inspect", "train", "eval"), ("eval", "predict"),
        ("train", "predict"), ("predict",), ("audit",),
    ],
    "family": ["tiny", "llama", "qwen3", "gemma3_text", "gpt2", "modernbert", "deberta-v2"],
    "loss": ["bradley_terry", "focal", "hinge", "rao_kupper", "davidson", "plackett_luce"],
    "labels": ["plain", "weights", "ties", "margins", "soft"],
    "evals": ["fraction", "named", "both", "none"],
    "template": ["plain", "chatml", "auto"],
    "encoding": ["auto", "shared", "separate"],
    "precision": ["fp32", "bf16", "bf16_everywhere"],
    "bad_rows": ["none", "skip"],
    "streaming": [False, True],
    "peft": ["none", "lora"],
    "workers": [0, 1],
    "trackers": ["none", "tensorboard"],
    "resume": ["fresh", "stopped"],
    "truncation": ["keep_end", "drop"],
}  # fmt: skip

ROWS, NAMED_ROWS, GENERATED = 24, 7, 20
BAD = (3, 9)  # numbers of the rows without an answer
LONG = (5, 14)  # numbers of the rows with more tokens than MAX_TOKENS
MAX_TOKENS, STEPS, BATCH = 256, 3, 5
ENCODERS = ("modernbert", "deberta-v2")
MIXED = ("mixture", "mixture_llamafactory", "mixture_synthetic", "llamafactory_two")
FAST = 25


@dataclass(frozen=True)
class Cell:
    """One combination: a value of every feature."""

    data: str
    phases: tuple[str, ...]
    family: str
    loss: str
    labels: str
    evals: str
    template: str
    encoding: str
    precision: str
    bad_rows: str
    streaming: bool
    peft: str
    workers: int
    trackers: str
    resume: str
    truncation: str

    def __str__(self) -> str:
        words = ("+".join(value) if isinstance(value, tuple) else str(value) for value in vars(self).values())
        return "-".join(words)

    @property
    def trains(self) -> bool:
        return "train" in self.phases

    @property
    def scores(self) -> bool:
        return bool({"eval", "predict"} & set(self.phases))


def settled(cell: Cell) -> Cell:
    """The cell with what has no meaning to a user, or is refused (see `REFUSED`), taken out of it."""
    if cell.data == "synthetic":  # generated: there is no file that could say anything
        evals = {"named": "fraction", "both": "none"}.get(cell.evals, cell.evals)
        cell = replace(cell, labels="plain", bad_rows="none", evals=evals)
    if cell.data == "ranked" and cell.labels == "soft":  # a ranking has no vote share
        cell = replace(cell, labels="weights")
    if cell.data in (*MIXED, "synthetic"):
        cell = replace(cell, streaming=False)
    if cell.scores and cell.evals == "none":
        cell = replace(cell, evals="fraction")
    if cell.family in ENCODERS:  # they have no chat template, and their attention looks ahead
        template = "plain" if cell.template == "auto" else cell.template
        cell = replace(cell, template=template, encoding={"shared": "separate"}.get(cell.encoding, cell.encoding))
    return cell if cell.trains else replace(cell, resume="fresh")


def cells() -> list[Cell]:
    """A pairwise covering array: every pair of two features' values that can be meant is in a cell; always the same.

    What was covered only by cells that `settled` changes is added by exchanging two values of another cell.
    """
    made = [Cell(*values) for values in AllPairs(list(FEATURES.values()))]
    kept = list(dict.fromkeys(map(settled, made)))
    missing = set().union(*map(pairs_of, made)) - set().union(*map(pairs_of, kept))
    while missing:
        x, v, y, u = min(missing, key=str)
        changed = (replace(cell, **{x: v, y: u}) for cell in kept)
        found = [cell for cell in changed if cell == settled(cell)]
        kept += sorted(found, key=lambda cell: -len(missing & pairs_of(cell)))[:1]
        missing -= {(x, v, y, u)} | pairs_of(kept[-1])
    return kept


def fast_cells(count: int = FAST) -> list[Cell]:
    """So many cells of the array, each the one that adds most pairs of values to those before it."""
    left, chosen, seen = cells(), [], set()
    while len(chosen) < count:
        best = max(left, key=lambda cell: len(pairs_of(cell) - seen))  # the first of several
        left.remove(best)
        chosen.append(best)
        seen |= pairs_of(best)
    return chosen


def rank_cells(count: int = 5) -> list[Cell]:
    """Cells of training that start anew, for two ranks: the first of every kind of data that reads files."""
    found: dict[str, Cell] = {}
    for cell in cells():
        if cell.trains and cell.resume == "fresh" and cell.evals != "none":
            found.setdefault(cell.data, cell)
    return list(found.values())[:count]


def pairs_of(cell: Cell) -> set[tuple[Any, ...]]:
    """All pairs of two features' values that a cell has."""
    named = list(vars(cell).items())
    return {(*a, *b) for i, a in enumerate(named) for b in named[:i]}


# What is not allowed: values put into a cell that is, further words of the command line, and what the one message says.
PLAIN: dict[str, Any] = {
    "data": "pairs", "phases": ("train", "eval", "predict"), "family": "tiny", "loss": "bradley_terry",
    "labels": "plain", "evals": "both", "template": "plain", "encoding": "auto", "precision": "fp32",
    "bad_rows": "none", "streaming": False, "peft": "none", "workers": 0, "trackers": "none", "resume": "fresh",
    "truncation": "keep_end",
}  # fmt: skip
REFUSED: list[tuple[dict[str, Any], list[str], str]] = [
    ({"bad_rows": "skip"}, ["data.on_bad_row=error"], r"data main: 22 of 24 rows .* data\.on_bad_row=skip"),
    ({"bad_rows": "skip"}, ["data.max_bad_fraction=0.01"], r"data\.max_bad_fraction=0\.01"),
    ({"data": "mixture", "streaming": True}, [], r"data\.streaming"),
    ({"data": "mixture"}, ["+data.sources.own.streaming=true"], r"data\.sources\.own\.streaming: a mixture holds"),
    ({"data": "mixture"}, ["+data.sources.own.max_tokens=64"], r"data\.sources\.own\.max_tokens: .*give data\.max_tok"),
    ({"data": "mixture_llamafactory"}, ["data.sources.first.dataset=[main,other]"], r"data\.sources\.first\.dataset: "),
    ({"data": "mixture_llamafactory"}, ["data.sources.first.dataset=mian"], r"data\.sources\.first\.dataset: 'mian'"),
    ({"data": "llamafactory_two", "streaming": True}, [], r"data\.streaming: the rows of several entries"),
    ({"data": "synthetic", "evals": "fraction"}, ["+data.streaming=true"], r"data\.streaming"),
    ({"evals": "none"}, [], r"phases: eval and predict need an evaluation set; set data\.validation_fraction"),
    ({"evals": "none", "phases": ("predict",)}, [], r"data\.eval_sets"),
    ({"evals": "none", "phases": ("train",)}, ["callbacks=[early_stopping]"], r"callbacks\.early_stopping: "),
    ({"family": "modernbert", "template": "auto"}, [], r"template=auto: this tokenizer has no chat template"),
    ({"family": "modernbert", "encoding": "shared"}, [], r"trainer\.encoding: 'shared' would change the rewards"),
    ({"family": "deberta-v2", "encoding": "shared"}, [], r"trainer\.encoding: 'shared' would change the rewards"),
    ({"labels": "ties"}, ["data.ties=drop", 'data.where="tie == true"'], r"data main: 0 of 24 rows can be used"),
    ({"labels": "plain"}, ["data.ties=keep"], r"data\.ties=keep: does nothing for main"),
    ({"labels": "margins"}, ["data.margin_from_scores=1"], r"data\.margin_from_scores=1: does nothing for main"),
    ({"truncation": "drop"}, ["data.max_tokens=8"], r"data, train: 0 of \d+ rows left: .* raise data\.max_tokens"),
    ({"peft": "lora"}, ["model.freeze_layers=1"], r"model\.freeze_layers: an adapter freezes all layers already"),
    ({"trackers": "no_such"}, [], r"trackers: 'no_such' cannot be used"),
    (
        {},
        ["trainer.dataloader_drop_last=true", "trainer.per_device_train_batch_size=99"],
        r"trainer\.dataloader_drop_last",
    ),
    ({}, ["trainer.metric_for_best_model=eval_nothing_loss"], r"trainer\.metric_for_best_model: 'eval_nothing_loss'"),
    ({}, ["data.eval_sets.easy=null"], r"data\.eval_sets\.easy"),
]


# --- the files and the words of a cell ---


def write_files(cell: Cell, folder: Path) -> None:
    """Write what the cell reads: its rows, two named evaluation sets, and dataset_info.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("main", ROWS), ("other", ROWS), ("easy", NAMED_ROWS), ("hard", NAMED_ROWS)):
        for kind in KINDS:
            rows = [row_of(cell, kind, f"{name} {kind}", i) for i in range(count)]
            if name in ("main", "other") and cell.bad_rows != "none":
                for i in BAD:
                    spoil(rows[i])
            path = folder / f"{name}.{kind}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    entries = {
        name: {"file_name": f"{name}.sharegpt.jsonl", "ranking": True, "formatting": "sharegpt"}
        for name in ("main", "other", "easy", "hard")
    }
    (folder / "dataset_info.json").write_text(json.dumps(entries), encoding="utf-8")


KINDS = ("pairs", "dialogue", "sharegpt", "ranked")


def row_of(cell: Cell, kind: str, name: str, i: int) -> dict[str, Any]:
    """Row i of a file: its answers say what they are worth, its prompt is its own."""
    prompt = f"Of {name}, number {i}?" + (" And so on." * 40 if i in LONG else "")
    good, bad = f"Yes, {i} it is.", "No." + " Not" * (i % 4)
    if kind == "ranked":
        responses = [good, "It may be.", bad, "Go away."][: 2 + i % 3]
        places = list(range(1, len(responses) + 1))
        row: dict[str, Any] = {"prompt": prompt, "responses": responses, "ranks": places}
        if cell.labels == "margins":
            row = {"prompt": prompt, "responses": responses, "scores": [float(9 - place) for place in places]}
        if cell.labels == "ties" and i % 3 == 1:
            row["ranks"] = [1, 1, *places[2:]]
        return row | ({"weight": 0.5 + i % 3} if cell.labels == "weights" else {})
    if kind == "pairs":
        row = {"prompt": prompt, "chosen": good, "rejected": bad}
    elif kind == "dialogue":
        row = {
            side: f"\n\nHuman: {prompt}\n\nAssistant: {text}" for side, text in (("chosen", good), ("rejected", bad))
        }
    else:
        turns = {side: {"from": "gpt", "value": text} for side, text in (("chosen", good), ("rejected", bad))}
        row = {"conversations": [{"from": "human", "value": prompt}], **turns}
    labels: dict[str, dict[str, Any]] = {
        "plain": {},
        "weights": {"weight": 0.5 + i % 3},
        "ties": {"tie": i % 4 == 1},
        "margins": {"margin": 0.25 * (i % 4)},
        "soft": {"target": 0.6 + 0.1 * (i % 4)},
    }
    return row | labels[cell.labels]


def spoil(row: dict[str, Any]) -> None:
    """Take the answers' text away, whatever the kind of row."""
    if "responses" in row:
        row["responses"] = ["" for _ in row["responses"]]
    elif isinstance(row["chosen"], dict):
        row["chosen"] = {"from": "gpt", "value": ""}
    elif "prompt" in row:
        row["chosen"] = ""
    else:
        row["chosen"] = row["chosen"].partition("Assistant:")[0] + "Assistant: "


def overrides(cell: Cell, files: Path, base: Path | None, output_dir: Path) -> list[str]:
    """The words of the command line."""
    values: dict[str, Any] = {
        "phases": list(cell.phases),
        "trainer.max_steps": STEPS,
        "trainer.per_device_train_batch_size": BATCH,
        "trainer.gradient_accumulation_steps": 1,
        "trainer.learning_rate": 1e-3,
        "trainer.logging_steps": 1,
        "trainer.eval_steps": 2,
        "trainer.save_steps": 2,
        "trainer.encoding": cell.encoding,
        "trainer.precision": "bf16" if cell.precision.startswith("bf16") else "fp32",
        "trainer.eval_precision": "bf16" if cell.precision == "bf16_everywhere" else "fp32",
        "trainer.dataloader_num_workers": cell.workers,
        "trackers": [] if cell.trackers == "none" else [cell.trackers],
        "output_dir": str(output_dir),
        "verbose": False,
    }
    if base is not None:
        values["model.path"] = str(base)
    groups = [f"loss={cell.loss}", f"peft={cell.peft}", f"template={cell.template}"]
    groups.append("model=tiny" if base is None else "model=hub")
    return groups + data_words(cell, files) + [f"{key}={in_hydra(value)}" for key, value in values.items()]


def data_words(cell: Cell, files: Path) -> list[str]:
    """The words about data."""
    rows_say = {}  # what belongs to the rows of one source
    if cell.labels == "ties":
        rows_say["ties"] = "keep"
    if cell.labels == "margins" and cell.data == "ranked":
        rows_say["margin_from_scores"] = 0.5
    words: dict[str, Any] = {
        "validation_fraction": 0.25 if cell.evals in ("fraction", "both") else 0.0,
        "max_tokens": MAX_TOKENS,
        "truncation": cell.truncation,
    }
    if cell.data == "synthetic":
        return ["data=synthetic"] + [f"data.{key}={in_hydra(v)}" for key, v in {"size": GENERATED, **words}.items()]
    kind = {"dialogue": "dialogue", "ranked": "ranked"}.get(cell.data, "pairs")
    if cell.bad_rows == "skip":
        words |= {"on_bad_row": "skip", "max_bad_fraction": 0.2}
    if cell.evals in ("named", "both"):
        entries = cell.data in ("llamafactory", "llamafactory_two")
        words["eval_sets"] = {n: n if entries else str(files / f"{n}.{kind}.jsonl") for n in ("easy", "hard")}
    if cell.data.startswith("mixture"):
        own = {"path": str(files / "other.pairs.jsonl"), **rows_say}
        words |= {"sources": {"first": mixed_source(cell, files, rows_say), "own": own}}
        words |= {"caps": {"own": 15}, "epochs": {"first": 1.5}}
        group = "mixture"
    elif cell.data.startswith("llamafactory"):
        dataset = ["main", "other"] if cell.data.endswith("two") else "main"
        words |= {"path": str(files), "dataset": dataset, **rows_say}
        group = "llamafactory"
    else:
        words |= {"path": str(files / f"main.{kind}.jsonl"), **rows_say}
        group = "jsonl"
    if cell.streaming:
        words["streaming"] = True
    return [f"data={group}"] + [f"data.{key}={in_hydra(value)}" for key, value in words.items()]


def mixed_source(cell: Cell, files: Path, rows_say: dict[str, Any]) -> dict[str, Any]:
    """The first source of a mixture."""
    if cell.data == "mixture_synthetic":
        return {"_target_": "rmx.data.SyntheticData", "size": GENERATED}
    if cell.data == "mixture_llamafactory":
        return {"_target_": "rmx.data.LlamaFactoryData", "path": str(files), "dataset": "main", **rows_say}
    return {"path": str(files / "main.dialogue.jsonl"), **rows_say}


def in_hydra(value: Any) -> str:
    """A value in the grammar of Hydra's command line.

    >>> in_hydra({"a": ["x y", None, True, 0.5]})
    '{a: ["x y", null, true, 0.5]}'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {in_hydra(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_hydra, value)) + "]"
    return json.dumps(value)
