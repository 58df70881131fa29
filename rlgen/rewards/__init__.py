"""Rewards: plain functions with TRL's signature, loaded by name, checked on every call, or a trained reward model."""

from rlgen.rewards.check import CheckedReward, check_rewards, checked
from rlgen.rewards.compose import call_reward, weighted_sum
from rlgen.rewards.load import load_reward, load_rewards, load_token_rewards
from rlgen.rewards.tokens import CheckedTokenReward, checked_tokens

__all__ = [
    "CheckedReward",
    "CheckedTokenReward",
    "call_reward",
    "check_rewards",
    "checked",
    "checked_tokens",
    "load_reward",
    "load_rewards",
    "load_token_rewards",
    "weighted_sum",
]
