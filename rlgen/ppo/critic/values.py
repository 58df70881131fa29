"""Values of given completions outside training: load a saved critic, value every token, show it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from rlgen.errors import ConfigError, ModelError
from rlgen.generation import Prompt, tokenize_prompts
from rlgen.hidden import record_final, record_hidden, run_decoder
from rlgen.models import load_policy
from rlgen.ppo.critic.adapter import AdapterCritic
from rlgen.ppo.critic.base import CRITIC_FILE, Critic, CriticOptions, read_config
from rlgen.ppo.critic.features import FrozenCritic, HeadCritic
from rlgen.ppo.critic.model import ModelCritic
from rlgen.ppo.critic.tokens import TokenCritic, TokenStates
from rlgen.scoring import PackedRows, pack_rows
from rlgen.tuning import decoder_layers


@dataclass
class LoadedCritic:
    """A critic and the model it stands on; see `load_critic`."""

    critic: Critic
    model: PreTrainedModel | PeftModel | None
    """None for a critic that is a model of its own."""

    @torch.no_grad()
    def __call__(self, packed: PackedRows) -> Tensor:
        """Values (M,) in the order of `packed.completion_mask`'s True positions."""
        critic, model = self.critic, self.model
        packed = packed.to(critic.head.weight.device)
        if isinstance(critic, TokenCritic):
            return critic.values(critic.states(TokenStates(packed)))
        assert model is not None
        depths = [critic.layer] if critic.layer else []
        base_only = isinstance(model, PeftModel) and not critic.reads_policy
        with (
            _evaluating(model),
            model.disable_adapter() if base_only else nullcontext(),
            record_hidden(model, depths, packed) as hidden,
            record_final(model, critic.reads_policy, packed) as final,
        ):
            run_decoder(model, packed)
        return critic.values(critic.features(hidden, final[-1] if final else None, packed))


def load_critic(
    folder: str | Path, model: str | PreTrainedModel | PeftModel | None = None, *, trust_remote_code: bool = False
) -> LoadedCritic:
    """Load what a PPO run saved in `critic/`, to value samples outside training.

    Args:
        folder: the `critic/` of a run or checkpoint.
        model: what the critic stands on, as a model or as what `load_policy` takes: for `frozen` and `adapter` the
            model that training started from, or the trained policy if that is an adapter on it; for `head` the trained
            policy; for `model` nothing. An adapter critic puts its adapter into the model, switched off.
        trust_remote_code: run code that ships with a hub model.

    Raises:
        ConfigError: the critic does not fit the model, or needs one.
        ModelError: the folder holds no critic, or the model cannot be loaded.
    """
    config = read_config(folder)
    on = load_policy(model, trust_remote_code=trust_remote_code) if isinstance(model, str) else model
    kind, options = config["kind"], CriticOptions(width=config.get("width", 0))
    if kind == ModelCritic.kind:
        critic: Critic = ModelCritic(_empty_model(folder, config["model"], trust_remote_code), options)
        on = None
    elif on is None:
        raise ConfigError(f"{folder} holds a critic of kind {kind}: give the model that it stands on")
    else:
        _check_fit(folder, config, on)
        if kind == FrozenCritic.kind:
            limit = config["max_completion_length"]
            critic = FrozenCritic(config["hidden_size"], config["layer"], limit, options)
        elif kind == HeadCritic.kind:
            critic = HeadCritic(config["hidden_size"], options)
        elif kind == AdapterCritic.kind:
            adapter = PeftConfig.from_peft_type(**config["adapter"])
            on = on if isinstance(on, PeftModel) else get_peft_model(on, adapter)
            critic = AdapterCritic(on, adapter, options)
        else:
            raise ModelError(f"{folder} holds a critic of unknown kind {kind!r}: load it with the rlgen that wrote it")
    try:
        critic.load_state_dict(load_file(Path(folder) / CRITIC_FILE))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the critic in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    if on is not None:
        critic.to(next(on.parameters()).device)
    return LoadedCritic(critic, on)


def completion_values(
    critic: LoadedCritic,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    completions: Sequence[str | Sequence[int]],
    *,
    batch_size: int = 16,
    max_prompt_tokens: int | None = None,
) -> list[list[float]]:
    """Value of the state before each token of one given completion a prompt.

    Args:
        critic: from `load_critic`.
        tokenizer: of the policy.
        prompts: conversational or plain.
        completions: text, or token ids as the policy sampled them.
        batch_size: rows at a time.
        max_prompt_tokens: longer prompts lose their beginning.

    Returns:
        One list a completion, as long as it has tokens, in units of the return.
    """
    prompt_ids = tokenize_prompts(tokenizer, prompts, max_prompt_tokens)
    completion_ids = [completion_tokens(tokenizer, completion) for completion in completions]
    pad, results = int(tokenizer.pad_token_id), []
    for start in range(0, len(prompt_ids), batch_size):
        rows = slice(start, start + batch_size)
        packed = pack_rows(prompt_ids[rows], [[ids] for ids in completion_ids[rows]], pad)
        values = critic(packed).split([len(ids) for ids in completion_ids[rows]])
        results += [part.tolist() for part in values]
    return results


def completion_tokens(tokenizer: PreTrainedTokenizerBase, completion: str | Sequence[int]) -> list[int]:
    """Token ids of a completion, which may be given as text."""
    if isinstance(completion, str):
        return list(tokenizer(completion, add_special_tokens=False)["input_ids"])
    return list(completion)


def values_html(tokens: Sequence[str], values: Sequence[float], *, title: str = "Value before each token") -> str:
    """A small page without dependencies: a completion whose tokens are the darker, the higher their value.

    Args:
        tokens: of one completion, as text.
        values: one a token; pointing at a token shows its own.
        title: heading.
    """
    low, high = min(values, default=0.0), max(values, default=0.0)
    spans = []
    for token, value in zip(tokens, values, strict=True):
        share = (value - low) / (high - low) if high > low else 0.0
        style = f"background:rgba(31,119,180,{0.08 + 0.72 * share:.2f})"
        spans.append(f'<span style="{style}" title="{value:.3f}">{escape(token)}</span>')
    return (
        f'<!doctype html><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<h1 style="font:600 16px sans-serif">{escape(title)}</h1>'
        f'<p style="font:14px/1.9 monospace;white-space:pre-wrap">{"".join(spans)}</p>'
        f'<p style="font:12px sans-serif">lightest {low:.3f}, darkest {high:.3f}</p>\n'
    )


def _check_fit(folder: str | Path, config: dict[str, Any], model: PreTrainedModel | PeftModel) -> None:
    size, layers = model.config.get_text_config().hidden_size, len(decoder_layers(model))
    if config["hidden_size"] != size or (config.get("layer") or 0) > layers:
        at = f" at layer {config['layer']}" if "layer" in config else ""
        raise ConfigError(
            f"the critic in {folder} reads hidden states of size {config['hidden_size']}{at}, but the model has size "
            f"{size} and {layers} layers: give the model that it was trained with"
        )


def _empty_model(folder: str | Path, config: dict[str, Any], trust_remote_code: bool) -> PreTrainedModel:
    """The architecture of a critic model, its weights still to come."""
    try:
        loaded = AutoConfig.for_model(**config)
        return AutoModel.from_config(loaded, trust_remote_code=trust_remote_code, dtype=torch.float32)
    except (KeyError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"the critic in {folder} is a model that transformers does not know: {reason}") from error


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
