"""The machine's matrix-multiply limit at shapes of the policy: `python gemm.py HIDDEN INTERMEDIATE DEVICE`.

Prints GFLOP/s (2 * m * k * n operations a product) as JSON: "wide" for 2,048 tokens at once as in scoring and updates,
"decode" for 64 rows of one token as in a rollout; the map is the MLP's first one. The best of several tries counts.
"""

import json
import sys
import time

import torch

ROWS = {"wide": 2048, "decode": 64}


def gflops(rows: int, hidden: int, intermediate: int, dtype: torch.dtype, device: str) -> float:
    inputs = torch.randn(rows, hidden, device=device, dtype=dtype)
    weight = torch.randn(intermediate, hidden, device=device, dtype=dtype)
    operations = 2 * rows * hidden * intermediate
    repeats = max(4, int(5e9 / operations))
    best = float("inf")
    for _ in range(5):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            torch.nn.functional.linear(inputs, weight)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return operations * repeats / best / 1e9


def main() -> None:
    hidden, intermediate, device = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    with torch.inference_mode():
        measured = {
            name: {
                str(dtype).removeprefix("torch."): gflops(rows, hidden, intermediate, dtype, device)
                for dtype in (torch.bfloat16, torch.float32)
            }
            for name, rows in ROWS.items()
        }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
