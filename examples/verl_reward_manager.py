"""verl: rewards of an rmx model as a reward manager, which sees the prompt's messages itself.

    python -m verl.trainer.main_ppo ... reward.reward_manager.source=importlib \
        reward.reward_manager.module.path=/path/to/verl_reward_manager.py reward.reward_manager.name=RmxRewardManager

For verl with `verl.experimental.reward_loop` (2026). RMX_MODEL in the environment is a run, a model folder, a hub id,
or the URL of `rmx serve`. verl starts `reward.num_workers` managers: with a model in each of them there are as many
copies of it, with a URL there is one.
"""

from __future__ import annotations

import os

from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from rmx.scoring.connected import connect, conversation

_rewards = connect(os.environ["RMX_MODEL"], device=os.environ.get("RMX_DEVICE"), key=os.environ.get("RMX_SERVE_KEY"))


class RmxRewardManager(RewardManagerBase):
    """Scores the last sequence of a sample: the messages of its prompt, and the response."""

    def __init__(self, config, tokenizer, compute_score, reward_router_address=None, reward_model_tokenizer=None):
        super().__init__(config, tokenizer, compute_score)

    async def run_single(self, data):
        """Return {"reward_score": float, "reward_extra_info": {}} of one sample."""
        item = data[-1:][0]
        response_ids = item.batch["responses"]
        attended = item.batch["attention_mask"][-response_ids.shape[-1] :].sum()
        messages = list(item.non_tensor_batch["raw_prompt"])

        def reward():
            response = self.tokenizer.decode(response_ids[:attended], skip_special_tokens=True)
            return _rewards([conversation(messages, response)])[0]

        return {"reward_score": await self.loop.run_in_executor(None, reward), "reward_extra_info": {}}
