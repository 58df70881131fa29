"""What sequences have in common is read once: keys and values of the tokens that a whole batch begins with.

Prompts of one task share their system prompt and instruction, often half of their tokens. Letters for shapes: N rows,
J key-value heads, P tokens of the common beginning, D head size.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

WORTHWHILE = 128  # tokens: what a pass through the model must spare to be worth its own overhead


def can_share_prompts(model: PreTrainedModel | PeftModel) -> bool:
    """Whether a decoder honors masks and positions of ours: full attention in every layer, by a kernel that does.

    Then several completions may stand behind one prompt, and several prompts behind one common beginning.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return (
        not inner.config.is_encoder_decoder
        and inner.config._attn_implementation in ("sdpa", "eager")
        and "position_ids" in inspect.signature(inner.base_model.forward).parameters
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=inner.config).layers)
    )


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the tokens that all sequences of a batch begin with; of none if they share too little."""

    length: int
    """P."""
    config: PreTrainedConfig
    """Of the model that has read them."""
    layers: list[tuple[Tensor, Tensor]]
    """Keys and values (1, J, P, D) of each layer, those of a learned prompt first."""
    learned: int = 0
    """Virtual tokens of a learned prompt, which stand before the P."""

    @property
    def total(self) -> int:
        """Positions that the cache holds."""
        return self.learned + self.length

    def cache(self, rows: int) -> DynamicCache:
        """A cache of `rows` sequences that have got so far. What follows does not change the prefix."""
        cache = DynamicCache(config=self.config)
        for number, (keys, values) in enumerate(self.layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
        return cache


def learned_prompt(model: Any) -> Prefix | None:
    """What a model's prompt tuning, P-tuning or prefix tuning puts before every sequence; None for other models.

    PEFT's own forward pass neither takes positions of ours nor a cache. With this cache the plain model below
    (`get_base_model()`) answers like it.

    Args:
        model: causal language model, PEFT-wrapped or not.
    """
    if not isinstance(model, PeftModel) or not model.active_peft_config.is_prompt_learning:
        return None
    base = model.get_base_model()
    prompt = model.get_prompt(1)
    cache = prompt
    if isinstance(prompt, Tensor):  # embeddings
        cache = DynamicCache(config=base.config)
        base.base_model(inputs_embeds=prompt.to(base.dtype), past_key_values=cache, use_cache=True)
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return Prefix(0, base.config, layers, model.active_peft_config.num_virtual_tokens)


@torch.no_grad()
def read_prefix(model: Any, sequences: Sequence[Sequence[int]]) -> Prefix:
    """Read the common beginning of tokenized sequences; at least one token of each is left.

    Args:
        model: causal language model or its decoder, in evaluation mode.
        sequences: token ids, none empty.
    """
    length = common_length(sequences)
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    start = learned_prompt(model) or Prefix(0, inner.config, [])
    if length * (len(sequences) - 1) < WORTHWHILE or not can_share_prompts(model):
        return start
    device = next(model.parameters()).device
    cache = start.cache(1)
    ids = torch.tensor([list(sequences[0][:length])], device=device)
    inner.base_model(input_ids=ids, past_key_values=cache, use_cache=True)  # the decoder: no logits are needed
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return Prefix(length, inner.config, layers, start.learned)


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all of several sequences begin with, less than any of them has."""
    if len(sequences) < 2:
        return 0
    ordered = sorted(map(tuple, sequences))
    first, last = ordered[0], ordered[-1]  # all others lie between them
    shortest = min(map(len, sequences))
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), shortest)
    return min(same, shortest - 1)
