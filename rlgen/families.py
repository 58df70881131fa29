"""Families of models: decoders, encoder-decoders and encoders, told apart by their configuration alone.

What a family cannot have is refused here, before any weights are read; `docs/families.md` shows the whole.
"""

from typing import TYPE_CHECKING, Any

from torch import nn

from rlgen.errors import ConfigError, ModelError
from rlgen.models import EMBEDDED, EMBEDDED_ENCODER, Family, family_of, load_config
from rlgen.strategies import STRATEGIES, find_strategy

if TYPE_CHECKING:
    from rlgen.config import ModelArguments

ENCODED_ALONE = "it joins rows into one text, but each prompt is encoded by itself"
COMPLETION_ONLY = "the decoder writes the completion alone, so that the loss is on nothing else"
# Settings of TRL's SFT trainer, the values under which an encoder-decoder's training does what they say, and why.
DECODER_ONLY_SFT: dict[str, tuple[tuple[Any, ...], str]] = {
    "packing": ((False,), ENCODED_ALONE),
    "eval_packing": ((None, False), ENCODED_ALONE),
    "padding_free": ((False,), ENCODED_ALONE),
    "completion_only_loss": ((None, True), COMPLETION_ONLY),
    "assistant_only_loss": ((False,), COMPLETION_ONLY),
    "use_liger_kernel": ((False,), "its kernels are for decoders"),
    "loss_type": (("nll",), "its loss is cross-entropy"),
    "activation_offloading": ((False,), "transformers' trainer, which trains it, has none"),
    "chat_template_path": ((None,), "it takes the tokenizer as it is"),
    "eos_token": ((None,), "it takes the tokenizer as it is"),
    "pad_token": ((None,), "it takes the tokenizer as it is"),
    "shuffle_dataset": ((False,), "the trainer shuffles rows anyway"),
}
# A prompt of trained vectors stands before the text in PEFT's own forward pass only, not in sampling and scoring; the
# output embeddings of T5 and BART stay those of the input whatever a saved model says.
DECODER_ONLY_TUNING = {
    "head": "their output embeddings are tied to those of the input",
    "prompt_tuning": "sampling goes past the learned prompt",
    "p_tuning": "sampling goes past the learned prompt",
    "prefix_tuning": "sampling goes past the learned prefix",
}


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether a model has both, PEFT-wrapped or not."""
    return bool(getattr(model, "config").is_encoder_decoder)  # noqa: B009  (modules type their attributes loosely)


def start_token(model: nn.Module) -> int:
    """What an encoder-decoder's decoder begins with.

    Raises:
        ConfigError: the model does not say.
    """
    config: Any = getattr(model, "config")  # noqa: B009
    token = config.decoder_start_token_id
    if token is None:
        token = getattr(getattr(model, "generation_config", None), "decoder_start_token_id", None)
    if token is None:
        raise ConfigError(
            f"the {config.model_type} model has no decoder_start_token_id: set it in its config.json, to the "
            "tokenizer's cls or bos token where two models were joined"
        )
    return int(token)


def check_family(
    args: "ModelArguments",
    stage: str,
    *,
    trust_remote_code: bool = False,
    settings: Any = None,
) -> Family:
    """Refuse, from configurations alone, what the family of the model cannot have.

    Args:
        args: names the model and the way of tuning.
        stage: "sft", "reward", "dpo" or "ppo".
        trust_remote_code: run code that ships with a hub model.
        settings: of the stage, whose fields are looked at.

    Returns:
        The family; "decoder" if the model cannot be found, which loading it says better.

    Raises:
        ConfigError: one line that says what does not fit, and what would.
    """
    name = args.model_name_or_path
    family = _family(name, trust_remote_code)
    if family == "encoder" and stage != "reward":
        raise ConfigError(
            f"{name} is an encoder, which writes no text, so that {stage} has nothing to train: take a decoder or an "
            "encoder-decoder; an encoder serves as a reward model (rlgen reward) and as --critic model of rlgen ppo"
        )
    if family == "encoder-decoder":
        _check_encoder_decoder(name, stage, str(args.tuning), settings)
    if stage == "ppo":
        _check_critic(settings, trust_remote_code)
    return family


def _family(name: str, trust_remote_code: bool) -> Family:
    if name in (EMBEDDED, EMBEDDED_ENCODER):  # known without fetching them
        return "encoder" if name == EMBEDDED_ENCODER else "decoder"
    try:
        return family_of(load_config(name, trust_remote_code=trust_remote_code))
    except ModelError:  # a finished run needs its model no more; another one will say so on loading it
        return "decoder"


def _check_critic(settings: Any, trust_remote_code: bool) -> None:
    name = getattr(settings, "critic_init", None) or getattr(settings, "critic_model_name_or_path", None)
    if getattr(settings, "critic", None) != "model" or name is None:
        return
    if _family(name, trust_remote_code) == "encoder-decoder":
        raise ConfigError(
            f"the critic model {name} has an encoder and a decoder: take a decoder or an encoder with the policy's "
            "tokenizer, or --critic frozen, head or adapter"
        )


def _check_encoder_decoder(name: str, stage: str, tuning: str, settings: Any) -> None:
    what = f"{name} is an encoder-decoder"
    if stage == "dpo":
        raise ConfigError(
            f"{what}, and TRL's DPO is for decoders alone: take rlgen sft and rlgen ppo, which it can have"
        )
    if stage == "reward":
        raise ConfigError(
            f"{what}, and TRL's reward trainer scores one text: take a decoder, or an encoder such as "
            "embedded-encoder; PPO of an encoder-decoder takes either as --reward"
        )
    if tuning in DECODER_ONLY_TUNING:
        fitting = [other for other in STRATEGIES if other not in DECODER_ONLY_TUNING]
        reason = DECODER_ONLY_TUNING[find_strategy(tuning).name]
        raise ConfigError(f"{what}, where --tuning {tuning} does not work: {reason}; take {', '.join(fitting)}")
    for field, (sound, reason) in DECODER_ONLY_SFT.items() if stage == "sft" else ():
        if getattr(settings, field, sound[0]) not in sound:
            raise ConfigError(f"{what}, which --{field} does not go with: {reason}; leave it out")
    for field in ("use_vllm", "use_transformers_continuous_batching") if stage == "ppo" else ():
        if getattr(settings, field, False):
            raise ConfigError(f"{what}, which --{field} does not sample from: leave it out, and rlgen samples itself")
