"""NeMo-RL: rewards of an rmx model as an environment of GRPO.

    from nemo_rl.distributed.ray_actor_environment_registry import ACTOR_ENVIRONMENT_REGISTRY
    from nemo_rl.distributed.virtual_cluster import PY_EXECUTABLES
    from nemo_rl.environments.utils import register_env

    name = "nemo_rl_environment.RmxEnvironment"          # this file's folder on PYTHONPATH
    ACTOR_ENVIRONMENT_REGISTRY[name] = PY_EXECUTABLES.SYSTEM
    register_env("rmx", name)

and in the YAML: `env: {rmx: {model: outputs/hh}}`. `model` is a run, a model folder, a hub id, or the URL of
`rmx serve`.

NeMo-RL's data processors replace the user's message by the text that the policy's template made of the whole prompt. So
the processor of your data has to keep the messages: put them into `extra_env_info` as `messages`. Where they are
missing, the prompt is refused if it is such a text.
"""

from __future__ import annotations

import os

import ray
import torch
from nemo_rl.environments.interfaces import EnvironmentInterface, EnvironmentReturn

from rmx.scoring.connected import connect, conversation


class RmxEnvironmentImpl(EnvironmentInterface):
    """One turn: the response is scored, the episode ends."""

    def __init__(self, config):
        self._rewards = connect(config["model"], device=config.get("device"), key=os.environ.get("RMX_SERVE_KEY"))

    def step(self, message_log_batch, metadata):
        """Return the rewards [B] of B message logs that each end with the assistant's message."""
        conversations = []
        for log, info in zip(message_log_batch, metadata, strict=True):
            *before, last = log
            if last["role"] != "assistant":
                raise ValueError(f"a message log ends with the {last['role']}: there is no response to score")
            messages = (info or {}).get("messages")
            if messages is None and len(before) == 1:
                messages = before[0]["content"]  # refused if it is rendered
            if messages is None:
                raise ValueError("extra_env_info has no messages; see the top of this file")
            conversations.append(conversation(messages, last["content"]))
        rewards = torch.tensor(self._rewards(conversations), dtype=torch.float32)
        return EnvironmentReturn(
            observations=[{"role": "environment", "content": ""} for _ in message_log_batch],
            metadata=metadata,
            next_stop_strings=[None] * len(message_log_batch),
            rewards=rewards,
            terminateds=torch.ones(len(message_log_batch), dtype=torch.bool),
            answers=None,
        )

    def global_post_process_and_metrics(self, batch):
        """Return the batch as it is, and the mean and the standard deviation of its rewards."""
        rewards = batch["rewards"].float()
        return batch, {"rmx/reward_mean": rewards.mean().item(), "rmx/reward_std": rewards.std(correction=0).item()}


RmxEnvironment = ray.remote(RmxEnvironmentImpl)
