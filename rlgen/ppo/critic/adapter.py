"""The critic `adapter`: a second adapter and a value head on the base model that policy and reference share."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig, PeftModel
from peft.utils import set_peft_model_state_dict
from torch import Tensor, nn

from rlgen.errors import ConfigError
from rlgen.ppo.critic.base import CriticOptions
from rlgen.ppo.critic.tokens import TokenCritic, TokenStates
from rlgen.ppo.trunk import decoder, frozen_depth, replay_hidden

NAME = "critic"


class AdapterCritic(TokenCritic):
    """Base weights are shared, adapter and value head are the critic's own (Santacroce et al. 2023, arXiv 2309.00754).

    The adapter lives in the policy's layers, but the policy does not know of it: it is not listed among the model's
    adapters, so that saving and merging pass it by, and it asks for gradients only while the critic is fitted.

    Args:
        policy: with adapters of its own.
        adapter: settings of the critic's adapter.
        options: sizes and settings.
        trunk_depth: lower layers that the policy leaves frozen, whose output rollouts bring along.
        weights: of the adapter, as PEFT saves them; None for fresh ones, which change nothing at first.
        **kwargs: see `TokenCritic`.

    Raises:
        ConfigError: the adapter does not fit the model.
    """

    kind = "adapter"

    def __init__(
        self,
        policy: PeftModel,
        adapter: PeftConfig,
        options: CriticOptions,
        *,
        trunk_depth: int = 0,
        weights: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        parameters = add_hidden_adapter(policy, adapter, weights)
        # A parameter's own module may not have dots in its name.
        backbone = nn.ParameterDict({name.replace(".", "/"): value for name, value in parameters.items()})
        super().__init__(policy.config.get_text_config().hidden_size, options, backbone, **kwargs)
        self.adapter = adapter
        self._policy = [policy]  # in a list, or its parameters would count as the critic's
        with self.in_charge():
            self.trunk_depth = trunk_depth if frozen_depth(policy) >= trunk_depth else 0

    @property
    def policy(self) -> PeftModel:
        """The model that the adapter lives in."""
        return self._policy[0]

    def hidden(self, states: TokenStates) -> Tensor:
        """Final hidden states (N, S, H) of the base with the critic's adapter; only while it is in charge."""
        packed, model = states.packed, decoder(self.policy)
        mask = packed.attention_mask(self.policy.config._attn_implementation, self.policy.dtype)
        with replay_hidden(self.policy, self.trunk_depth, states.trunk):
            hidden: Tensor = model(
                input_ids=packed.input_ids, attention_mask=mask, position_ids=packed.position_ids, use_cache=False
            )[0]
        return hidden

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """The critic's adapter instead of the policy's, without dropout; afterwards all is as it was."""
        tuner, training = self.policy.base_model, self.policy.training
        active = tuner.active_adapters
        trainable = {name: parameter.requires_grad for name, parameter in self.policy.named_parameters()}
        self.policy.eval()
        tuner.set_adapter(NAME)
        try:
            yield
        finally:
            tuner.set_adapter(active)
            for name, parameter in self.policy.named_parameters():
                parameter.requires_grad_(trainable[name])
            self.policy.train(training)

    def describe(self) -> dict[str, Any]:
        """Kind, sizes and the adapter's settings."""
        return {**super().describe(), "hidden_size": self.hidden_size, "adapter": self.adapter.to_dict()}


def critic_adapter(like: PeftConfig) -> PeftConfig:
    """Settings of a critic's adapter on the same modules as another one."""
    config = copy.deepcopy(like)
    config.task_type, config.inference_mode = "CAUSAL_LM", False
    if hasattr(config, "modules_to_save"):
        config.modules_to_save = None  # whole copies of modules; the critic has a head of its own
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True  # other ways may change the base model
    return config


def add_hidden_adapter(
    policy: PeftModel, adapter: PeftConfig, weights: dict[str, Tensor] | None = None
) -> dict[str, nn.Parameter]:
    """Add an adapter that PEFT does not list, and return its parameters by name.

    Raises:
        ConfigError: a critic's adapter is there already, or this one does not fit.
    """
    before = {name for name, _ in policy.named_parameters()}
    if any(f".{NAME}." in name for name in before):
        raise ConfigError(f"the policy has an adapter named {NAME} already: rename it, or take another critic")
    try:
        policy.add_adapter(NAME, adapter)
        loaded = set_peft_model_state_dict(policy, weights, NAME) if weights is not None else None
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"the critic's adapter does not fit the policy: {reason}; take another critic") from error
    finally:
        policy.peft_config.pop(NAME, None)
    if loaded is not None:
        absent = [name for name in loaded.missing_keys if f".{NAME}." in name]
        if odd := [*loaded.unexpected_keys, *absent]:
            raise ConfigError(f"the critic's adapter does not fit the policy, for example in {odd[0]}")
    parameters = {name: value for name, value in policy.named_parameters() if name not in before}
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    return parameters
