"""Rewards: plain functions with TRL's signature, loaded by name, checked on every call, or a trained reward model."""

from rlgen.rewards.aggregate import aggregate
from rlgen.rewards.build import build_composite, explainable_rewards, load_composite
from rlgen.rewards.check import CheckedReward, check_rewards, checked
from rlgen.rewards.compose import call_reward, call_rewards, weighted_sum
from rlgen.rewards.composite import CompositeReward, Explanation, PartScore
from rlgen.rewards.load import load_reward, load_rewards, load_token_rewards
from rlgen.rewards.state import load_reward_state, save_reward_state
from rlgen.rewards.tokens import CheckedTokenReward, checked_tokens

__all__ = [
    "CheckedReward",
    "CheckedTokenReward",
    "CompositeReward",
    "Explanation",
    "PartScore",
    "aggregate",
    "build_composite",
    "call_reward",
    "call_rewards",
    "check_rewards",
    "checked",
    "checked_tokens",
    "explainable_rewards",
    "load_composite",
    "load_reward",
    "load_reward_state",
    "load_rewards",
    "load_token_rewards",
    "save_reward_state",
    "weighted_sum",
]
