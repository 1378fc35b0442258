"""OpenRLHF: rewards of an rmx model inside PPO, REINFORCE++ or GRPO.

    RMX_MODEL=outputs/hh python -m openrlhf.cli.train_ppo_ray ... --reward.remote_url /path/to/openrlhf_reward.py \
        --data.label_key messages

(`--remote_rm_url` in OpenRLHF before 0.11.) RMX_MODEL is a run, a model folder, a hub id, or the URL of `rmx serve`:
OpenRLHF calls this function with one row per thread, and a server scores the rows of all workers together.

A label is the messages of the prompt (a list, or its JSON), so that the reward model writes them with its own template.
Without such labels the prompt has to be plain text, that is without `--data.apply_chat_template`.

OpenRLHF logs what this function raises ("Failed to fetch reward") and goes on without a reward: look for it in the log
of the first rollout.

Where policy and reward model share tokenizer and template, `rmx serve` is also OpenRLHF's own server: give
http://HOST:PORT/get_reward as the remote URL, and this file is not needed.
"""

from __future__ import annotations

import json
import os

import torch

from rmx.scoring.connected import connect, conversation

_rewards = connect(os.environ["RMX_MODEL"], device=os.environ.get("RMX_DEVICE"), key=os.environ.get("RMX_SERVE_KEY"))


def _messages(label):
    """Return the messages that a label holds; None where it is something else."""
    found = json.loads(label) if isinstance(label, str) and label.startswith("[{") else label
    whole = isinstance(found, list) and found and all(isinstance(m, dict) and "role" in m for m in found)
    return found if whole else None


def reward_func(queries, prompts, labels, **kwargs):
    """Return {"rewards": [B], "scores": [B], "extra_logs": {}} for B texts.

    Args:
        queries: prompt and response as one text each, special tokens included.
        prompts: the prompts as they were given to the policy.
        labels: the prompts' messages, or None.
    """
    conversations = []
    for query, prompt, label in zip(queries, prompts, labels, strict=True):
        if not query.startswith(prompt):
            raise ValueError("a query does not begin with its prompt; was the prompt cut (--data.max_len)?")
        conversations.append(conversation(_messages(label) or prompt, query[len(prompt) :]))
    rewards = torch.tensor(_rewards(conversations), dtype=torch.float32)
    return {"rewards": rewards, "scores": rewards, "extra_logs": {}}
