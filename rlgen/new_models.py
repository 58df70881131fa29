"""New models: the sizes that a user asks for, an architecture of transformers, and which objective it is for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlgen.errors import ConfigError
from rlgen.models import family_of

Objective = Literal["causal", "masked"]
OBJECTIVES = ("causal", "masked")
DEFAULT_TYPES = {"causal": "llama", "masked": "bert"}
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")


@dataclass
class ArchitectureArguments:
    """The sizes of a new model."""

    model_type: str | None = field(
        default=None,
        metadata={"help": "Architecture of a new model, as transformers names it; default llama, for masked bert."},
    )
    hidden_size: int = field(default=256, metadata={"help": "Width of a new model."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Layers of a new model."})
    num_attention_heads: int = field(default=4, metadata={"help": "Attention heads a layer of a new model."})
    intermediate_size: int | None = field(
        default=None, metadata={"help": "Units between a layer's feed-forward maps; default 4 times the width."}
    )
    max_position_embeddings: int = field(default=1024, metadata={"help": "Longest text of a new model, in tokens."})
    config_overrides: str | None = field(
        default=None,
        metadata={"help": "Further settings of a new model's configuration: name=value,name=value; they win."},
    )

    def __post_init__(self) -> None:
        """Refuse sizes that make no model."""
        for name in SIZES:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}"
            )


def check_objective(config: PreTrainedConfig, objective: str, name: str) -> None:
    """Refuse an architecture that the objective is not for.

    Args:
        config: of the model.
        objective: "causal" or "masked".
        name: of the model, for the message.

    Raises:
        ConfigError: the other objective, or neither, is the right one.
    """
    family = family_of(config)
    what = "language model" if family == "decoder" and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING else family
    if what == {"masked": "encoder", "causal": "decoder"}[objective]:
        return
    remedies = {"encoder": "take --objective masked, or ", "decoder": "take --objective causal, or "}
    remedy = remedies.get(what, "")
    wanted = "an encoder such as BERT" if objective == "masked" else "a decoder such as Llama"
    verb = "is no" if what == "language model" else "is an" if what[0] == "e" else "is a"
    raise ConfigError(f"{name} ({config.model_type}) {verb} {what}: {remedy}for --objective {objective} {wanted}")


def new_config(
    sizes: ArchitectureArguments, objective: Objective, tokenizer: PreTrainedTokenizerBase | None = None
) -> PreTrainedConfig:
    """Configuration of a new model.

    Args:
        sizes: what the user asked for.
        objective: what the model will be trained for.
        tokenizer: gives the vocabulary's size and the special tokens; None to check the rest before there is one.

    Raises:
        ConfigError: an unknown architecture or setting, or sizes that do not fit together.
    """
    name = sizes.model_type or DEFAULT_TYPES[objective]
    if name not in CONFIG_MAPPING:
        near = difflib.get_close_matches(name, list(CONFIG_MAPPING), n=1)
        hint = f"did you mean {near[0]}?" if near else "take for example llama, gpt2, bert or modernbert"
        raise ConfigError(f"--model_type {name} is unknown to transformers: {hint}")
    usual = AutoConfig.for_model(name)
    check_objective(usual, objective, f"--model_type {name}")
    wanted: dict[str, Any] = {
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.num_hidden_layers,
        "num_attention_heads": sizes.num_attention_heads,
        "intermediate_size": sizes.intermediate_size,
        "max_position_embeddings": sizes.max_position_embeddings,
        "tie_word_embeddings": True,
    }
    if getattr(usual, "num_key_value_heads", None):
        wanted["num_key_value_heads"] = sizes.num_attention_heads
    if getattr(usual, "head_dim", None):
        wanted["head_dim"] = sizes.hidden_size // sizes.num_attention_heads
    if hasattr(usual, "intermediate_size"):
        wanted["intermediate_size"] = sizes.intermediate_size or 4 * sizes.hidden_size
    elif sizes.intermediate_size is None:
        del wanted["intermediate_size"]  # such an architecture has a width of its own
    wanted |= _overrides(sizes.config_overrides)
    unknown = [key for key in wanted if not hasattr(usual, key)]
    if unknown:
        raise ConfigError(f"the configuration of {name} has no {unknown[0]}: see transformers' {type(usual).__name__}")
    if tokenizer is not None:
        wanted["vocab_size"] = len(tokenizer)
    for token in ("pad", "bos", "eos", "cls", "sep"):
        if hasattr(usual, f"{token}_token_id"):
            wanted[f"{token}_token_id"] = getattr(tokenizer, f"{token}_token_id", None)
    try:
        return AutoConfig.for_model(
            name, **{usual.attribute_map.get(key, key): value for key, value in wanted.items()}
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"no {name} can be made of these sizes: {' '.join(str(error).split())}") from error


def new_model(config: PreTrainedConfig, objective: Objective) -> PreTrainedModel:
    """Model with random float32 weights, drawn from torch's global random numbers.

    Args:
        config: see `new_config`.
        objective: decides the head.

    Raises:
        ConfigError: the sizes do not fit together.
    """
    kind = AutoModelForMaskedLM if objective == "masked" else AutoModelForCausalLM
    try:
        model = kind.from_config(config, dtype=torch.float32)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"no {config.model_type} can be made of these sizes: {' '.join(str(error).split())}"
        ) from error
    if objective == "causal":
        model.generation_config.eos_token_id = config.eos_token_id
        model.generation_config.pad_token_id = config.pad_token_id
    return model


def longest_block(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> int | None:
    """How many tokens a model can read, None where nothing says so.

    Args:
        config: of the model.
        tokenizer: knows where positions are numbered from 2 on, as RoBERTa's are.
    """
    limits = [getattr(config.get_text_config(), "max_position_embeddings", None)]
    if tokenizer is not None:
        limits.append(tokenizer.model_max_length)
    return min((limit for limit in limits if limit), default=None)


def _overrides(text: str | None) -> dict[str, Any]:
    """Settings out of "name=value,name=value", as numbers and truth values where they look like them."""
    words = {"true": True, "false": False, "none": None}
    found: dict[str, Any] = {}
    for part in filter(None, (text or "").split(",")):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (name and equals and value):
            raise ConfigError(f"--config_overrides: '{part}' is not name=value")
        if name == "vocab_size" or name.endswith("_token_id"):
            raise ConfigError(f"--config_overrides: {name} is the tokenizer's, so leave it out")
        found[name] = words.get(value.lower(), value)
        for number in (int, float):
            try:
                found[name] = number(value)
                break
            except ValueError:
                continue
    return found
