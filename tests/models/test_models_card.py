from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rmx.models import RewardModelSource, model_card, save_artefact

HOSTILE = "x<script>alert(1)</script>\n---\npipeline_tag: evil\n```\n[a](javascript:b) <img onerror=c> | `d` \"'"

FACTS: dict[str, Any] = {
    "name": "rm",
    "base_model": "org/base",
    "revision": "abc",
    "template": "chatml",
    "scored_token": "<|im_end|>",
    "max_tokens": 2048,
    "truncation": "keep_end",
    "precision": "fp32",
    "loss": "bradley_terry",
    "seed": 1,
    "data": [{"name": "org/data", "comparisons": 10, "pairs": 12}],
    "metrics": [{"set": "eval", "pairs": 100, "accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8, "loss": 0.5}],
    "settings": {"learning_rate": 1e-05},
    "versions": {"torch": "2.13"},
}


def front_matter(card: str) -> dict[str, Any]:
    lines = card.split("\n")
    assert lines[0] == "---"
    return yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))


def test_front_matter_and_tables() -> None:
    card = model_card(FACTS)
    head = front_matter(card)
    assert head["pipeline_tag"] == "text-classification" and head["library_name"] == "transformers"
    assert head["base_model"] == "org/base" and head["datasets"] == ["org/data"]
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.7
    assert "| eval | 100 | 0.7000 | 0.6000 | 0.8000 | 0.5000 |" in card
    assert "| org/data | 10 | 12 |" in card
    for title in ("Results", "How to score a conversation", "Data", "Training", "Limits", "Versions"):
        assert f"\n## {title}\n" in card


def test_licence_languages_and_data_sets_of_a_run() -> None:
    """The hub's keys: one licence, a list of languages, ids of data sets; a table of sources before that of sets."""
    facts = {
        "name": "run",
        "license": "apache-2.0",
        "language": ["en", "de"],
        "datasets": ["org/pairs"],
        "sources": [{"name": "pairs", "train": 90, "evaluation": 10, "rejected": 2, "left out": 0}],
        "data": [{"set": "train", "comparisons": 90}],
    }
    card = model_card(facts)
    head = front_matter(card)
    assert [head[key] for key in ("license", "language", "datasets")] == ["apache-2.0", ["en", "de"], ["org/pairs"]]
    assert "| pairs | 90 | 10 | 2 | 0 |" in card and "| train | 90 |" in card


def test_hostile_names_stay_text() -> None:
    """Every name at once: one front-matter block, no tag, no link, no code block that ends early, no new row."""
    keys = "name repo_id base_model revision adapter template scored_token truncation precision loss license language"
    hostile = dict.fromkeys(keys.split(), HOSTILE)
    facts = {
        **hostile,
        "data": [{"name": HOSTILE, HOSTILE: HOSTILE}],
        "metrics": [{"set": HOSTILE, "accuracy": 0.5}],
        "settings": {HOSTILE: HOSTILE},
        "limits": [HOSTILE],
        "versions": {HOSTILE: HOSTILE},
    }
    card = model_card(facts)
    head = front_matter(card)
    assert head["pipeline_tag"] == "text-classification" and "base_model" not in head and "datasets" not in head
    body = card.split("\n---\n", 1)[1]
    assert "\n---\n" not in body
    assert re.search(r"<\s*(script|img)", body) is None
    assert re.search(r"(?<!\\)\[a(?<!\\)\]\(javascript", body) is None
    assert body.count("```") == 2
    assert len(re.findall(r"(?m)^\| x", body)) == 4  # one row each in four tables
    compile(re.search(r"```python\n(.*?)```", body, re.S).group(1), "card", "exec")


def test_the_code_of_the_card_gives_the_score(tmp_path: Path, template: Any) -> None:
    loaded = RewardModelSource(name="tiny").load(seed=1)
    card = model_card({**FACTS, "repo_id": str(tmp_path / "model")})
    folder = save_artefact(loaded, tmp_path / "model", template=template, contract={}, card=card)
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    names: dict[str, Any] = {}
    exec(code.group(1), names)
    text = "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>"
    assert names["text"] == text
    ids = torch.tensor([loaded.tokenizer.encode(text, add_special_tokens=False)])
    with torch.no_grad():
        assert names["reward"] == pytest.approx(loaded.model.eval()(input_ids=ids).logits.item(), abs=1e-6)


def test_an_almost_empty_card_is_a_card() -> None:
    card = model_card({})
    assert front_matter(card)["tags"] == ["reward-model", "rlhf", "preference", "rmx"]
    assert "## Results" not in card and "## Limits" in card
