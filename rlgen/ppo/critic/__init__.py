"""The critics of PPO: `frozen` and `head` read activations that are there anyway, `adapter` and `model` their own.

Whatever the kind, a critic has an optimizer of its own and never touches the policy's gradients.
"""

from rlgen.ppo.critic.base import Critic
from rlgen.ppo.critic.build import build_critic
from rlgen.ppo.critic.values import LoadedCritic, completion_tokens, completion_values, load_critic, values_html

__all__ = [
    "Critic",
    "LoadedCritic",
    "build_critic",
    "completion_tokens",
    "completion_values",
    "load_critic",
    "values_html",
]
