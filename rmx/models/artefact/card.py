"""The model card: what the reward model is, what it reached on which data, and the code that scores with it.

Names come from users and from the hub, so each is escaped for the place it stands in: front matter (YAML), text
(markdown and HTML) or code (a Python string).
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

__all__ = ["model_card"]

LIMITS = (
    "Only differences between rewards of the *same* prompt carry meaning: Bradley–Terry preferences fix neither "
    "the zero nor, across prompts, the scale.",
    "The scores follow the preferences in the training data, with their annotators' errors and biases; on other "
    "languages, tasks or styles the accuracy below does not hold.",
    "A policy that is optimised hard against these scores finds what they get wrong; keep a held-out judge.",
)


def model_card(facts: Mapping[str, Any]) -> str:
    """Write README.md from what is known of a run; a part whose facts are missing is left out.

    Args:
        facts: Any of name, repo_id (or a folder: what the code loads), base_model, revision, adapter, dtype,
            architecture, parameters, trainable_parameters; template, scored_token, start_token, max_tokens,
            truncation, precision, is_encoder; loss, seed, steps, settings (a mapping); data (rows with
            name, comparisons, pairs, kept, truncated, dropped, ...: the keys become columns); sources (rows with
            name, train, evaluation, ...); datasets (ids of the hub); metrics (rows with set, pairs, accuracy,
            accuracy_low, accuracy_high, loss, ...); limits (more sentences); versions (a mapping); license,
            language (a text or a list).

    >>> card = model_card({"name": "demo", "metrics": [{"set": "eval", "accuracy": 0.75}]})
    >>> card.splitlines()[0], "| eval | 0.7500 |" in card
    ('---', True)
    """
    name = str(facts.get("name") or "reward model")
    parts = [
        "---\n" + _front_matter(facts, name) + "---",
        f"# {_text(name)}",
        _what(facts),
        _section("Results", _table(facts.get("metrics"))),
        _section("How to score a conversation", _code(facts)),
        _section("How a text becomes this score", _bullets(_scoring(facts))),
        _section("Data", "\n\n".join(filter(None, (_table(facts.get("sources")), _table(facts.get("data")))))),
        _section("Training", _mapping(_training(facts))),
        _section("Limits", _bullets([*LIMITS, *(_text(limit) for limit in facts.get("limits", ()))])),
        _section("Versions", _mapping(facts.get("versions"))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# --- Front matter ---


def _front_matter(facts: Mapping[str, Any], name: str) -> str:
    tags = ["reward-model", "rlhf", "preference", "rmx", *([str(facts["adapter"])] if facts.get("adapter") else [])]
    content: dict[str, Any] = {
        "library_name": "peft" if facts.get("adapter") else "transformers",
        "pipeline_tag": "text-classification",
        "tags": [_line(tag) for tag in tags],
    }
    for key in ("license", "language"):
        value = facts.get(key)
        if value:
            content[key] = [_line(item) for item in value] if isinstance(value, list) else _line(value)
    if _hub_id(facts.get("base_model")):
        content["base_model"] = facts["base_model"]
    named = [*facts.get("datasets", ()), *(row.get("name") for row in _rows(facts.get("data")))]
    ids = sorted({str(name) for name in named if _hub_id(name)})
    if ids:
        content["datasets"] = ids
    results = [_result(row) for row in _rows(facts.get("metrics")) if isinstance(row.get("accuracy"), int | float)]
    if results:
        content["model-index"] = [{"name": _line(name), "results": results}]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)


def _result(row: Mapping[str, Any]) -> dict[str, Any]:
    measured = [{"type": "accuracy", "value": round(float(row["accuracy"]), 6), "name": "pairwise accuracy"}]
    if isinstance(row.get("loss"), int | float):
        measured.append(
            {"type": "loss", "value": round(float(row["loss"]), 6), "name": "negative log-likelihood, nats"}
        )
    dataset = {"name": _line(row.get("set", "eval")), "type": "preference"}
    return {
        "task": {"type": "text-classification", "name": "reward modelling"},
        "dataset": dataset,
        "metrics": measured,
    }


def _hub_id(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


# --- Text ---


def _what(facts: Mapping[str, Any]) -> str:
    base = facts.get("base_model")
    of = f" of {_name(base)}" if base and base != "tiny" else ""
    revision = f" (revision {_name(facts['revision'])})" if facts.get("revision") else ""
    kind = f"a {_text(facts['adapter'])} adapter and a scalar head on top{of}" if facts.get("adapter") else ""
    kind = kind or f"a fine-tuned model{of} with a scalar head"
    return (
        f"A **reward model**: {kind}{revision}. It reads a conversation and returns one number; the higher, the more "
        "its last response is preferred. Trained with rmx."
    )


def _scoring(facts: Mapping[str, Any]) -> list[str]:
    found = []
    if facts.get("template"):
        found.append(f"Template {_name(facts['template'])}: it is the tokenizer's chat template.")
    if facts.get("is_encoder"):
        found.append("The model reads in both directions and scores the text as a whole, with its own pooling.")
    elif facts.get("scored_token"):
        found.append(f"The reward is read at the last token that is not padding: {_name(facts['scored_token'])}.")
    if facts.get("template"):
        found.append("The rendered text is tokenised without added special tokens (`add_special_tokens=False`).")
    if facts.get("max_tokens"):
        how = f", truncation {_name(facts['truncation'])}" if facts.get("truncation") else ""
        found.append(f"At most {_text(facts['max_tokens'])} tokens{how}.")
    if facts.get("precision"):
        found.append(f"Computed in {_text(facts['precision'])}; the head in float32. There is no sigmoid on the score.")
    return found


def _training(facts: Mapping[str, Any]) -> dict[str, Any]:
    names = ("loss", "seed", "steps", "architecture", "dtype", "parameters", "trainable_parameters")
    return {name: facts[name] for name in names if facts.get(name) is not None} | dict(facts.get("settings") or {})


def _code(facts: Mapping[str, Any]) -> str:
    path = _string(facts.get("repo_id") or "path/to/model")
    return f"""```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

path = {path}
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32).eval()
model.config.get_text_config().pad_token_id = tokenizer.pad_token_id

conversation = [
    {{"role": "user", "content": "What is 2 + 2?"}},
    {{"role": "assistant", "content": "4"}},
]
text = tokenizer.apply_chat_template(conversation, tokenize=False)
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
with torch.no_grad():
    reward = model(**inputs).logits[0, 0].item()
```

or, with many conversations at once: `rmx.load(path).score([conversation])`."""


# --- Building blocks ---


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _mapping(values: Mapping[str, Any] | None) -> str:
    if not values:
        return ""
    lines = [f"| {_text(key)} | {_cell(value)} |" for key, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _table(rows: Any) -> str:
    found = _rows(rows)
    if not found:
        return ""
    columns = list(dict.fromkeys(key for row in found for key in row))
    head = "| " + " | ".join(_text(column) for column in columns) + " |"
    lines = ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in found]
    return "\n".join([head, "|" + "---|" * len(columns), *lines])


def _rows(rows: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows or () if isinstance(row, Mapping)]


def _cell(value: Any) -> str:
    """A number as one reads it: counts whole, small rates in powers of ten.

    >>> _cell(50.0), _cell(0.84), _cell(1e-05)
    ('50', '0.8400', '1e-05')
    """
    if not isinstance(value, float):
        return _text(value)
    if value.is_integer():
        return str(int(value))
    return f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.3g}"


def _line(value: Any) -> str:
    """One line without control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+", " ", str(value)).strip()


def _text(value: Any) -> str:
    """Plain text in markdown: no markup, no HTML, no table cell ends here.

    >>> _text("a|b <img onerror=x> [c](javascript:d)")
    'a\\\\|b &lt;img onerror=x&gt; \\\\[c\\\\](javascript:d)'
    """
    escaped = html.escape(_line(value), quote=False)
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", escaped)


def _name(value: Any) -> str:
    """A name in text, set off by quotes rather than backticks, in which nothing can be escaped."""
    return f"“{_text(value)}”"


def _string(value: Any) -> str:
    """A Python string literal that cannot end its code block or open a tag."""
    literal = json.dumps(_line(value))
    for character in "<>`[]":
        literal = literal.replace(character, f"\\u{ord(character):04x}")
    return literal
