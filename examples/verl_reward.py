"""verl: rewards of an rmx model as a custom reward function.

    python -m verl.trainer.main_ppo ... reward.custom_reward_function.path=/path/to/verl_reward.py

In older releases the key is `custom_reward_function.path`, and their `reward_model.reward_manager=batch` with
`custom_reward_function.name=compute_score_batched` scores a batch at once.

RMX_MODEL in the environment is a run, a model folder, a hub id, or the URL of `rmx serve`, whose GPU all workers share.

verl hands over the response alone, and the prompt only in the column `extra_info`: write the prompt's messages there,
as `messages`, when the parquet files are made. verl_reward_manager.py needs no such column.
"""

from __future__ import annotations

import os

from rmx.scoring.connected import connect, conversation

_rewards = connect(os.environ["RMX_MODEL"], device=os.environ.get("RMX_DEVICE"), key=os.environ.get("RMX_SERVE_KEY"))


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """Return the reward of one response."""
    return compute_score_batched([data_source], [solution_str], [ground_truth], [extra_info])[0]


def compute_score_batched(data_sources, solution_strs, ground_truths, extra_infos, **kwargs):
    """Return the rewards of a batch, in its order."""
    conversations = []
    for solution, extra in zip(solution_strs, extra_infos, strict=True):
        messages = (extra or {}).get("messages")
        if messages is None:
            raise ValueError("extra_info has no messages: a reward model needs the prompt; see the top of this file")
        conversations.append(conversation(list(messages), solution))
    return _rewards(conversations)
