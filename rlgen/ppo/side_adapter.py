"""Adapters beside the policy's on the same base model, in its layers only while they work.

At all other times the policy does not have them, so that its gradients, saving, merging and the reference (adapters
off) are those of a policy alone.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import set_peft_model_state_dict
from torch import Tensor, nn

from rlgen.errors import ConfigError
from rlgen.models import adapter_base


class SideAdapter:
    """One more adapter for a policy that has adapters of its own.

    Args:
        policy: whose base model is shared.
        name: of the adapter, which no other of the model has.
        config: settings.
        weights: as PEFT saves them; None for fresh ones, which change nothing at first.

    Raises:
        ConfigError: it does not fit the model.
    """

    def __init__(
        self, policy: PeftModel, name: str, config: PeftConfig, weights: dict[str, Tensor] | None = None
    ) -> None:
        self.policy, self.name, self.config = policy, name, config
        self.parameters, self._parts = _make(policy, name, config, weights)

    def parameter_dict(self) -> nn.ParameterDict:
        """Its parameters as a module; a parameter's own module may not have dots in its name."""
        return nn.ParameterDict({name.replace(".", "/"): value for name, value in self.parameters.items()})

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """Put this adapter in place of the policy's, without dropout; afterwards all is as it was."""
        tuner, training = self.policy.base_model, self.policy.training
        active = tuner.active_adapters
        trainable = [(parameter, parameter.requires_grad) for parameter in self.policy.parameters()]
        try:
            for container, part in self._parts:
                container[self.name] = part
            tuner.set_adapter(self.name)
            self.policy.eval()
            yield
        finally:
            for container, _ in self._parts:
                del container[self.name]
            tuner.set_adapter(active)
            for parameter, required in trainable:
                parameter.requires_grad_(required)
            self.policy.train(training)


def side_config(like: PeftConfig) -> PeftConfig:
    """Settings of an adapter on the same modules as another one."""
    config = copy.deepcopy(like)
    config.task_type, config.inference_mode = "CAUSAL_LM", False
    if hasattr(config, "modules_to_save"):
        config.modules_to_save = None  # whole copies of modules; a head lies outside of the policy
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True  # other ways may change the base model
    return config


def is_on_base_of(folder: str | Path, policy: PeftModel) -> bool:
    """Whether an adapter folder was trained on the model that the policy's adapters are on."""
    base, own = adapter_base(folder), str(policy.get_base_model().config.name_or_path)
    return base == own or Path(base).expanduser().resolve() == Path(own).resolve()


def _make(
    policy: PeftModel, name: str, config: PeftConfig, weights: dict[str, Tensor] | None
) -> tuple[dict[str, nn.Parameter], list[tuple[Any, Any]]]:
    """Let PEFT make an adapter for a model, and take it out again.

    Returns:
        Its parameters by name, and its parts, each with the container of a layer that it belongs into.
    """
    if name in policy.peft_config:
        raise ConfigError(f"the policy has an adapter named {name} already: rename it, or take another {name}")
    before, loaded = {id(parameter) for parameter in policy.parameters()}, None
    what = f"the {name}'s adapter"
    try:
        policy.add_adapter(name, config)
        if weights is not None:
            loaded = set_peft_model_state_dict(policy, weights, name)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"{what} does not fit the policy: {reason}; take another {name}") from error
    finally:
        policy.peft_config.pop(name, None)
    if loaded is not None:
        absent = [key for key in loaded.missing_keys if f".{name}." in key]
        if odd := [*loaded.unexpected_keys, *absent]:
            raise ConfigError(f"{what} does not fit the policy, for example in {odd[0]}")
    parameters = {key: value for key, value in policy.named_parameters() if id(value) not in before}
    layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
    parts = [
        (container, container[name])
        for layer in layers
        for container in layer.children()
        if isinstance(container, (nn.ModuleDict, nn.ParameterDict)) and name in container
    ]
    for container, _ in parts:
        del container[name]
    if not parameters or {id(parameter) for parameter in policy.parameters()} != before:
        raise ConfigError(f"{what} cannot be of type {config.peft_type}: take another {name}")
    return parameters, parts
