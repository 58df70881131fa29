"""Small random models, built on the spot: for the smoke preset and for tests, where no weights may be fetched."""

import inspect
import textwrap
from pathlib import Path
from typing import Any, Literal

TinyFamily = Literal["llama", "gpt2", "qwen3", "smollm3", "gemma3", "t5", "bart", "bert2bert", "bert"]


def tiny_model(
    folder: str | Path,
    family: TinyFamily = "llama",
    *,
    layers: int = 4,
    hidden: int = 64,
    vocabulary: int = 1024,
    seed: int = 0,
) -> str:
    """Build a random model with its own tokenizer and save both as a plain transformers folder.

    Args:
        folder: where to save; returned as is when it holds a model already.
        family: architecture; "bert2bert" joins two encoders into an encoder-decoder, as EncoderDecoderModel does.
        layers: of the decoder, and as many of an encoder.
        hidden: hidden size, a multiple of 4.
        vocabulary: size of the byte-level BPE vocabulary, trained on a few standard-library sources.
        seed: seed of the random weights.

    Returns:
        The folder as a string.
    """
    folder = Path(folder)
    if (folder / "model.safetensors").is_file():
        return str(folder)

    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    tokenizer = _tiny_tokenizer(vocabulary, pairs=family == "bert")
    if family in ("t5", "bart", "bert2bert"):
        tokenizer.chat_template = None  # as theirs have none
    config = _tiny_config(family, layers, hidden, tokenizer)
    kinds = {"bert": AutoModelForMaskedLM}
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else kinds.get(family, AutoModelForCausalLM)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(config)
    if family != "bert":
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _tiny_config(family: TinyFamily, layers: int, hidden: int, tokenizer: Any) -> Any:
    from transformers import (
        BartConfig,
        BertConfig,
        EncoderDecoderConfig,
        Gemma3TextConfig,
        GPT2Config,
        LlamaConfig,
        Qwen3Config,
        SmolLM3Config,
        T5Config,
    )

    special: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "gpt2":
        return GPT2Config(n_embd=hidden, n_layer=layers, n_head=4, n_positions=2048, **special)
    if family == "t5":
        sizes = {"d_model": hidden, "d_kv": hidden // 4, "d_ff": 2 * hidden, "num_heads": 4, "num_layers": layers}
        return T5Config(**sizes, decoder_start_token_id=tokenizer.pad_token_id, **special)
    if family == "bart":
        sizes = {
            f"{part}_{key}": value
            for part in ("encoder", "decoder")
            for key, value in {"layers": layers, "attention_heads": 4, "ffn_dim": 2 * hidden}.items()
        }
        starts = {"decoder_start_token_id": tokenizer.eos_token_id, "forced_eos_token_id": None}
        return BartConfig(d_model=hidden, max_position_embeddings=512, **sizes, **starts, **special)
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }
    if family == "bert":
        return BertConfig(max_position_embeddings=512, **sizes, **special)
    if family == "bert2bert":
        parts = [BertConfig(max_position_embeddings=512, **sizes, **special) for _ in range(2)]
        joined = EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
        joined.decoder_start_token_id, joined.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
        joined.eos_token_id = tokenizer.eos_token_id
        return joined
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 2048, "tie_word_embeddings": True}
    if family == "gemma3":
        kinds = ["full_attention" if number % 2 else "sliding_attention" for number in range(layers)]
        return Gemma3TextConfig(head_dim=hidden // 4, sliding_window=16, layer_types=kinds, **sizes, **special)
    if family == "qwen3":
        return Qwen3Config(head_dim=hidden // 4, **sizes, **special)
    return SmolLM3Config(**sizes, **special) if family == "smollm3" else LlamaConfig(**sizes, **special)


def _tiny_tokenizer(vocabulary: int, pairs: bool = False) -> Any:
    from tokenizers import processors

    from rlgen.vocabulary import train_tokenizer

    wrapped = train_tokenizer([inspect.getsource(inspect), inspect.getsource(textwrap)], vocabulary)
    if pairs:  # an encoder's reads a text or two, between tokens of its own
        wrapped.add_special_tokens({"cls_token": "<|im_start|>", "sep_token": "<|im_end|>"})
        ends: list[tuple[str, Any]] = [
            (token, wrapped.convert_tokens_to_ids(token)) for token in ("<|im_end|>", "<|im_start|>")
        ]
        wrapped.backend_tokenizer.post_processor = processors.BertProcessing(*ends)
        wrapped.chat_template = None
    return wrapped
