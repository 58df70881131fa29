"""The critic `adapter`: a second adapter and a value head on the base model that policy and reference share."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import set_peft_model_state_dict
from torch import Tensor, nn

from rlgen.errors import ConfigError
from rlgen.hidden import frozen_depth, replay_hidden, run_decoder
from rlgen.ppo.critic.base import CriticOptions
from rlgen.ppo.critic.tokens import TokenCritic, TokenStates

NAME = "critic"


class AdapterCritic(TokenCritic):
    """Base weights are shared, adapter and value head are the critic's own (Santacroce et al. 2023, arXiv 2309.00754).

    The adapter is part of the policy's layers only while the critic is at work; at all other times the policy does not
    have it, so that its gradients, saving, merging and the reference (adapters off) are those of a policy alone.

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
        parameters, parts = make_adapter(policy, adapter, weights)
        # A parameter's own module may not have dots in its name.
        backbone = nn.ParameterDict({name.replace(".", "/"): value for name, value in parameters.items()})
        super().__init__(policy.config.get_text_config().hidden_size, options, backbone, **kwargs)
        self.adapter, self._parts = adapter, parts
        self._policy = [policy]  # in a list, or its parameters would count as the critic's
        with self.in_charge():
            self.trunk_depth = trunk_depth if frozen_depth(policy) >= trunk_depth else 0

    @property
    def policy(self) -> PeftModel:
        """The model that the adapter lives in."""
        return self._policy[0]

    def hidden(self, states: TokenStates) -> Tensor:
        """Final hidden states (N, S, H) of the base with the critic's adapter; only while it is in charge."""
        with replay_hidden(self.policy, self.trunk_depth, states.trunk):
            return run_decoder(self.policy, states.packed)

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """The critic's adapter instead of the policy's, without dropout; afterwards all is as it was."""
        tuner, training = self.policy.base_model, self.policy.training
        active = tuner.active_adapters
        trainable = [(parameter, parameter.requires_grad) for parameter in self.policy.parameters()]
        try:
            for container, part in self._parts:
                container[NAME] = part
            tuner.set_adapter(NAME)
            self.policy.eval()
            yield
        finally:
            for container, _ in self._parts:
                del container[NAME]
            tuner.set_adapter(active)
            for parameter, required in trainable:
                parameter.requires_grad_(required)
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


def make_adapter(
    policy: PeftModel, adapter: PeftConfig, weights: dict[str, Tensor] | None
) -> tuple[dict[str, nn.Parameter], list[tuple[Any, Any]]]:
    """Let PEFT make an adapter for a model, and take it out again.

    Returns:
        Its parameters by name, and its parts, each with the container of a layer that it belongs into.

    Raises:
        ConfigError: it does not fit the model.
    """
    if NAME in policy.peft_config:
        raise ConfigError(f"the policy has an adapter named {NAME} already: rename it, or take another critic")
    before, loaded = {id(parameter) for parameter in policy.parameters()}, None
    try:
        policy.add_adapter(NAME, adapter)
        if weights is not None:
            loaded = set_peft_model_state_dict(policy, weights, NAME)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"the critic's adapter does not fit the policy: {reason}; take another critic") from error
    finally:
        policy.peft_config.pop(NAME, None)
    if loaded is not None:
        absent = [name for name in loaded.missing_keys if f".{NAME}." in name]
        if odd := [*loaded.unexpected_keys, *absent]:
            raise ConfigError(f"the critic's adapter does not fit the policy, for example in {odd[0]}")
    parameters = {name: value for name, value in policy.named_parameters() if id(value) not in before}
    layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
    parts = [
        (container, container[NAME])
        for layer in layers
        for container in layer.children()
        if isinstance(container, (nn.ModuleDict, nn.ParameterDict)) and NAME in container
    ]
    for container, _ in parts:
        del container[NAME]
    if not parameters or {id(parameter) for parameter in policy.parameters()} != before:
        raise ConfigError(f"critic adapter does not go with adapters of type {adapter.peft_type}: take another critic")
    return parameters, parts
