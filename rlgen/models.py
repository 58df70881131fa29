"""Load and save policies, reward models and tokenizers: hub id, local folder, adapter folder or the embedded model."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import HFValidationError
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSeq2SeqLM, PeftModel
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlgen.bottleneck import BottleneckType
from rlgen.embedded import embedded_encoder, embedded_model
from rlgen.errors import ModelError
from rlgen.tiny import tiny_model

__all__ = [
    "Family",
    "can_merge",
    "family_of",
    "is_adapter",
    "load_config",
    "load_masked_model",
    "load_policy",
    "load_reward_model",
    "load_tokenizer",
    "resolve_model",
    "save_model",
    "starting_model",
    "tiny_model",
    "training_dtype",
]

logger = logging.getLogger(__name__)

Family = Literal["decoder", "encoder-decoder", "encoder"]
EMBEDDED = "embedded"
# Adapters that a plain model has no place for.
UNMERGEABLE = frozenset({"PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "BEFT", BottleneckType.BOTTLENECK.value})
EMBEDDED_ENCODER = "embedded-encoder"
# What an encoder-decoder without a chat template encodes of messages: their contents, a line each, and the eos token.
ENCODER_TEMPLATE = "{{ messages | map(attribute='content') | join('\n') }}{{ eos_token }}"


def training_dtype() -> torch.dtype:
    """bfloat16 where the device multiplies it fast (recent GPUs, CPUs with avx512_bf16 or AMX), else float32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def is_adapter(path: str | Path) -> bool:
    """Whether `path` is a local folder with a PEFT adapter."""
    return (Path(path) / "adapter_config.json").is_file()


def resolve_model(name_or_path: str) -> str:
    """Turn a model name into what `from_pretrained` takes.

    "embedded" and "embedded-encoder" are fetched, and the former converted, at their first use.

    Raises:
        ModelError: a local path that is missing or holds no model, or the embedded model cannot be had.
    """
    if name_or_path == EMBEDDED:
        return embedded_model()
    if name_or_path == EMBEDDED_ENCODER:
        return embedded_encoder()
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not is_adapter(path):
            raise ModelError(
                f"{name_or_path} holds no model: neither config.json nor adapter_config.json is there; "
                "give the folder that a stage wrote its model to, or a hub id"
            )
        if not any(path.glob("*.safetensors")):
            raise ModelError(
                f"{name_or_path} holds no *.safetensors file; convert older weights with "
                "save_pretrained(..., safe_serialization=True) first"
            )
        return str(path.resolve())
    looks_local = path.is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.count("/") > 1
    if looks_local or path.exists():
        raise ModelError(f"there is no model folder {name_or_path}; check the path, or run the stage that writes it")
    return name_or_path


def load_tokenizer(
    name_or_path: str, *, trust_remote_code: bool = False, needs_eos: bool = True
) -> PreTrainedTokenizerBase:
    """Tokenizer with left padding and a pad token (a token other than eos where the vocabulary has one).

    An encoder-decoder's has a chat template, if need be one that joins the messages.

    Args:
        name_or_path: where from.
        trust_remote_code: run code that ships with a hub model.
        needs_eos: whether its model generates; an encoder ends texts with its separator and needs no eos token.

    Raises:
        ModelError: it cannot be found or read.
    """
    resolved = resolve_model(name_or_path)
    if is_adapter(resolved) and not (Path(resolved) / "tokenizer_config.json").is_file():
        resolved = resolve_model(adapter_base(resolved))
    with _clear_errors("tokenizer", name_or_path):
        tokenizer = AutoTokenizer.from_pretrained(resolved, trust_remote_code=trust_remote_code, padding_side="left")
    bare = tokenizer.chat_template is None and not is_adapter(resolved)
    if bare and load_config(resolved, trust_remote_code=trust_remote_code).is_encoder_decoder:
        tokenizer.chat_template = ENCODER_TEMPLATE  # rows of messages are for it as for any model
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.eos_token_id is None and (needs_eos or tokenizer.sep_token_id is None):
        raise ModelError(f"the tokenizer of {name_or_path} has no eos token, so a completion can never end; set one")
    return tokenizer


def load_config(name_or_path: str, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Configuration of a model, of an adapter folder that of its base; no weights are read.

    Args:
        name_or_path: as for `load_policy`.
        trust_remote_code: run code that ships with a hub model.

    Raises:
        ModelError: it cannot be found or read.
    """
    resolved = resolve_model(name_or_path)
    if is_adapter(resolved):
        resolved = resolve_model(adapter_base(resolved))
    with _clear_errors("model", name_or_path):
        return AutoConfig.from_pretrained(resolved, trust_remote_code=trust_remote_code)


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a model; what could be an encoder or a decoder is an encoder unless it says otherwise."""
    if config.is_encoder_decoder:
        return "encoder-decoder"
    fills_gaps = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    return "encoder" if fills_gaps else "decoder"


def load_policy(
    name_or_path: str,
    *,
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    merge: bool = False,
    **kwargs: Any,
) -> PreTrainedModel | PeftModel:
    """Decoder or encoder-decoder from a hub id, a folder, an adapter folder, or "embedded".

    Args:
        name_or_path: where from.
        dtype: "auto" for `training_dtype()`, else a torch dtype or its name.
        trust_remote_code: run code that ships with a hub model.
        attn_implementation: attention kernel of transformers, e.g. "sdpa".
        merge: merge an adapter into its base, so that a plain model comes back.
        **kwargs: further arguments of `from_pretrained`.

    Raises:
        ModelError: it cannot be found or read, or is an encoder.
    """
    resolved = resolve_model(name_or_path)
    if merge and is_adapter(resolved):
        _require_mergeable(resolved)
    options = {"dtype": _dtype(dtype), "trust_remote_code": trust_remote_code, "use_safetensors": True, **kwargs}
    if attn_implementation:
        options["attn_implementation"] = attn_implementation
    family = family_of(load_config(name_or_path, trust_remote_code=trust_remote_code))
    if family == "encoder":
        raise ModelError(f"{name_or_path} is an encoder, which writes no text: take a decoder or an encoder-decoder")
    both = family == "encoder-decoder"
    with _clear_errors("model", name_or_path):
        if not is_adapter(resolved):
            plain = AutoModelForSeq2SeqLM if both else AutoModelForCausalLM
            return plain.from_pretrained(resolved, **options)
        adapted = AutoPeftModelForSeq2SeqLM if both else AutoPeftModelForCausalLM
        model = adapted.from_pretrained(resolved, **options)
        return model.merge_and_unload() if merge else model


def load_reward_model(
    name_or_path: str,
    *,
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
    num_labels: int = 1,
    **kwargs: Any,
) -> PreTrainedModel:
    """Sequence classifier with one score: a trained reward model, or a causal model with a fresh score head.

    Args:
        name_or_path: where from.
        dtype: "auto" for `training_dtype()`, else a torch dtype or its name.
        trust_remote_code: run code that ships with a hub model.
        num_labels: outputs of the score head.
        **kwargs: further arguments of `from_pretrained`.

    Raises:
        ModelError: it cannot be found or read.
    """
    resolved = resolve_model(name_or_path)
    if is_adapter(resolved):
        raise ModelError(
            f"{name_or_path} is an adapter folder; a reward model is loaded from a plain folder: merge it first"
        )
    with _clear_errors("reward model", name_or_path):
        model = AutoModelForSequenceClassification.from_pretrained(
            resolved,
            dtype=_dtype(dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            num_labels=num_labels,
            **kwargs,
        )
    return model


def load_masked_model(
    name_or_path: str, *, dtype: str | torch.dtype = "auto", trust_remote_code: bool = False, **kwargs: Any
) -> PreTrainedModel:
    """Encoder with the head that predicts masked tokens, from a hub id or a plain folder.

    Args:
        name_or_path: where from.
        dtype: "auto" for `training_dtype()`, else a torch dtype or its name.
        trust_remote_code: run code that ships with a hub model.
        **kwargs: further arguments of `from_pretrained`.

    Raises:
        ModelError: it cannot be found or read.
    """
    options = {"dtype": _dtype(dtype), "trust_remote_code": trust_remote_code, "use_safetensors": True, **kwargs}
    with _clear_errors("model", name_or_path):
        return AutoModelForMaskedLM.from_pretrained(resolve_model(name_or_path), **options)


def starting_model(name_or_path: str, output_dir: str | Path, *, trust_remote_code: bool = False) -> str:
    """The plain model that training starts from, on disk or on the hub, so that an adapter trained on it has a base.

    Args:
        name_or_path: as for `load_policy`; an adapter folder is merged into `output_dir/base`.
        output_dir: folder of the run.
        trust_remote_code: run code that ships with a hub model.

    Returns:
        What `load_policy` takes; a local folder as an absolute path.

    Raises:
        ModelError: it cannot be found, or is an adapter that no plain model can take in.
    """
    resolved = resolve_model(name_or_path)
    if not is_adapter(resolved):
        return resolved
    _require_mergeable(resolved)
    merged = Path(output_dir).resolve() / "base"
    if not (merged / "config.json").is_file():
        model = load_policy(resolved, trust_remote_code=trust_remote_code)
        save_model(model, load_tokenizer(resolved, trust_remote_code=trust_remote_code), merged, merge=True)
    return str(merged)


def adapter_base(path: str | Path) -> str:
    """Name or path of the base model that an adapter folder was trained on."""
    base = json.loads((Path(path) / "adapter_config.json").read_text()).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{path}/adapter_config.json names no base model; set base_model_name_or_path there")
    return str(base)


def can_merge(model: PreTrainedModel | PeftModel) -> bool:
    """Whether a model has an adapter that can become part of its base: a linear one, on weights not in 4 bits."""
    if not isinstance(model, PeftModel) or getattr(model.get_base_model(), "is_quantized", False):
        return False
    return str(getattr(model.active_peft_config.peft_type, "value", "")) not in UNMERGEABLE


def _require_mergeable(folder: str) -> None:
    kind = json.loads((Path(folder) / "adapter_config.json").read_text()).get("peft_type")
    if kind in UNMERGEABLE:
        raise ModelError(
            f"{folder} holds an adapter of type {kind}, which no plain model can take in: compare it, or start from "
            "its base model; a stage that others start from takes another --tuning, for example lora"
        )


def save_model(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path, *, merge: bool
) -> None:
    """Save model files and tokenizer into `folder`, each file complete or absent.

    Args:
        model: plain or PEFT model.
        tokenizer: saved beside it, with its chat template.
        folder: target; other files in it stay.
        merge: write a plain model with the adapter merged in (float32 arithmetic, stored in the model's dtype);
            the model in memory is changed by it. An adapter that cannot be merged is saved as it is.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ".saving"
    shutil.rmtree(aside, ignore_errors=True)
    if merge and can_merge(model):
        dtype = model.get_base_model().dtype
        model = model.float().merge_and_unload().to(dtype)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    for file in sorted(aside.iterdir(), key=lambda file: file.name in ("config.json", "adapter_config.json")):
        os.replace(file, folder / file.name)  # the file that makes it a model comes last
    aside.rmdir()


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype in ("auto", None):
        return training_dtype()
    resolved = getattr(torch, str(dtype), None)
    if not isinstance(resolved, torch.dtype):
        raise ModelError(f"unknown dtype {dtype!r}; use auto, float32, bfloat16 or float16")
    return resolved


@contextmanager
def _clear_errors(what: str, name: str) -> Iterator[None]:
    """Turn the libraries' long tracebacks about files into one line that names the model."""
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError, HFValidationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"cannot load the {what} {name}: {reason} (a hub id needs a network and, if gated, a login; "
            "a folder needs config.json, *.safetensors and tokenizer files)"
        ) from error
