"""Memory and speed of a five-member ensemble against a single reward model, each measured in a process of its own.

    python tests/benchmarks/bench_reward_models.py
    python tests/benchmarks/bench_reward_models.py --lora_r 16 --dtype float32

What is trained plays no part in memory, so the members get random weights. The single reward model is a plain
folder, as the recipe writes it; the ensemble puts five LoRA adapters with their heads on the same base. Three figures
each: bytes of parameters and buffers, resident memory of the process with the model loaded, and its peak after
scoring. The base is the embedded model unless another is named. About two minutes on two idle cores.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 1.15


def build(base: str, folder: Path, members: int, rank: int, dtype: str) -> None:
    """A single reward model and an ensemble, with random adapters and heads."""
    import torch
    from peft import get_peft_model

    from rlgen.config import ModelArguments
    from rlgen.models import load_reward_model, load_tokenizer, resolve_model, save_model
    from rlgen.rewards.ensemble import write_ensemble
    from rlgen.tuning import peft_config

    base = resolve_model(base)
    tokenizer = load_tokenizer(base)
    save_model(load_reward_model(base, dtype=dtype), tokenizer, folder / "single", merge=False)
    arguments = ModelArguments(model_name_or_path=base, lora_r=rank, lora_alpha=2 * rank)
    for number in range(members):
        torch.manual_seed(number)
        model = load_reward_model(base, dtype=dtype)
        config = peft_config(arguments, model, "SEQ_CLS")
        save_model(get_peft_model(model, config), tokenizer, folder / "ensemble" / f"member_{number}", merge=False)
        del model
    write_ensemble(folder / "ensemble", base, [f"member_{number}" for number in range(members)])


def measure(folder: str, dtype: str, rows: int) -> dict[str, float]:
    """Load one reward in this process, score some rows, and say what it took."""
    import torch

    from rlgen.rewards.model import load_model_reward

    torch.set_num_threads(1)
    before = resident()
    reward = load_model_reward(folder, dtype=dtype, device="cpu")
    tensors = {
        t.data_ptr(): t.numel() * t.element_size() for t in [*reward.model.parameters(), *reward.model.buffers()]
    }
    for parameter in reward.model.parameters():  # weights mapped from a file count once they are read
        parameter.sum()
    loaded = resident()
    prompts = [
        f"Question {row % 8}: what does this function do? " + "def f(x): return x + 1; " * 8 for row in range(rows)
    ]
    completions = [f" It adds {row} to its argument." for row in range(rows)]
    start = time.perf_counter()
    reward(prompts, completions)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "tensors": sum(tensors.values()),
        "libraries": before,
        "resident": loaded,
        "peak": peak,
        "rows_per_second": rows / seconds,
    }


def resident() -> int:
    """Resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> int:
    """Build, measure each in a fresh process, print a table, and fail beyond the limit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", default="embedded", help="model folder, hub id, embedded or embedded-encoder")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--lora_r", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", type=int, default=16, help="rows that are scored")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.dtype, args.rows)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build(args.base, folder, args.members, args.lora_r, args.dtype)
        found = {}
        for name in ("single", "ensemble"):
            command = [sys.executable, __file__, "--measure", str(folder / name), "--dtype", args.dtype]
            command += ["--rows", str(args.rows)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name] = json.loads(done.stdout.strip().splitlines()[-1])
    single, ensemble = found["single"], found["ensemble"]
    print(f"{args.base}, {args.dtype}, {args.members} members of rank {args.lora_r}, {args.rows} rows, one thread")
    print(f"{'':<34}{'single':>10}{'ensemble':>10}{'ratio':>8}")
    labels = {
        "tensors": "parameters and buffers, MB",
        "resident": "process with the model, MB",
        "peak": "process's peak while scoring, MB",
    }
    for key, label in labels.items():
        ratio = ensemble[key] / single[key]
        print(f"{label:<34}{single[key] / 1e6:>10.0f}{ensemble[key] / 1e6:>10.0f}{ratio:>8.3f}")
    model = [entry["resident"] - entry["libraries"] for entry in (single, ensemble)]
    print(
        f"{'process less its libraries, MB':<34}{model[0] / 1e6:>10.0f}{model[1] / 1e6:>10.0f}"
        f"{model[1] / model[0]:>8.3f}"
    )
    speed = [entry["rows_per_second"] for entry in (single, ensemble)]
    print(f"{'rows per second':<34}{speed[0]:>10.1f}{speed[1]:>10.1f}{speed[1] / speed[0]:>8.3f}")
    worst = max(ensemble[key] / single[key] for key in labels)
    print(f"largest ratio of memory {worst:.3f}, at most {LIMIT} {'holds' if worst <= LIMIT else 'DOES NOT HOLD'}")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
