"""Make the critic that a configuration asks for, from scratch or from a trained reward model."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from rlgen.errors import ConfigError, ModelError
from rlgen.models import adapter_base, is_adapter, load_policy, load_reward_model, load_tokenizer, resolve_model
from rlgen.ppo.critic.adapter import AdapterCritic
from rlgen.ppo.critic.base import Critic, CriticOptions
from rlgen.ppo.critic.features import FrozenCritic, HeadCritic
from rlgen.ppo.critic.model import ModelCritic
from rlgen.ppo.side_adapter import is_on_base_of, side_config
from rlgen.rewards.model import read_statistics
from rlgen.tuning import decoder_layers

if TYPE_CHECKING:
    from rlgen.ppo.config import PPOConfig


def build_critic(
    args: "PPOConfig",
    policy: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    device: torch.device,
    trunk_depth: int,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Critic:
    """The critic of a run.

    Args:
        args: settings.
        policy: the model that is going to be trained.
        tokenizer: of the policy.
        device: where the critic lives.
        trunk_depth: lower layers whose output rollouts bring along.
        autocast: entered around forward passes of a backbone.

    Raises:
        ConfigError: the settings don't fit the model, or the models each other.
        ModelError: a model cannot be loaded.
    """
    options = CriticOptions(
        width=args.critic_width,
        learning_rate=args.critic_learning_rate,  # type: ignore[arg-type]  # settled by the configuration
        dropout=args.critic_dropout,
        weight_decay=args.critic_weight_decay,
        replay_rollouts=args.critic_replay_rollouts,  # type: ignore[arg-type]
        device=device,
    )
    hidden_size = policy.config.get_text_config().hidden_size
    if args.critic == "frozen":
        limit = args.max_completion_length
        assert limit is not None  # the configuration insists on it
        return FrozenCritic(hidden_size, _layer(args.critic_layer, policy), limit, options)
    if args.critic == "head":
        return HeadCritic(hidden_size, options)
    kwargs: dict[str, Any] = {"batch_size": args.per_device_train_batch_size, "autocast": autocast}
    if args.critic == "adapter":
        return adapter_critic(policy, args.critic_init, options, trunk_depth=trunk_depth, **kwargs)
    return model_critic(args, tokenizer, options, **kwargs)


def _layer(layer: int | None, policy: PreTrainedModel | PeftModel) -> int:
    count = len(decoder_layers(policy))
    layer = round(count * 2 / 3) if layer is None else layer
    if not 1 <= layer <= count:
        raise ConfigError(f"critic_layer is {layer}, but the model has {count} decoder layers: give 1 to {count}")
    return layer


def adapter_critic(
    policy: PreTrainedModel | PeftModel, init: str | None, options: CriticOptions, **kwargs: Any
) -> AdapterCritic:
    """A critic's adapter like the policy's, or that of a reward model on the same base.

    Raises:
        ConfigError: the policy has no adapter, or the reward model does not fit it.
    """
    if not isinstance(policy, PeftModel):
        raise ConfigError(
            "critic adapter shares a frozen base model with the policy, but all of this policy trains: train adapters "
            "(use_peft), or take another critic"
        )
    own = policy.peft_config[policy.active_adapter]
    if own.is_prompt_learning:
        raise ConfigError(f"critic adapter does not go with {own.peft_type.value}: take another critic")
    if init is None:
        return AdapterCritic(policy, side_config(own), options, **kwargs)
    folder = resolve_model(init)
    if not is_adapter(folder):
        raise ConfigError(f"critic_init {init} holds no adapter: give one of task type SEQ_CLS, or take critic model")
    config = PeftConfig.from_pretrained(folder)
    if config.task_type != "SEQ_CLS":
        raise ConfigError(f"critic_init {init} is an adapter for {config.task_type}, not for a reward model (SEQ_CLS)")
    if not is_on_base_of(folder, policy):
        own_base = policy.get_base_model().config.name_or_path
        raise ConfigError(
            f"critic_init {init} is an adapter of {adapter_base(folder)}, but the policy's base model is {own_base}"
        )
    weights = load_peft_weights(folder, device="cpu")
    score = {name: weights.pop(name) for name in list(weights) if ".score." in name}
    critic = AdapterCritic(policy, side_config(config), options, weights=weights, **kwargs)
    _take_score(critic, {name.rpartition(".")[2]: value for name, value in score.items()}, init)
    return critic


def model_critic(
    args: "PPOConfig", tokenizer: PreTrainedTokenizerBase, options: CriticOptions, **kwargs: Any
) -> ModelCritic:
    """A separate model, fresh or a trained reward model with its score as the value head.

    Raises:
        ConfigError: it has another vocabulary, is no reward model where one is asked for, or sees later tokens.
        ModelError: it cannot be loaded.
    """
    name, remote_code = args.critic_init or args.critic_model_name_or_path, args.trust_remote_code
    assert name is not None
    _check_vocabulary(name, tokenizer, remote_code)
    score: dict[str, Tensor] = {}
    if args.critic_init:
        model = _reward_model(name, remote_code)
        backbone: PreTrainedModel = model.base_model
        if hasattr(model, "score"):  # an encoder's sits on its pooled first token, which is no state of ours
            score = dict(model.score.named_parameters())
    else:
        backbone = load_backbone(name, remote_code)
    if getattr(backbone.config, "is_encoder_decoder", False):
        raise ConfigError(f"the critic model {name} has an encoder and a decoder: take a model with one of them")
    size = backbone.get_input_embeddings().num_embeddings
    if size < len(tokenizer):
        raise ConfigError(f"the critic model {name} has {size} embeddings for the policy's {len(tokenizer)} tokens")
    critic = ModelCritic(backbone, options, **kwargs)
    if score:
        _take_score(critic, score, name)
    return critic


def load_backbone(name: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model in float32 without any head; an adapter is merged into its base."""
    resolved = resolve_model(name)
    if is_adapter(resolved):
        merged = load_policy(resolved, dtype=torch.float32, trust_remote_code=trust_remote_code, merge=True)
        backbone: PreTrainedModel = merged.base_model
        return backbone
    try:
        return AutoModel.from_pretrained(
            resolved, dtype=torch.float32, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"cannot load the critic model {name}: {str(error).strip().splitlines()[0]}") from error


def _reward_model(name: str, trust_remote_code: bool) -> PreTrainedModel:
    resolved = resolve_model(name)
    if is_adapter(resolved):
        raise ConfigError(f"critic_init {name} is an adapter folder: merge it, or take critic adapter")
    try:
        config = AutoConfig.from_pretrained(resolved, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the reward model {name}: {str(error).strip().splitlines()[0]}") from error
    kind = (config.architectures or ["model of unknown kind"])[0]
    if "SequenceClassification" not in kind or config.num_labels != 1:
        raise ConfigError(
            f"critic_init {name} is a {kind} with {config.num_labels} outputs, not a reward model with one: give the "
            "folder of one, or critic_model_name_or_path for a model without a score"
        )
    return load_reward_model(name, dtype=torch.float32, trust_remote_code=trust_remote_code)


def _check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool) -> None:
    """The critic reads the policy's token ids, so each must mean the same to both."""
    other = load_tokenizer(name, trust_remote_code=trust_remote_code).get_vocab()
    differing = [token for token, place in tokenizer.get_vocab().items() if other.get(token) != place]
    if differing:
        raise ConfigError(
            f"the critic model {name} has another vocabulary than the policy: {len(differing)} of the policy's tokens "
            f"differ, for example {differing[0]!r}; take a model with the policy's tokenizer"
        )


def _take_score(critic: Critic, score: dict[str, Tensor], folder: str) -> None:
    """Begin with a reward model's score as the value, standardized as it is when it serves as a reward."""
    weight = score.get("weight")
    if weight is None or weight.shape != critic.head.weight.shape:
        shape = "none" if weight is None else "x".join(map(str, weight.shape))
        expected = "x".join(map(str, critic.head.weight.shape))
        raise ConfigError(f"the score of critic_init {folder} does not fit: its weights are {shape}, not {expected}")
    mean, deviation = read_statistics(folder)
    with torch.no_grad():
        critic.head.weight.copy_(weight / deviation)
        bias = score.get("bias")
        critic.head.bias.copy_(((0 if bias is None else bias) - torch.tensor(mean)) / deviation)
    critic.initialised = True
