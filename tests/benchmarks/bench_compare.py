"""A comparison against calling transformers' `generate` for each checkpoint: time, and equal completions.

    python tests/benchmarks/bench_compare.py --checkpoints base=embedded sft=runs/sft ppo=runs/ppo dpo=runs/dpo \
        --out bench_compare.json

Both read the same held-out prompts of the docstring task and write the most likely completion of up to 48 tokens, in
bfloat16. In bfloat16 another composition of batches rounds differently, so that some completions diverge; `--dtype
float32` shows that nothing else makes them. transformers gets batches of 16 in the order of the rows, as a plain
script has them, the checkpoint loaded once and an adapter merged. rlgen runs its own comparison: loading, generation
with its cache, a metric, statistics and results. Then a second comparison in the same folder with one more metric,
which must generate nothing.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import rlgen.models
from rlgen.evaluation.checkpoints import open_checkpoints, parse_named
from rlgen.evaluation.compare import compare
from rlgen.evaluation.generations import Sampling
from rlgen.evaluation.measures import Measure
from rlgen.evaluation.metrics import rouge_l
from rlgen.generation import render_prompts
from rlgen.memory import release_memory
from rlgen.models import load_policy, load_tokenizer
from rlgen.tasks import get_task

BATCH = 16
ROUGE = Measure("rouge_l", "ROUGE-L.", "metric", True, rouge_l)


def characters(completions: list[Any], **_: Any) -> list[float]:
    """Letters of the completion: a metric that costs nothing by itself."""
    return [float(len(completion[-1]["content"])) for completion in completions]


@torch.inference_mode()
def transformers_texts(path: str, prompts: list[Any], tokens: int, dtype: str) -> list[str]:
    tokenizer = load_tokenizer(path)
    tokenizer.padding_side = "left"
    model = load_policy(path, dtype=dtype)
    model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    model.eval()
    texts = []
    rendered = render_prompts(tokenizer, prompts)
    for start in range(0, len(rendered), BATCH):
        batch = tokenizer(rendered[start : start + BATCH], return_tensors="pt", padding=True, add_special_tokens=False)
        written = model.generate(**batch, max_new_tokens=tokens, do_sample=False)
        texts += tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", nargs="+", required=True, help="NAME=PATH")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--max_new_tokens", type=int, default=48)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rlgen.models.training_dtype = lambda: getattr(torch, args.dtype)  # a comparison takes what the machine is fast in
    named = parse_named(args.checkpoints, "--checkpoints")
    rows = get_task("docstring").split("heldout", args.prompts)
    sampling = Sampling(0.0, 1, args.max_new_tokens, 0)
    result: dict[str, Any] = {"checkpoints": named, "prompts": len(rows), "threads": torch.get_num_threads()}
    result |= {"torch": torch.__version__, "dtype": args.dtype}

    with tempfile.TemporaryDirectory() as folder:

        def ours_of(*measures: Measure) -> dict[str, Any]:
            return compare(open_checkpoints(named), rows, [sampling], measures, folder=folder, batch_size=64)

        began = time.perf_counter()
        ours = ours_of(ROUGE)
        result["rlgen_seconds"] = time.perf_counter() - began
        began = time.perf_counter()
        ours_of(ROUGE, Measure("characters", "Letters.", "metric", None, characters))
        result["again_with_one_more_metric_seconds"] = time.perf_counter() - began
    release_memory()

    theirs = {}
    began = time.perf_counter()
    for name, path in named.items():
        theirs[name] = transformers_texts(path, list(rows["prompt"]), args.max_new_tokens, args.dtype)
        release_memory()
    result["transformers_seconds"] = time.perf_counter() - began
    result["ratio"] = result["transformers_seconds"] / result["rlgen_seconds"]
    result["equal_completions"] = {
        name: sum(
            sample["completions"][name][0]["text"] == text
            for sample, text in zip(ours["samples"], theirs[name], strict=True)
        )
        / len(rows)
        for name in named
    }
    args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
