"""How long one decoding step's attention takes: rlgen's two batched products against torch's fused kernel, on a CPU.

    python tests/benchmarks/bench_attention.py

Shapes are those of SmolLM2-135M (9 heads, 3 key-value heads, head size 64) in bfloat16: rows, new tokens a row, cached
tokens. Median of 50 calls after 5; prints a Markdown table.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlgen.attention import decode_attention

SHAPES = ((8, 8, 350), (16, 4, 300), (64, 1, 230), (32, 2, 230), (4, 2, 150))
HEADS, GROUPS, SIZE = 9, 3, 64


class Layer(torch.nn.Module):
    """What transformers' function asks of an attention layer."""

    num_key_value_groups = HEADS // GROUPS
    is_causal = False


def milliseconds(function: Callable[..., Any], *inputs: Any) -> float:
    times = []
    for _ in range(55):
        began = time.perf_counter()
        function(Layer(), *inputs, scaling=SIZE**-0.5)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[5:])


@torch.no_grad()
def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| rows | new | cached | fused kernel, ms | two products, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for rows, new, cached in SHAPES:
        query = torch.randn(rows, HEADS, new, SIZE, dtype=torch.bfloat16)
        key, value = torch.randn(2, rows, GROUPS, cached, SIZE, dtype=torch.bfloat16)
        visible = torch.rand(rows, 1, new, cached) > 0.3
        fused = milliseconds(sdpa_attention_forward, query, key, value, visible)
        ours = milliseconds(decode_attention, query, key, value, visible)
        print(f"| {rows} | {new} | {cached} | {fused:.2f} | {ours:.2f} | {fused / ours:.1f} |")


if __name__ == "__main__":
    main()
