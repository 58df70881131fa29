"""Trained reward models that are adapters on the policy's base model score through that base, not a copy of it.

Source: Santacroce et al. 2023, arXiv 2309.00754: policy, reference, critic and reward model as adapters of one base.
"""

import copy
import inspect
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils import load_peft_weights
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from rlgen.errors import ConfigError
from rlgen.hidden import decoder
from rlgen.models import is_adapter, resolve_model
from rlgen.ppo.side_adapter import SideAdapter, is_on_base_of, side_config
from rlgen.rewards.model import RewardModel, prepare_for_scoring

logger = logging.getLogger(__name__)

Autocast = Callable[[], AbstractContextManager[object]]


class SharedClassifier(nn.Module):
    """A sequence classifier with one output: an adapter and a score head of its own on the policy's base model.

    What a `RewardModel` asks of a classifier: its decoder, its score, its configuration, and logits.

    Args:
        policy: whose base model is shared.
        name: of the adapter.
        folder: adapter folder of task type SEQ_CLS.
        autocast: entered around forward passes of the base.

    Raises:
        ConfigError: the adapter does not fit the policy.
    """

    def __init__(self, policy: PeftModel, name: str, folder: str, autocast: Autocast) -> None:
        super().__init__()
        config = PeftConfig.from_pretrained(folder)
        _check(folder, config, policy)
        weights = load_peft_weights(folder, device="cpu")
        score = {key.rpartition(".")[2]: weights.pop(key) for key in list(weights) if ".score." in key}
        if "weight" not in score or len(score["weight"]) != 1:
            raise ConfigError(f"{folder} has no score head with one output")
        side = SideAdapter(policy, name, side_config(config), weights)
        self.config = copy.deepcopy(policy.get_base_model().config)
        self.config.num_labels = 1
        self.adapter = side.parameter_dict()
        self.score = nn.Linear(score["weight"].shape[1], 1, bias="bias" in score)
        self.score.load_state_dict({key: value.float() for key, value in score.items()})
        self.base_model = SideDecoder(side, autocast)
        self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the score head, and the policy, live."""
        return self.score.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the base model's weights."""
        return self.base_model.side.policy.dtype

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:
        """Scores (B, 1) of right-padded texts (B, S)."""
        hidden = self.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = hidden[torch.arange(len(hidden), device=hidden.device), attention_mask.sum(1) - 1]
        return SequenceClassifierOutput(logits=self.score(last))


class SideDecoder(nn.Module):
    """The policy's decoder with a side adapter in place of the policy's own adapters."""

    def __init__(self, side: SideAdapter, autocast: Autocast) -> None:
        super().__init__()
        self.side, self.autocast = side, autocast

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutput:
        """Final hidden states in float32, as a score head takes them."""
        with self.side.in_charge(), self.autocast():
            output = decoder(self.side.policy)(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
            )
        return BaseModelOutput(last_hidden_state=output[0].float())


def share_reward_models(rewards: Sequence[Any], policy: PeftModel, autocast: Autocast) -> list[RewardModel]:
    """Let every reward model among `rewards` that is an adapter on the policy's base score through that base.

    Its own copy of the base is given up; scores stay the same up to rounding. One that does not fit keeps its copy,
    and a warning says why.

    Args:
        rewards: reward functions; of them the `RewardModel`s (no ensembles) and the checked ones around such.
        policy: the model that is trained.
        autocast: entered around forward passes.

    Returns:
        The reward models that share now.
    """
    shared = []
    for place, reward in enumerate(rewards):
        model = getattr(reward, "function", reward)
        # An ensemble is no adapter: it keeps the one base that its members share.
        if type(model) is not RewardModel or not is_adapter(folder := resolve_model(model.name_or_path)):
            continue
        try:
            with torch.random.fork_rng(devices=[]):  # PEFT draws fresh weights before these are put in their place
                classifier = SharedClassifier(policy, f"reward_{place}", folder, autocast)
        except ConfigError as error:
            logger.warning("the reward model %s keeps a base model of its own: %s", folder, error)
            continue
        classifier.to(policy.device)
        model.model = prepare_for_scoring(classifier, model.tokenizer)
        shared.append(model)
    return shared


def _check(folder: str, config: PeftConfig, policy: PeftModel) -> None:
    own = policy.get_base_model().config.name_or_path
    if not is_on_base_of(folder, policy):
        raise ConfigError(f"it is an adapter of {config.base_model_name_or_path}, the policy's base model is {own}")
    if config.is_prompt_learning or policy.active_peft_config.is_prompt_learning:
        raise ConfigError("prompts that are learnt are no part of the layers")
    if getattr(config, "init_lora_weights", True) not in (True, False, "gaussian"):
        raise ConfigError(f"init_lora_weights {config.init_lora_weights} may have changed its base")
    if "position_ids" not in inspect.signature(decoder(policy).forward).parameters:
        raise ConfigError("the model takes no positions")
