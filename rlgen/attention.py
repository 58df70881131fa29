"""Attention for decoding on CPUs: few new tokens a row against many cached ones.

torch's fused kernel is made for long queries: it takes keys and values repeated for every head of a group and, with a
handful of queries, spends its time on preparing them. Two batched products over the cached keys and values as they
are take a fraction of that (`tests/benchmarks/bench_attention.py`).

Letters for shapes: N rows, H heads, J key-value heads, A new tokens, K cached tokens, D head size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

DECODE = "rlgen_decode"


def decode_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention with the interface of transformers' attention functions.

    Args:
        module: attention layer.
        query: (N, H, A, D).
        key: (N, J, K, D), J divides H.
        value: (N, J, K, D).
        attention_mask: (N, 1, A, K), True where a token is seen; None for all.
        scaling: of the scores; None for 1 / sqrt(D).
        **kwargs: what layers of some families add; with any of it that changes the scores, transformers' own function
            answers.

    Returns:
        (N, A, H, D), and no attention weights.
    """
    if any(kwargs.get(name) is not None for name in ("position_bias", "s_aux", "softcap")):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    n, heads, new, size = query.shape
    groups = key.shape[1]
    queries = query.reshape(n * groups, heads // groups * new, size)  # a group's heads share one product
    scores = torch.bmm(queries, key.reshape(n * groups, -1, size).transpose(1, 2)).float()
    scores = scores.view(n, groups, heads // groups, new, -1) * (size**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores.masked_fill_(~attention_mask[:, :, None], torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1).to(value.dtype).view(n * groups, heads // groups * new, -1)
    output = torch.bmm(weights, value.reshape(n * groups, -1, value.shape[-1]))
    return output.view(n, heads, new, -1).transpose(1, 2), None


AttentionInterface.register(DECODE, decode_attention)


@contextmanager
def fast_decoding(model: PreTrainedModel) -> Iterator[None]:
    """Let a model on a CPU use `decode_attention` in place of sdpa, where its family takes functions from outside."""
    kernel = model.config._attn_implementation
    if kernel != "sdpa" or model.device.type != "cpu" or not model._supports_attention_backend:
        yield
        return
    model.config._attn_implementation = DECODE
    try:
        yield
    finally:
        model.config._attn_implementation = kernel
