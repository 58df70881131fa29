"""A tiny T5 learns to write letters in reverse order: by SFT from nothing, then better by PPO; several seeds.

    python tests/benchmarks/encoder_decoder.py run --output_dir runs/reverse
    python tests/benchmarks/encoder_decoder.py table runs/reverse

`run` makes rows and a random model, trains both stages and compares them on held-out prompts through the recipes, for
each seed in a folder of its own; it goes on where it was interrupted. A seed decides the model's first weights, the
rows and the training. No prompt of a split is in another. `table` adds the seeds up.
"""

import argparse
import hashlib
import importlib
import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward_models._text import completion_text
from rlgen.models import load_tokenizer
from rlgen.tiny import tiny_model

LETTERS = "abcdef"
SPLITS = {"sft": 1200, "rl": 3000, "heldout": 256}
SFT = "--tuning full --learning_rate 5e-3 --num_train_epochs 24 --per_device_train_batch_size 64 --logging_steps 50"
PPO = (
    "--tuning full --learning_rate 1e-3 --total_episodes 10240 --per_device_train_batch_size 128 --num_generations 4 "
    "--steps_per_generation 2 --max_completion_length 7 --kl_coef 0.01 --lam 0.5 --critic_learning_rate 1e-3 "
    "--critic_warmup_rollouts 2 --logging_steps 8"
)
COMPARE = "--max_new_tokens 7"


def places(completion_ids: Sequence[Sequence[int]], reference_ids: Sequence[Sequence[int]], **_: Any) -> Any:
    """For each token its share of the whole if it stands where it should, the end included; else 0."""
    scores = []
    for ids, wanted in zip(completion_ids, reference_ids, strict=True):
        right = [a == b for a, b in zip(ids, wanted, strict=False)]
        scores.append([hit / len(wanted) for hit in right] + [0.0] * (len(ids) - len(right)))
    return scores


def exact(completions: Sequence[Any], reference: Sequence[str], **_: Any) -> list[float]:
    """1 for the right answer, 0 for any other."""
    pairs = zip(completions, reference, strict=True)
    return [float(completion_text(completion) == wanted) for completion, wanted in pairs]


def rows(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of each split; which split a prompt belongs to is decided by its text."""
    draw = random.Random(seed)
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in SPLITS}
    while any(len(found[name]) < count for name, count in SPLITS.items()):
        prompt = "".join(draw.choice(LETTERS) for _ in range(draw.randint(3, 5)))
        answer = prompt[::-1]
        place = int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 8
        name = "heldout" if place == 0 else "sft" if place < 3 else "rl"
        if len(found[name]) < SPLITS[name]:
            found[name][prompt] = {"prompt": prompt, "completion": answer, "reference": answer}
    return {name: list(by_prompt.values()) for name, by_prompt in found.items()}


def run(args: argparse.Namespace) -> None:
    """All seeds, one after the other."""
    for seed in args.seeds:
        folder = Path(args.output_dir) / f"seed{seed}"
        start = tiny_model(folder / "start", args.family, layers=2, vocabulary=259, seed=seed)
        tokenizer = load_tokenizer(start)
        for name, part in rows(seed).items():
            for row in part:
                ids = tokenizer(row["reference"], add_special_tokens=False)["input_ids"]
                row["reference_ids"] = [*ids, tokenizer.eos_token_id]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        sft, ppo, reward = folder / "sft", folder / "ppo", f"--reward {__file__}:exact"
        stages = {
            "sft": f"{SFT} --model_name_or_path {start} --dataset_name {folder}/sft.jsonl --save_strategy no",
            "ppo": f"{PPO} --model_name_or_path {sft} --dataset_name {folder}/rl.jsonl --save_strategy no "
            f"{reward} --token_reward {__file__}:places",
            "compare": f"{COMPARE} --checkpoints start={start} sft={sft} ppo={ppo} {reward} "
            f"--dataset_name {folder}/heldout.jsonl",
        }
        for name, words in stages.items():
            main = importlib.import_module(f"recipes.{name}").main
            main([*words.split(), "--seed", str(seed), "--output_dir", f"{folder}/{name}"])


def table(folder: Path) -> list[str]:
    """One row a seed and sampling, and the mean over seeds, as Markdown."""
    lines = [
        "| seed | sampling | exact, start | exact, SFT | exact, PPO | PPO - SFT (95% interval) |",
        f"|{'---|' * 6}",
    ]
    gains: dict[str, list[float]] = {}
    for each in sorted(folder.glob("seed*")):
        results = json.loads((each / "compare" / "results.json").read_text(encoding="utf-8"))
        found = {(r["a"], r["b"], r["sampling"]): r for r in results["comparisons"] if r["measure"] == "exact"}
        for sampling in sorted({key[2] for key in found}):
            first, gain = found["start", "sft", sampling], found["sft", "ppo", sampling]
            gains.setdefault(sampling, []).append(gain["difference"])
            cells = [each.name[4:], sampling, *(f"{m:.3f}" for m in (first["mean_a"], gain["mean_a"], gain["mean_b"]))]
            cells.append(f"{gain['difference']:+.3f} ({gain['ci_low']:+.3f} to {gain['ci_high']:+.3f})")
            lines.append(f"| {' | '.join(cells)} |")
    for sampling, each_gain in gains.items():
        spread = f"{min(each_gain):+.3f} to {max(each_gain):+.3f}"
        mean = f"{statistics.fmean(each_gain):+.3f}, seeds from {spread}"
        lines.append(f"| mean of {len(each_gain)} | {sampling} | | | | {mean} |")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--output_dir", required=True)
    running.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    running.add_argument("--family", default="t5", choices=["t5", "bart", "bert2bert"])
    showing = commands.add_parser("table")
    showing.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    if args.command == "run":
        run(args)
    else:
        print("\n".join(table(args.folder)))


if __name__ == "__main__":
    main()
