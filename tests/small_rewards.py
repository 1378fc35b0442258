"""Small finished reward models for tests of scoring and serving: the embedded architecture, saved as a run saves it."""

from __future__ import annotations

from pathlib import Path

import torch

from rmx.models import RewardModelSource, save_artefact
from rmx.templates import Template


def save_reward_model(folder: Path, seed: int = 0, max_tokens: int = 256) -> Path:
    loaded = RewardModelSource(name="tiny").load(seed=seed)
    with torch.no_grad():  # rewards of a size that tells rows apart
        loaded.head.weight.mul_(3.0)
    bound = Template("auto").bind(loaded.tokenizer)
    return save_artefact(loaded, folder, template=bound, contract={"max_tokens": max_tokens, "truncation": "keep_end"})


def rows_of_candidates(rows: int, responses: int = 3) -> list[dict[str, object]]:
    """Rows of different lengths, each with an id and texts of its own."""
    return [
        {
            "id": f"row-{i}",
            "prompt": f"Question {i} " + "why " * (i % 7),
            "responses": [f"answer {k} of {i} " + "because " * ((i * k) % 5) for k in range(responses)],
        }
        for i in range(rows)
    ]
