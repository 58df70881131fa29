"""Small random models, built on the spot: for the smoke preset and for tests, where no weights may be fetched."""

import inspect
import textwrap
from pathlib import Path
from typing import Any, Literal

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_model(
    folder: str | Path,
    family: Literal["llama", "gpt2"] = "llama",
    *,
    layers: int = 4,
    hidden: int = 64,
    vocabulary: int = 1024,
    seed: int = 0,
) -> str:
    """Build a random causal language model with its own tokenizer and save both as a plain transformers folder.

    Args:
        folder: where to save; returned as is when it holds a model already.
        family: architecture, "llama" or "gpt2".
        layers: decoder layers.
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
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    tokenizer = _tiny_tokenizer(vocabulary)
    special: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config: LlamaConfig | GPT2Config
    if family == "llama":
        config = LlamaConfig(
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            **special,
        )
    else:
        config = GPT2Config(n_embd=hidden, n_layer=layers, n_head=4, n_positions=2048, **special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _tiny_tokenizer(vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([inspect.getsource(inspect), inspect.getsource(textwrap)], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
