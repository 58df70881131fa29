"""What a configuration says about the critic: which options belong to which kind, and defaults that differ."""

from typing import TYPE_CHECKING

from rlgen.errors import ConfigError

if TYPE_CHECKING:
    from rlgen.ppo.config import PPOConfig

KINDS = ("frozen", "head", "adapter", "model")
# A head alone takes larger steps than an adapter would, and an adapter larger ones than a whole model.
LEARNING_RATES = {"frozen": 1e-4, "head": 1e-4, "adapter": 1e-4, "model": 1e-5}
# Features of a frozen layer are remembered for nothing; a backbone would have to read all of these tokens again.
REPLAY_ROLLOUTS = {"frozen": 16, "head": 1, "adapter": 1, "model": 1}


def settle_critic(config: "PPOConfig") -> None:
    """Fill in the defaults of the kind of critic, and refuse options that it does not have.

    Raises:
        ConfigError: an unknown kind, or an option that it does not read.
    """
    kind = config.critic
    if kind not in KINDS:
        raise ConfigError(f"critic is {kind!r}; choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if config.critic_learning_rate is None:
        config.critic_learning_rate = LEARNING_RATES[kind]
    if config.critic_replay_rollouts is None:
        # Where the unit of the rewards moves, returns of older rollouts are no targets any more.
        moving = config.normalize_rewards or config.whiten_rewards or config.kl_target is not None
        config.critic_replay_rollouts = 1 if moving else REPLAY_ROLLOUTS[kind]
    if kind == "head" and config.critic_replay_rollouts > 1:
        raise ConfigError(
            f"critic_replay_rollouts is {config.critic_replay_rollouts}, but the features of critic head change with "
            "the policy: leave it out, or take critic frozen"
        )
    if kind != "frozen" and config.critic_layer is not None:
        raise ConfigError(f"critic_layer is an option of critic frozen, not of {kind}: leave it out")
    if kind != "model" and config.critic_model_name_or_path is not None:
        raise ConfigError(f"critic_model_name_or_path is an option of critic model, not of {kind}: leave it out")
    if kind not in ("adapter", "model") and config.critic_init is not None:
        raise ConfigError(f"critic {kind} has no weights that a reward model could give: leave critic_init out")
    if config.critic_init is not None and config.critic_width:
        raise ConfigError("critic_init brings a linear head: leave critic_width out")
    if kind == "model" and (config.critic_init is None) == (config.critic_model_name_or_path is None):
        raise ConfigError(
            "critic model takes its weights from a model (critic_model_name_or_path) or from a reward model "
            "(critic_init): give one of the two"
        )
