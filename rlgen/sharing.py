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
    """Whether the model honors masks and positions of ours: full attention in every layer, by a kernel that does.

    Then several completions may stand behind one prompt, and several prompts behind one common beginning.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return (
        inner.config._attn_implementation in ("sdpa", "eager")
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
    """Keys and values (1, J, P, D) of each layer."""

    def cache(self, rows: int) -> DynamicCache:
        """A cache of `rows` sequences that have got so far. What follows does not change the prefix."""
        cache = DynamicCache(config=self.config)
        for number, (keys, values) in enumerate(self.layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
        return cache


@torch.no_grad()
def read_prefix(model: Any, sequences: Sequence[Sequence[int]]) -> Prefix:
    """Read the common beginning of tokenized sequences; at least one token of each is left.

    Args:
        model: causal language model or its decoder, in evaluation mode.
        sequences: token ids, none empty.
    """
    length = common_length(sequences)
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if length * (len(sequences) - 1) < WORTHWHILE or not can_share_prompts(model):
        return Prefix(0, inner.config, [])
    device = next(model.parameters()).device
    cache = DynamicCache(config=inner.config)
    ids = torch.tensor([list(sequences[0][:length])], device=device)
    inner.base_model(input_ids=ids, past_key_values=cache, use_cache=True)  # the decoder: no logits are needed
    return Prefix(length, inner.config, [(layer.keys, layer.values) for layer in cache.layers])


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all of several sequences begin with, less than any of them has."""
    if len(sequences) < 2:
        return 0
    ordered = sorted(map(tuple, sequences))
    first, last = ordered[0], ordered[-1]  # all others lie between them
    shortest = min(map(len, sequences))
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), shortest)
    return min(same, shortest - 1)
