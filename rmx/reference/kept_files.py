"""Every file that rmx leaves, by the folder it stands in: what it holds, and when it is there.

A pattern is a path below the folder; `*` stands for a part of a name, `**` for any number of folders.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rmx.reference.entries import ReferenceEntry

__all__ = ["FILES", "KeptFile", "file_entries", "file_of", "pattern_fits"]

Home = Literal["run folder", "sweep folder", "output of rmx score", "output of rmx bench", "cache"]


@dataclass(frozen=True)
class KeptFile:
    """One file, or several of a kind.

    Attributes:
        pattern: its path below the folder.
        meaning: what it holds.
        holds: its form, and what its fields mean where their names do not say it.
        only: when it is there; "" for every run that trains, evaluates and predicts.
        home: the folder.
        fields: the keys of its object, or of each line: all that are always there.
    """

    pattern: str
    meaning: str
    holds: str = ""
    only: str = ""
    home: Home = "run folder"
    fields: tuple[str, ...] = ()


_TRAINED = "after phase train"
_ADAPTER = "with an adapter (peft=...)"
_FULL = "without an adapter"
_SHARDED = "with parallel=fsdp, hsdp, tp, fsdp_tp"
_PAIR = (
    "chosen and rejected are rewards, margin = chosen - rejected, p_chosen = sigmoid(margin), loss in nats; where they "
    "apply: weight, labelled_tie, pair ([winner, loser] of K > 2 responses), truth_chosen, truth_rejected"
)
_PAIR_FIELDS = (
    "id", "source", "chosen", "rejected", "margin", "p_chosen", "loss", "tie", "chosen_tokens", "rejected_tokens",
    "truncated",
)  # fmt: skip

_RUN = (
    KeptFile(
        "run.yaml",
        "the resolved configuration without secrets",
        "`rmx --config-dir RUN --config-name run` repeats the run",
        "started from a configuration",
    ),
    KeptFile(
        "environment.json",
        "what the run ran on",
        fields=("command", "versions", "python", "platform", "cpus", "git_commit", "started"),
    ),
    KeptFile("run.log", "everything the run said, with times"),
    KeptFile(
        "metrics.jsonl",
        "the numbers as they come: a JSON object a line; plots, reports and trackers show these",
        "and the metrics of that phase; null stands for NaN and infinity",
        fields=("step", "epoch", "time", "phase"),
    ),
    KeptFile(
        "plan.json",
        "what training would need: bytes of a process by part, tokens, steps, FLOPs, hours, what fits on which device",
        only="phases=[plan]",
    ),
    KeptFile("train_results.json", "the numbers of the whole training", "train_loss, train_runtime, ...", _TRAINED),
    KeptFile(
        "eval_results.json", "the numbers of every evaluation set", "eval_loss, eval_accuracy, ...", "after phase eval"
    ),
    KeptFile(
        "predict_results.json", "the numbers of the written predictions", "predict_loss, ...", "after phase predict"
    ),
    KeptFile("all_results.json", "the three files above in one", "their keys"),
    KeptFile(
        "generated_predictions.jsonl",
        "every pair's rewards, a JSON object a line, in the order of the data",
        _PAIR,
        "after phase predict, with one evaluation set",
        fields=_PAIR_FIELDS,
    ),
    KeptFile(
        "generated_predictions_*.jsonl",
        "the same, a file for each evaluation set",
        _PAIR,
        "after phase predict, with several evaluation sets",
        fields=_PAIR_FIELDS,
    ),
    KeptFile(
        "audit.json",
        "what was found in the data before training",
        "tokens and truncation by set; findings are sentences",
        "after phase audit or train",
        fields=(
            "rows",
            "looked_at",
            "sets",
            "repeats",
            "overlap",
            "roles",
            "control_tokens",
            "characters",
            "tokens",
            "truncation",
            "findings",
        ),
    ),
    KeptFile(
        "rejects.jsonl",
        "rows that were left out: a JSON object a line, never the content",
        "where is file:line; reasons are counted by kind, detail says what of this row",
        "some rows were bad, with data.on_bad_row=skip",
        fields=("where", "file", "line", "reason", "detail"),
    ),
    KeptFile("report.html", "the run on one page, with its figures: opens without a network"),
    KeptFile("plots/training_*.png", "a curve of metrics.jsonl, for slides", "pixels"),
    KeptFile(
        "plots/training_*.svg",
        "a curve of metrics.jsonl: training_loss, training_eval_accuracy, training_eval_<set>_loss, ...",
        "vectors",
    ),
    KeptFile("plots/*.png", "a figure of the predictions", "pixels", "after phase predict"),
    KeptFile(
        "plots/*.svg",
        "a figure of the predictions: margins, reliability, reward_distributions, reward_vs_length",
        "vectors",
        "after phase predict",
    ),
    KeptFile(
        "wandb_run.json",
        "the id of the run in wandb, so that a resumed run is the same one there",
        "id",
        "with trackers=[wandb]",
    ),
    KeptFile("wandb/**", "wandb's own files; `wandb sync` uploads a run that was offline", "", "with trackers=[wandb]"),
    KeptFile("tensorboard/**", "event files", "", "with trackers=[tensorboard]"),
    KeptFile(".lock", "held while the run goes on: one process at a time"),
    KeptFile(
        ".ray/**",
        "Ray Train's mark on the shared storage, and ray.log: what Ray says of lost machines",
        "",
        "launch=ray",
    ),
    KeptFile(
        "PRUNE", "asks the run to stop early; the sweep writes it", "step, metric and value", "in a sweep with a pruner"
    ),
    # --- The model ---
    KeptFile(
        "model/model*.safetensors", "weights and head; model-00001-of-... and an index where they are large", "", _FULL
    ),
    KeptFile("model/config.json", "the architecture: <Arch>ForSequenceClassification with one label", "", _FULL),
    KeptFile("model/model.safetensors.index.json", "which file has which weight", "", f"{_FULL}, large models"),
    KeptFile("model/adapter_model.safetensors", "the adapter and the head", "", _ADAPTER),
    KeptFile("model/adapter_config.json", "the adapter's settings for peft", "", _ADAPTER),
    KeptFile("model/base/**", "the model below the adapter", "", "with an adapter on a base that is nowhere else"),
    KeptFile("model/tokenizer*", "the tokenizer's files", "", _TRAINED),
    KeptFile("model/chat_template.jinja", "the template whose text is scored", "Jinja", _TRAINED),
    KeptFile("model/special_tokens_map.json", "the tokenizer's special tokens", "", "some tokenizers"),
    KeptFile(
        "model/reward_contract.json",
        "what a score of this model depends on; a model whose files do not fit it is not loaded",
        "of template and head the SHA-256",
        _TRAINED,
        fields=(
            "format",
            "template",
            "tokenization",
            "head",
            "model",
            "versions",
            "max_tokens",
            "truncation",
            "precision",
        ),
    ),
    KeptFile("model/README.md", "the model card", "data, settings, results, limits", _TRAINED),
    KeptFile(
        "model-merged/**", "the model with the adapter merged in, in the form of model/", "", "with peft.merge=true"
    ),
    # --- Checkpoints ---
    KeptFile(
        "checkpoints/checkpoint-*/manifest.json",
        "the seal: a checkpoint without it, or of which a file differs, is not used",
        "files are sizes and digests, facts are what the run is made with",
        _TRAINED,
        fields=("facts", "files", "format", "self", "step"),
    ),
    KeptFile(
        "checkpoints/checkpoint-*/rmx_state.json",
        "where training stood",
        "next is epoch and step, totals are the sums that metrics are made of, pending what was still to do",
        _TRAINED,
        fields=(
            "scheduled",
            "pending",
            "best_step",
            "metrics_bytes",
            "next",
            "last_logged_step",
            "last_logged",
            "totals",
            "max_tokens",
            "seconds",
            "window_seconds",
        ),
    ),
    KeptFile(
        "checkpoints/checkpoint-*/trainer_state.json",
        "where training stood, in transformers' form",
        "global_step, log_history, ...",
        _TRAINED,
    ),
    KeptFile(
        "checkpoints/checkpoint-*/optimizer*", "the optimizer's state: tensors, and the rest as JSON", "", _TRAINED
    ),
    KeptFile("checkpoints/checkpoint-*/scheduler*", "the learning-rate schedule's state", "", _TRAINED),
    KeptFile("checkpoints/checkpoint-*/shards/**", "weights and optimizer state, each process's part", "", _SHARDED),
    KeptFile("checkpoints/checkpoint-*/*", "weights or adapter, and tokenizer, as in model/", "", _TRAINED),
)

_ELSEWHERE = (
    KeptFile(
        "sweep.json",
        "everything that the sweep knows, written anew after every trial",
        home="sweep folder",
        fields=("format", "objectives", "parameters", "trials", "importance", "stopped_because"),
    ),
    KeptFile(
        "leaderboard.csv",
        "a line per trial, ranked",
        "and a column for every key that varies and every further objective",
        home="sweep folder",
        fields=(
            "rank",
            "trial",
            "accuracy",
            "accuracy_low",
            "accuracy_high",
            "loss",
            "pairs_per_second",
            "seconds",
            "step",
            "status",
            "difference_to_winner",
            "p_value",
            "within_noise",
            "reason",
            "folder",
        ),
    ),
    KeptFile("sweep.html", "the sweep on one page", home="sweep folder"),
    KeptFile(
        "best", "a link to the winner's run folder (best.txt names it where links cannot be made)", home="sweep folder"
    ),
    KeptFile("sweep.log", "everything the sweep said, with times", home="sweep folder"),
    KeptFile("study.journal", "optuna's storage; optuna-dashboard opens it", home="sweep folder"),
    KeptFile("trial-*", "the run folders of the jobs", home="sweep folder"),
    KeptFile("jobs/*.log", "what a job's processes printed", home="sweep folder"),
    KeptFile(
        "jobs/*.json",
        "a job's processes, one after the other",
        "started and ended in seconds since 1970, asked: whether it was asked to stop",
        home="sweep folder",
        fields=("started", "ended", "exit_code", "signal", "max_rss_bytes", "asked"),
    ),
    KeptFile("jobs/.*.lock", "held while a job's processes live", home="sweep folder"),
    KeptFile(
        ".NAME.rows",
        "answers so far; becomes the output once all are there",
        "JSON lines",
        "while it is written",
        "output of rmx score",
    ),
    KeptFile(
        ".NAME.progress",
        "how many rows these are, so that the same command goes on",
        only="while it is written",
        home="output of rmx score",
        fields=("rows", "digest", "bytes", "settings"),
    ),
    KeptFile(
        "results.json",
        "the benchmark's numbers",
        "lines are sections with score, low and high (95 % interval); curve is best of n; correctness is PPE's metrics",
        home="output of rmx bench",
        fields=("model", "suite", "data", "judge", "lines", "curve", "correctness", "counts"),
    ),
    KeptFile("report.html", "the same as a page", home="output of rmx bench"),
    KeptFile("model-index.yaml", "the same for a model card", home="output of rmx bench"),
    KeptFile(
        "tokens/*",
        "encoded sets, so that the next run starts at once; may be removed at any time (RMX_CACHE, RMX_CACHE_GB)",
        home="cache",
    ),
)

FILES: tuple[KeptFile, ...] = _RUN + _ELSEWHERE


def pattern_fits(pattern: str, path: str) -> bool:
    """Whether a path is one that a pattern means.

    >>> pattern_fits("plots/*.svg", "plots/loss.svg"), pattern_fits("base/**", "base/a/b"), pattern_fits("*", "a/b")
    (True, True, False)
    """
    expression = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    return re.fullmatch(expression, path) is not None


def file_of(path: str, home: Home = "run folder") -> KeptFile | None:
    """Return what a path below a folder is: the first entry that fits.

    >>> file_of("checkpoints/checkpoint-4/manifest.json").pattern
    'checkpoints/checkpoint-*/manifest.json'
    """
    return next((file for file in FILES if file.home == home and pattern_fits(file.pattern, path)), None)


def file_entries() -> list[ReferenceEntry]:
    """Return an entry for every file; it is found by its last name, too."""
    entries = []
    for file in FILES:
        facts = [("fields", ", ".join(file.fields)), ("holds", file.holds), ("there", file.only), ("in", file.home)]
        last = file.pattern.removesuffix("/**").rpartition("/")[2]
        also = tuple(dict.fromkeys([last, file.pattern.removesuffix("/**"), f"{file.pattern.removesuffix('/**')}/"]))
        folder = f": {file.pattern.partition('/')[0]}" if file.home == "run folder" and "/" in file.pattern else ""
        shown = tuple(fact for fact in facts if fact[1])
        entries.append(ReferenceEntry("file", file.pattern, file.meaning, shown, f"{file.home}{folder}", also))
    return entries
